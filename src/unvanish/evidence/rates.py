"""Does the signal survive the first steps, at this learning rate and at three times it?

A network that normalises its stream after every addition passes the error signal on as long as its branches stay
small beside the stream. Steps that are large relative to the weights end that within a few of them, and the signal is
gone before anything is learned: at one rate it trains, at three times the rate it does not. Nothing measured before
the first step tells the two apart, so the steps are really taken, and taken back. Two rates are tried at most: the
present one; then three times it, or, where the signal is lost, a tenth of it. Networks without that structure are not
tried.

Source: Xiong et al. 2020, On layer normalization in the transformer architecture; Liu, Liu, Gao, Chen & Han 2020,
Understanding the difficulty of training transformers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from unvanish.decide.limits import VANISHED
from unvanish.evidence.step import REAL_STEPS, First, stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers, rate_of
from unvanish.records import CallFlow, LayerFlow, RateTrial
from unvanish.words.numbers import amount

MANY = 8  # normalised additions on the stream: fewer have not been seen to fail
MOVED = 1.0 / 300.0  # of its size, by one step: a network that moves less keeps its signal at three times the rate
LARGER, SMALLER = 3.0, 0.1  # of the rate: what is tried where the signal survives, and where it is lost
SUMS = ("add", "add_", "__add__", "__iadd__", "__radd__")
Measure = Callable[[], tuple[float, Mapping[str, float]]]


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
    return bool(sizes) and statistics.median(sizes) > MOVED and normalised_sums(calls) >= MANY


def rate_trials(
    look: Look, optimizer: Optimizers, layers: Sequence[LayerFlow], measure: Measure
) -> tuple[RateTrial, ...]:
    """Real steps at the learning rate, and at a larger or a smaller one; () without a learning rate.

    ``measure``: of the model as it stands the loss of the batch, and log10 of T_rel by layer if that is finite.
    """
    alive = {a.name for a in layers if a.log10_transmission is not None and a.log10_transmission > VANISHED}
    lr = rate_of(optimizer.param_groups[0])
    if not alive or not math.isfinite(lr):
        return ()

    shared = First()

    def tried(scale: float) -> RateTrial:
        loss, sent = math.nan, dict[str, float]()

        with stepped(
            look.problem, look.model, optimizer, scale, REAL_STEPS, look.seed, first=shared, end=lambda: 0.0
        ) as ended:
            if ended == 0.0:  # nan where a step itself failed
                loss, sent = measure()
        found = [value for name, value in sent.items() if name in alive]
        left = min(found) if found and all(math.isfinite(t) for t in found) else None
        return RateTrial(scale=scale, lr=scale * lr, steps=REAL_STEPS, loss=loss, log10_transmission=left)

    first = tried(1.0)
    if first.log10_transmission is None:  # it diverges: nothing is known about the signal
        return (first,)
    return first, tried(LARGER if first.log10_transmission > VANISHED else SMALLER)


def lost_at_all(trials: Sequence[RateTrial]) -> str:
    """What to say where each rate that was tried loses the signal, so that none can be named that keeps it; or ""."""
    left = [(t.lr, t.log10_transmission) for t in trials if t.log10_transmission is not None]
    if len(left) < 2 or any(value > VANISHED for _, value in left):
        return ""
    each = " and ".join(f"{amount(value)} at a learning rate of {lr:.2g}" for lr, value in left)
    return (
        f"{trials[0].steps} steps really taken lose the signal at every rate that was tried (smallest transmission of a"
        f" layer: {each}): whether a smaller one would keep it was not tried"
    )
