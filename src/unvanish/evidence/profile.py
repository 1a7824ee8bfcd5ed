"""A signal along the steps of a sequence, in numbers: lists of log10, the first step first.

None stands for a signal that was too small for its number type, -inf for one that is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = -math.inf
Signal = Sequence[float | None]
SURE = 10.0
"""Decades above the smallest number of the type: a zero beside a signal that large has not been lost to rounding."""
LAST = 10
"""The tenth of the steps at the end that sets the scale: the very last one may be masked or left out."""


def without_rounding(signal: Sequence[float], smallest: float) -> list[float | None]:
    """The signal with None where it is no longer a number of its type: below ``smallest``, log10 beside the largest.

    Zeros that begin where the signal has fallen near that limit were too small to be held; other zeros are true.
    """
    top = max(signal, default=NONE)
    if top == NONE:
        return list(signal)
    found: list[float | None] = [None if NONE < s - top < smallest else s for s in signal]
    for order in (range(len(signal)), range(len(signal) - 1, -1, -1)):
        before: float | None = NONE
        for place in order:
            here = found[place]
            if here == NONE and before != NONE and (before is None or before - top < smallest + SURE):
                found[place] = here = None
            before = here
    return found


def relative(signal: Signal) -> list[float | None]:
    """The signal beside the strongest of the last steps; beside the strongest of all where those have none."""
    tail = signal[-max(1, len(signal) // LAST) :]
    scale = max((s for s in tail if s is not None), default=NONE)
    scale = scale if scale > NONE else max((s for s in signal if s is not None), default=NONE)
    return [None if s is None else s - scale if s > NONE else NONE for s in signal]


def gain_of(signal: Signal) -> float | None:
    """Decades a step back, from the last step that has a signal to the one of all where it is weakest, or first.

    None where fewer than two steps have one.
    """
    known = [(s, place) for place, s in enumerate(signal) if s is not None and s > NONE]
    if len(known) < 2:
        return None
    last, end = known[-1]
    least, place = min(known[:-1])
    if least > last:  # it grows: all the way back
        least, place = known[0]
    return (least - last) / (end - place)


def below(signal: Signal, limit: float) -> list[int]:
    """The steps whose signal is below 10^limit."""
    return [place for place, s in enumerate(signal) if s is None or s < limit]


def horizon_of(signal: Signal, limit: float, gain: float | None) -> int | None:
    """How many steps at the end of the sequence hear at least 10^limit; beyond its beginning by its gain.

    None where the signal does not fall.
    """
    faint = below(signal, limit)
    if faint:
        return len(signal) - 1 - faint[-1]
    last = signal[-1] if signal else None
    if gain is None or not gain < 0.0 or last is None:
        return None
    steps = (limit - last) / gain
    return round(steps) if steps < 1e9 else None


def together(logs: Sequence[float]) -> float:
    """log10 of the norm of a vector whose parts have norms 10^x, x in ``logs``."""
    top = max(logs, default=NONE)
    return top if not math.isfinite(top) else top + 0.5 * math.log10(sum(10.0 ** (2.0 * (x - top)) for x in logs))
