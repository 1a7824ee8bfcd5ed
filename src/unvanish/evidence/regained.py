"""Does the optimizer make good for a loss that starts absurdly high, or that its first steps raise?

Weights that are too large at the start multiply the signal from layer to layer. Whether the optimizer makes good for
them cannot be read off the first step: of networks that grew the signal alike, some were at the best constant's loss
within tens of steps and went on to fit, others never came near it. Six steps of Adam may leave a loss several times
as high as it was, and thirty a hundredth of it. So the steps are really taken, and taken back.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from unvanish.decide.limits import FORWARD_GROWTH, FORWARD_LOSS
from unvanish.evidence.moving import loss_again, or_nan
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers, Problem
from unvanish.records import Flow, LossFacts, StepFacts
from unvanish.rules.conditions import forward_growth_of, out_of_proportion, to_reach
from unvanish.rules.saturation import only_gates
from unvanish.rules.small_targets import small_targets

TRIED = (30, 60, 100, 200, 400, 800)
HALVED = 0.5
"""Share of the loss at the last look that must be left at most for more steps to be taken: at a slower pace the decades
that are left to go take hundreds of steps more."""
WORK = 1e10  # parameters times samples times steps from which on no more are taken


def with_regained(look: Look, optimizer: Optimizers, flow: Flow, facts: StepFacts) -> StepFacts:
    """The facts with the loss of the batch after such steps, where something asks for them.

    That is forward growth, large outputs, a loss that a few steps raise, or saturated gates.

    The first number of steps is the last one tried after which the loss is below what it has ``to_reach``, or has not
    halved since the look before and would not come there in the steps that are left; at the first it need only lie
    below the highest loss seen before.
    """
    loss = flow.loss
    enough = None if loss is None else to_reach(loss)
    if (
        loss is None
        or enough is None
        or not (_raised(facts) or _grown(flow, loss) or small_targets(flow) or only_gates(flow))
    ):
        return facts
    top = max(facts.loss, facts.walked or -math.inf)
    walk = comes_down(look, optimizer, look.problem, (facts.loss, top), enough)
    return facts.replace(regained=walk.loss, regained_after=walk.steps)


class Walk(NamedTuple):
    """The loss of the batch after so many real steps, infinite where they diverge.

    ``left``: in how many more it would be down where it was to come, at its pace at the end; infinite if never.
    """

    loss: float
    steps: int
    left: float


def comes_down(
    look: Look,
    optimizer: Optimizers,
    problem: Problem,
    start: tuple[float, float],
    enough: float,
    within: float | None = None,
) -> Walk:
    """Real steps, taken back: as many as bring the loss of the batch to ``enough``, or as it still falls fast.

    ``start``: the loss before, and the highest that is known to be left behind again. ``within``: the steps after which
    the loss has to be down at its pace; those that are tried at most, if none are given.
    """
    model, planned = look.model, problem.steps or max(TRIED)
    work = look.work
    tried = [n for n in TRIED if n <= planned and (n == TRIED[0] or n * work < WORK)] or [planned]
    taken, seen, top = 0, {0: start[0]}, start[1]

    def measured(count: int) -> bool:
        nonlocal taken
        taken = count
        if taken not in tried:
            return False
        last = max(seen)
        with torch.no_grad():
            now = or_nan(lambda: loss_again(problem, model, look.seed))
        before, seen[taken] = seen[last], now
        if taken == tried[0]:
            return not enough < now <= top
        return not falls_to(enough, now, before, taken - last, (within or tried[-1]) - taken)

    with stepped(problem, model, optimizer, 1.0, tried[-1], look.seed, measured) as end:
        pass
    last = max(seen)
    value = seen[last] if last else end
    earlier = max((n for n in seen if n < last), default=last)
    left = _steps_left(value, enough, seen[earlier], last - earlier)
    return Walk(value if math.isfinite(value) else math.inf, last or max(1, taken), left)


def falls_to(enough: float, now: float, before: float, since: int, left: float) -> bool:
    """Whether a loss is not down at ``enough``, but on its way: halved in so many steps, or there in those ``left``."""
    return enough < now and (_steps_left(now, enough, before, since) <= left or now <= HALVED * before)


def _steps_left(now: float, enough: float, before: float, since: int) -> float:
    """In how many steps the loss is down at ``enough``, if it goes on falling as in the last ``since``."""
    if not 0.0 < enough < now < before < math.inf:
        return math.inf
    return since * math.log(now / enough) / math.log(before / now)


def _raised(facts: StepFacts) -> bool:
    """Whether a few real steps raise the loss, or silence layers."""
    return facts.walked is not None and (not facts.walked <= facts.loss or bool(facts.silenced))


def _grown(flow: Flow, loss: LossFacts) -> bool:
    grown = forward_growth_of(flow)
    return out_of_proportion(loss, FORWARD_LOSS) and grown is not None and grown.decades > FORWARD_GROWTH
