"""Does the signal survive the first steps, at this learning rate and at three times it?

A network that normalises its stream after every addition passes the error signal on as long as its branches stay
small beside the stream. Steps that are large relative to the weights end that within ten of them, and the signal is
gone before anything is learned: at one rate it trains, at three times the rate it does not. Nothing measured before
the first step tells the two apart, so the steps are really taken, and taken back. Networks without that structure are
not tried.

Source: Xiong et al. 2020, On layer normalization in the transformer architecture; Liu, Liu, Gao, Chen & Han 2020,
Understanding the difficulty of training transformers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from torch import nn

from unvanish.decide import VANISHED
from unvanish.evidence.step import stepped
from unvanish.problem import Optimizer, Problem
from unvanish.records import CallFlow, LayerFlow, RateTrial

MANY = 8  # normalised additions on the stream: fewer have not been seen to fail
STEPS = 10
MOVED = 0.1  # of its size, over all steps at the largest rate: a network that moves less keeps its signal
SCALES = (3.0, 1.0, 1.0 / 3.0, 0.1)  # tried from the largest, up to the first at which the signal survives
SUMS = ("add", "add_", "__add__", "__iadd__", "__radd__")
Look = Callable[[], Sequence[LayerFlow]]


def normalised_sums(calls: Sequence[CallFlow]) -> int:
    """How many normalisers on the trunk take the result of an addition, directly or through a dropout and the like."""
    by_index = {call.index: call for call in calls}

    def after_a_sum(call: CallFlow) -> bool:
        here = call
        while len(here.inputs) == 1 and here.inputs[0] in by_index:
            here = by_index[here.inputs[0]]
            if here.name in SUMS and len(here.inputs) > 1:
                return True
            if here.role != "join":
                return False
        return False

    return sum(call.trunk and call.role == "norm" and after_a_sum(call) for call in calls)


def may_lose_signal(layers: Sequence[LayerFlow], calls: Sequence[CallFlow]) -> bool:
    """Whether the structure is one that can lose its signal, and the steps are large enough beside the weights."""
    sizes = [a.update_to_weight_ratio for a in layers if a.update_to_weight_ratio is not None]
    moved = STEPS * SCALES[0] * statistics.median(sizes) if sizes else 0.0
    return moved > MOVED and normalised_sums(calls) >= MANY


def rate_trials(
    problem: Problem, model: nn.Module, optimizer: Optimizer, layers: Sequence[LayerFlow], look: Look, seed: int
) -> tuple[RateTrial, ...]:
    """Real steps at each of SCALES times the learning rate until the signal survives; () without a learning rate.

    ``look`` measures the layers of the model as it stands.
    """
    alive = {a.name for a in layers if a.log10_transmission is not None and a.log10_transmission > VANISHED}
    lr = float(optimizer.param_groups[0].get("lr", math.nan))
    trials: list[RateTrial] = []
    for scale in SCALES if alive and math.isfinite(lr) else ():
        with stepped(problem, model, optimizer, scale, STEPS, seed) as loss:
            left = None
            if math.isfinite(loss):
                found = [a.log10_transmission for a in look() if a.name in alive and a.log10_transmission is not None]
                left = min(found) if found and all(math.isfinite(t) for t in found) else None
        trials.append(RateTrial(scale=scale, lr=scale * lr, steps=STEPS, loss=loss, log10_transmission=left))
        if left is not None and left > VANISHED:
            break
    return tuple(trials)
