"""Layers whose results a clamp, or the like, holds off within the loss, though other results would lower it.

A log-variance that is clamped inside the loss has no slope outside its range. Where all of a batch lies there, nothing
brings it back: the layer that makes it is as dead as one before a ReLU that is off. At a bound that the loss itself
would push it across, nothing is wrong; so the outputs without a slope are moved, and what that wins is what tells. A
call that is flat everywhere, as a rounding, needs no such question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from unvanish.decide.limits import CONVERGED
from unvanish.evidence.output_loss import OutputLoss
from unvanish.evidence.zeros import downstream
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.flow.paths import Observed
from unvanish.flow.slopes import constant_by_construction
from unvanish.records import LossFacts, ZeroFacts
from unvanish.trace.calls import Call
from unvanish.trace.scaled import LOG_ZERO

MOVES = tuple(sign * 2.0**power for power in range(-3, 2) for sign in (1.0, -1.0))
"""Times their own size: out of a range, and back into it, from as far as twice its bound."""


def trapped_facts(look: Look, seen: Observed, output_loss: OutputLoss | str, loss: LossFacts) -> tuple[ZeroFacts, ...]:
    """For each layer that the outputs depend on and that a flat call of the loss leaves without any gradient."""
    if isinstance(output_loss, str) or not loss.residual_norm:
        return ()
    calls = look.capture.calls
    stops = {call.index: call for call in calls if call.part == "loss" and _stops(call, seen)}
    shut = [layer for layer in look.layers if layer.live and layer.call is not None and _is_shut(layer, seen)]
    found = [(layer, [stops[k] for k in sorted(stops.keys() & downstream(layer, calls))]) for layer in shut]
    facts = [
        ZeroFacts(
            layer=layer.name,
            opens=False,
            blocked_by=tuple(map(_place, by[:3])),
            by_construction=any(map(constant_by_construction, by)),
        )
        for layer, by in found
        if by
    ]
    wins = bool(facts) and _wins(output_loss, loss)
    return tuple(each for each in facts if wins or each.by_construction)


def _place(call: Call) -> str:
    return f"{call.name} in the loss{f' at {call.source}' if call.source else ''}"


def _is_shut(layer: Layer, seen: Observed) -> bool:
    depends = any(seen.probe("leaves", id(p)) > LOG_ZERO for p in layer.live)
    return depends and all(seen.loss.leaves.get(id(p), LOG_ZERO) == LOG_ZERO for p in layer.live)


def _stops(call: Call, seen: Observed) -> bool:
    """Whether it receives a signal of the loss and sends exactly nothing back."""
    got = seen.loss.signals.get(call.index, LOG_ZERO) > LOG_ZERO
    return got and bool(call.inputs) and not any(_sends(call, j, seen) for j in call.inputs)


def _sends(call: Call, to: int, seen: Observed) -> bool:
    return seen.loss.edges.get((call.index, to), LOG_ZERO) > LOG_ZERO


def _wins(output_loss: OutputLoss, loss: LossFacts) -> bool:
    """Whether the loss falls once the outputs in which it has no slope are moved, all by the same."""
    free = [t.detach().clone().requires_grad_() for t in output_loss.now]
    with torch.enable_grad():
        slopes = torch.autograd.grad(output_loss.at(free), free, allow_unused=True)
    still = [torch.ones_like(t) if g is None else (g == 0).to(t.dtype) for t, g in zip(free, slopes, strict=True)]
    sizes = [_size(t, here) for t, here in zip(output_loss.now, still, strict=True)]
    scale = loss.reference if loss.reference is not None else abs(loss.value)
    return any(
        loss.value - output_loss.worth(_moved(output_loss.now, still, sizes, times)) > CONVERGED * scale
        for times in MOVES
    )


def _size(outputs: torch.Tensor, here: torch.Tensor) -> float:
    """The rms of those that are moved."""
    count = float(here.sum())
    return math.sqrt(float((outputs.detach().double() * here).square().sum()) / count) if count else 0.0


def _moved(
    outputs: Sequence[torch.Tensor], still: Sequence[torch.Tensor], sizes: Sequence[float], times: float
) -> list[torch.Tensor]:
    return [t.detach() + times * size * here for t, here, size in zip(outputs, still, sizes, strict=True)]
