"""A signal along the steps of a sequence, in numbers: lists of log10, the first step first.

None stands for a signal that was too small for its number type, -inf for one that is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unvanish.trace.backward import walk, why_unsupported
from unvanish.trace.calls import Capture, Root
from unvanish.trace.scaled import LOG_ZERO, Scaled, norm_of
from unvanish.trace.tape import LOG10_2

Signal = Sequence[float | None]
SURE = 10.0
"""Decades above the smallest number of the type: a zero beside a signal that large has not been lost to rounding."""
MIDDLE = 1e-140
"""Norms from here to one over it are made of entries that float64 holds with all their digits, and so are squares."""
LAST = 10
"""The tenth of the steps at the end that sets the scale: the very last one may be masked or left out."""


def without_rounding(signal: Sequence[float], smallest: float) -> list[float | None]:
    """The signal with None where it is no longer a number of its type: below ``smallest``, log10 beside the largest.

    Zeros that begin where the signal has fallen near that limit were too small to be held; other zeros are true.
    """
    top = max(signal, default=LOG_ZERO)
    if top == LOG_ZERO:
        return list(signal)
    found: list[float | None] = [None if LOG_ZERO < s - top < smallest else s for s in signal]
    for order in (range(len(signal)), range(len(signal) - 1, -1, -1)):
        before: float | None = LOG_ZERO
        for place in order:
            here = found[place]
            if here == LOG_ZERO and before != LOG_ZERO and (before is None or before - top < smallest + SURE):
                found[place] = here = None
            before = here
    return found


def relative(signal: Signal) -> list[float | None]:
    """The signal beside the strongest of the last steps; beside the strongest of all where those have none."""
    tail = signal[-max(1, len(signal) // LAST) :]
    scale = max((s for s in tail if s is not None), default=LOG_ZERO)
    scale = scale if scale > LOG_ZERO else max((s for s in signal if s is not None), default=LOG_ZERO)
    return [None if s is None else s - scale if s > LOG_ZERO else LOG_ZERO for s in signal]


def gain_of(signal: Signal) -> float | None:
    """Decades a step back, from the last step that has a signal to the one of all where it is weakest.

    All the way back to the first where it grows by more than it falls, or has more than half of the fall back there:
    what a network reads from both ends, or all at once, is weak somewhere, and no step back makes it so. None where
    fewer than two steps have a signal.
    """
    known = [(s, place) for place, s in enumerate(signal) if s is not None and s > LOG_ZERO]
    if len(known) < 2:
        return None
    last, end = known[-1]
    least, place = min(known[:-1])
    if max(known[:-1])[0] - last > last - least or known[0][0] - least > 0.5 * (last - least):
        least, place = known[0]
    return (least - last) / (end - place)


def below(signal: Signal, limit: float) -> list[int]:
    """The steps whose signal is below 10^limit."""
    return [place for place, s in enumerate(signal) if s is None or s < limit]


def horizon_of(signal: Signal, limit: float, gain: float | None) -> int | None:
    """How many steps at the end of the sequence hear at least 10^limit; beyond its beginning by its gain from there.

    Last steps that nothing hears, masked or left out, are not counted. None where the signal does not fall.
    """
    faint = below(signal, limit)
    heard = max(set(range(len(signal))).difference(faint), default=-1)
    far = [place for place in faint if place < heard]
    if far or heard < 0:
        return heard - max(far, default=-1)
    first = signal[0] if signal else None
    if gain is None or not gain < 0.0 or first is None:
        return None
    steps = len(signal) - 1 + (limit - first) / gain
    return round(steps) if steps < 1e9 else None


def together(logs: Sequence[float]) -> float:
    """log10 of the norm of a vector whose parts have norms 10^x, x in ``logs``."""
    top = max(logs, default=LOG_ZERO)
    return top if not math.isfinite(top) else top + 0.5 * math.log10(sum(10.0 ** (2.0 * (x - top)) for x in logs))


Channel = Sequence[tuple[Tensor, Tensor]]


def gradients(channels: Sequence[Channel], leaves: Sequence[Tensor]) -> list[dict[int, Scaled]]:
    """For each channel (pairs of a tensor and its cotangent) the gradient at each leaf, by its id.

    Carried with a power of two beside it, so that none underflows. A leaf without a gradient is left out.
    """
    wanted, found = {id(leaf) for leaf in leaves}, [dict[int, Scaled]() for _ in channels]
    live = [[(t, c) for t, c in channel if t.grad_fn is not None] for channel in channels]
    if why_unsupported():
        return [_by_autograd(channel, leaves) for channel in live]

    def keep(leaf: Tensor, channel: int, gradient: Scaled) -> None:
        if id(leaf) in wanted:
            found[channel][id(leaf)] = gradient

    starts = [
        [(Root((t.grad_fn, t.output_nr), tuple(t.shape), t.dtype, t.device, 1.0), c) for t, c in channel]
        for channel in live
    ]
    walk(Capture(nn.Module()), starts, keep)  # type: ignore[arg-type]
    return found


def whole_gradients(channel: Channel, leaves: Sequence[Tensor]) -> dict[int, Scaled]:
    """The same of one channel, for leaves in float64 of each of which only the norm is asked.

    By torch's own backward, a fraction of the price, unless a norm comes near the ends of the type, or is zero: then
    something may have been lost.
    """
    found = _by_autograd([(t, c) for t, c in channel if t.grad_fn is not None], leaves)
    whole = all(MIDDLE < norm_of(g.mantissa) < 1.0 / MIDDLE for g in found.values())
    return found if whole else gradients([channel], leaves)[0]


def _by_autograd(channel: Channel, leaves: Sequence[Tensor]) -> dict[int, Scaled]:
    if not channel:
        return {}
    given = torch.autograd.grad(
        [t for t, _ in channel], leaves, [c for _, c in channel], retain_graph=True, allow_unused=True
    )
    return {id(leaf): Scaled(g, 0) for leaf, g in zip(leaves, given, strict=True) if g is not None}


def log10_norms(gradient: Scaled | None, axis: int | None = None) -> list[float]:
    """log10 of the norm of a gradient, or of each of its entries along ``axis``."""
    if gradient is None:
        return [LOG_ZERO]
    mantissa = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
    values = mantissa.detach().double()
    values = values.reshape(1, -1) if axis is None else values.movedim(axis, 0).reshape(values.shape[axis], -1)
    exponent = float(gradient.exponent) * LOG10_2
    return [math.log10(n) + exponent if n > 0.0 else LOG_ZERO for n in values.norm(dim=1).tolist()]
