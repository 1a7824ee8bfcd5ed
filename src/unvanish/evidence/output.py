"""What the last call can give the loss: the lowest loss that any input of that call could reach.

A sigmoid under an unbounded target, a softmax before a loss that makes its own, a ReLU on logits: the layers may
transmit perfectly and the loss still cannot be reduced further. Only the loss that stays out of reach is evidence, not
the pairing of names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from unvanish.evidence.last import Last
from unvanish.evidence.loss import best_constant_of
from unvanish.evidence.moving import or_none
from unvanish.evidence.output_loss import OutputLoss, lowest
from unvanish.records import LossFacts, OutputFacts
from unvanish.rules.conditions import MOVES, UNREACHABLE
from unvanish.trace.calls import Call, Met
from unvanish.trace.scaled import norm_of, normal_like

NEARLY = 0.01  # of the reduction: what a shorter move may leave and still count as enough
TINY = 1e-6
FINER = tuple(0.1**0.5**n for n in range(1, 5))  # halvings of a decade
SAME = 1e-4  # of the loss: a small number added to a sum before dividing by it changes less
PIECE = 2**18  # entries taken to float64 at once: of larger outputs no such copy is made, and a piece stays in a cache


def size_of_targets(met: Met | None) -> float | None:
    """The rms of the numbers that the outputs meet first in the loss; None where these are labels, places or a mask."""
    target = None if met is None else met[1]
    return None if target is None or not target.is_floating_point() else norm_of(target) / math.sqrt(target.numel())


def output_facts(last: Last, output_call: Last | None, loss: LossFacts) -> OutputFacts:
    """The range of the last call, and the share of L_ref that lies outside of it.

    ``last`` makes what the recognised loss call is given, ``output_call`` the model's output (often the same).
    """
    now = last.output_loss.now[0]
    best, at = lowest(last.output_loss, loss.value)
    facts = OutputFacts(call=last.call.index, kind=last.kind, low=last.low, high=last.high, outside=last.outside)
    facts = facts.replace(rms=_rms(p.double() for p in _pieces(now)))
    if (
        output_call is not None
        and output_call.kind == "clipped"
        and loss.reacts
        and normalises(output_call.output_loss, loss.value)
    ):
        ends = at_the_end(output_call)
        facts = facts.replace(
            end=output_call.call.index,
            at_end=float(ends.double().mean()),
            held=held_loss(output_call, ends, loss.value),
            constant=best_constant_of(output_call.through)[0],
        )
    # What a positive loss does outside of its domain, below zero, is no goal.
    if at is not None and best is not None and not best < 0.0 < loss.value:
        share = _shortened(last.output_loss, at[0], (loss.value, best))
        facts = facts.replace(
            wanted=share * _rms(move for _, move in _moves(now, at[0])),
            aim=_rms(begin + move for begin, move in _moves(now, at[0])),
        )
    if not last.kind or best is None or loss.best_constant is None:
        return facts
    if loss.value > 0.0:
        best = max(best, 0.0)
    reference, reached = max(loss.value, loss.best_constant) - best, last.reach
    if reached is None or not reference > 0.0 or (last.kind == "normalised" and only_weighs(last.output_loss)):
        return facts
    said = reached - best > UNREACHABLE * reference
    if said and at is not None and last.kind in ("bounded", "clipped"):  # before it is said, it is looked at again
        near = last.near(at[0].clamp(last.low, last.high))
        reached = reached if near is None else min(reached, near)
    return facts.replace(unreachable=max(0.0, (reached - best) / reference))


def only_weighs(output_loss: OutputLoss) -> bool:
    """Whether what the loss asks of each row of outputs has one direction, whatever the outputs are.

    Then they are compared with nothing: they weigh the costs, returns or likelihoods of their row, and that their sum
    is fixed is what is meant. Beside a target the direction is the way to it, and turns as the outputs move; asked at
    outputs of size 1 and of 10^9, so that no target lies too far off for that.
    """
    if len(output_loss.now) != 1 or output_loss.now[0].ndim < 2 or output_loss.now[0].shape[-1] < 2:
        return False

    def asked(size: float, seed: int) -> Tensor:
        drawn = normal_like(output_loss.now[0], torch.Generator().manual_seed(seed)).abs() * size
        with torch.enable_grad():
            z = drawn.requires_grad_(True)
            return torch.autograd.grad(output_loss.at([z]), z)[0].double().reshape(-1, z.shape[-1])

    rows = or_none(lambda: (asked(1.0, 0), asked(1e9, 1)))
    if rows is None or not all(bool(each.isfinite().all()) for each in rows):
        return False
    one, other = (each / each.norm(dim=1, keepdim=True).clamp(min=1e-300) for each in rows)
    cosines = (one * other).sum(1).abs()
    return bool((cosines > 1.0 - 1e-4).all())


SCALES = ("mul", "rmul", "multiply", "div", "truediv", "divide", "true_divide")


def shrunk(last: Last, calls: Sequence[Call]) -> float | None:
    """The size of the last call's result over that before plain numbers multiply it; None where none does."""
    here, scaled = last.call, False
    while here.again is not None and len(here.inputs) == 1:
        scales = here.name.strip("_") in SCALES
        if not scales and here.name not in MOVES:
            break
        scaled, here = scaled or scales, calls[here.inputs[0]]
    return last.call.rms / here.rms if scaled and here.rms > 0.0 else None


CLASSES = {"nll_loss": 1, "ctc_loss": -1, "kl_div": None}
"""Losses of log-probabilities, and the axis of their classes; None where any may be it."""


def mass_of(z: Tensor, axis: int | None) -> float:
    """The mean of |log Σ exp(z)| along an axis; of all axes, or more of them together, the least where none is given.

    The pixels of a map have classes along its second axis, or are themselves the shares of one whole. Zeros alone are
    what a mask leaves of a sample that does not count.
    """
    axes = [(z, k) for k in (range(z.ndim) if axis is None else (axis,))]
    axes += [(z.flatten(k), -1) for k in range(z.ndim - 1)] if axis is None else []
    return min(_mean(each.logsumexp(k).abs(), (each != 0.0).any(k)) for each, k in axes)


def _mean(values: Tensor, counted: Tensor) -> float:
    return float(values[counted].mean()) if bool(counted.any()) else 0.0


def log_mass(last: Last, calls: Sequence[Call]) -> float | None:
    """The mean over the samples of |log Σ exp(z)|, z what a loss of log-probabilities is given; None for others."""
    z = last.output_loss.now[0].double()
    ahead, moved = list[Call](), {last.call.index}
    for call in calls:
        if moved.intersection(call.inputs):
            if call.name in MOVES:
                moved.add(call.index)
            else:
                ahead.append(call)
    if not ahead or len({call.name for call in ahead}) > 1 or ahead[0].name not in CLASSES or z.ndim < 2:
        return None
    if len(moved) > 1 and ahead[0].numel > 1:  # not averaged at once: z may be what the model gave, of other axes
        return None
    return mass_of(z, CLASSES[ahead[0].name])


def _rms(pieces: Iterable[Tensor]) -> float:
    """Of the entries of all pieces together."""
    parts = [((square := piece.pow(2)).mean(), square.numel()) for piece in pieces]
    if len(parts) == 1:
        return float(parts[0][0].sqrt())
    return math.sqrt(sum(float(mean) * many for mean, many in parts) / sum(many for _, many in parts))


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    return [tensor] if tensor.numel() <= PIECE else tensor.reshape(-1).split(PIECE)


def _moves(start: Tensor, end: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Piece by piece in float64: where the way begins, and the way."""
    for a, b in zip(_pieces(start), _pieces(end.expand_as(start)), strict=True):
        begin = a.double()
        yield begin, b.double() - begin


def _shortened(output_loss: OutputLoss, end: Tensor, losses: tuple[float, float]) -> float:
    """The share of the way from the outputs to ``end`` that wins as much, to a hundredth: a loss may have a flat tail.

    Within 15%, to TINY.
    """
    value, best = losses
    share, now = 1.0, output_loss.now[0]
    room = torch.empty(now.shape if now.numel() > PIECE else (0,), dtype=now.dtype, device=now.device)

    def moved(part: float) -> Tensor:
        if now.numel() <= PIECE:
            return next((begin + part * move).to(now.dtype) for begin, move in _moves(now, end))
        for into, (begin, move) in zip(_pieces(room), _moves(now, end), strict=True):
            into.copy_(begin.add_(move.mul_(part)))
        return room

    def wins(part: float) -> bool:
        return float(output_loss.at([moved(part)])) <= best + NEARLY * (value - best)

    with torch.no_grad():
        while share > TINY and wins(0.1 * share):
            share *= 0.1
        for factor in FINER:
            share *= factor if wins(factor * share) else 1.0
    return share


def at_the_end(output_call: Last) -> Tensor:
    """Which outputs lie exactly on the only end of the call that makes them."""
    return output_call.output_loss.now[0] == (output_call.high if output_call.low is None else output_call.low)


def normalises(output_loss: OutputLoss, value: float) -> bool:
    """Whether the loss stays the same when every output grows or shrinks by one factor: only their shares count."""
    with torch.no_grad():
        scaled = [float(output_loss.at([t * factor for t in output_loss.now])) for factor in (0.5, 1.5)]
    return all(abs(other - value) <= SAME * abs(value) for other in scaled)


def held_loss(output_call: Last, ends: Tensor, value: float) -> float:
    """The lowest loss of outputs the call can give that differ from the present ones only where no end holds them."""
    now = output_call.output_loss.now[0]

    def at(z: Sequence[Tensor]) -> Tensor:
        return output_call.output_loss.at([torch.where(ends, now, output_call.apply(z[0].to(now.dtype)))])

    least, _ = lowest(OutputLoss(at, [now]))
    return value if least is None else min(least, value)
