"""What the last call can give the loss: the lowest loss that any input of that call could reach.

A sigmoid under an unbounded target, a softmax before a loss that makes its own, a ReLU on logits: the layers may
transmit perfectly and the loss still cannot be won. Only the loss that stays out of reach is evidence, not the pairing
of names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unvanish.capture import Call, Capture
from unvanish.evidence.loss import FreeLoss, lowest
from unvanish.records import LossFacts, OutputFacts
from unvanish.slopes import slope_of

EDGE = 40.0  # an element-wise function that stays inside ±EDGE on [-50, 50] has an end on that side


@dataclass(frozen=True)
class Last:
    """The call whose result the loss takes, and the loss as a function of that result."""

    call: Call
    free: FreeLoss


def last_call(capture: Capture, free: FreeLoss) -> Last | None:
    """The producer of what the recognised loss call takes, else of the only output. To be read before a walk."""
    if capture.loss_call is not None and capture.loss_input is not None:
        func, args, kwargs, _ = capture.loss_call
        if math.isclose(float(func(*args, **kwargs)), capture.loss, rel_tol=1e-5):
            index = capture.owner.get(capture.loss_input.slot[0])
            if index is not None and index >= 0:
                inner = FreeLoss(lambda z: func(z[0], *args[1:], **kwargs), [args[0]])
                return Last(capture.calls[index], inner)
    if len(capture.outputs) != 1 or len(free.now) != 1:
        return None
    index = capture.owner.get(capture.outputs[0].slot[0])
    return None if index is None or index < 0 else Last(capture.calls[index], free)


def output_facts(last: Last, loss: LossFacts) -> OutputFacts:
    """The range of the last call, and the share of L_ref that lies outside of it."""
    now = last.free.now[0].double()
    rms = float(now.pow(2).mean().sqrt())
    best, at = lowest(last.free, loss.value)
    facts = OutputFacts(call=last.call.index, rms=rms)
    if at is not None:
        facts = facts.replace(wanted=float((at[0].double() - now).pow(2).mean().sqrt()))
    if best is None or last.call.probe is None or loss.best_constant is None:
        return facts
    reference = max(loss.value, loss.best_constant) - best
    slope, func, args, kwargs = slope_of(last.call), *last.call.probe
    if "softmax" in last.call.name:
        facts = facts.replace(kind="normalised")
    elif slope is not None and (slope.low > -EDGE or slope.high < EDGE):
        low, high = slope.low if slope.low > -EDGE else None, slope.high if slope.high < EDGE else None
        facts = facts.replace(low=low, high=high, kind="bounded" if low is not None and high is not None else "clipped")
    if not facts.kind or not reference > 0.0:
        return facts

    def through(z: Sequence[Tensor]) -> Tensor:
        return last.free.at([func(z[0] * 1.0, *args, **kwargs)])

    # Starts on both sides and in the middle: a ReLU has no gradient on its flat side.
    starts = [torch.full_like(now, 0.5), now, torch.zeros_like(now), now * 2.0]
    dtype = last.free.now[0].dtype
    tried = [lowest(FreeLoss(through, [z.to(dtype).as_subclass(Tensor)]))[0] for z in starts]
    reached = [value for value in tried if value is not None]
    if not reached:
        return facts
    return facts.replace(unreachable=max(0.0, (min(reached) - best) / reference))
