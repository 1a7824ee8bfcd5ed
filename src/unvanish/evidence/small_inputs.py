"""Are the inputs so small that samples hardly differ beside what the biases say? Shown by steps on standardised ones.

What the first layer learns of a feature is in proportion to the feature, and so is what a step of its weights does to
the outputs. Features that differ by a hundredth from sample to sample leave a network that answers with a constant
where it is, for as long as that takes, while every gradient arrives. The same steps of the same optimizer on inputs of
mean 0 and deviation 1 tell whether it is that. All of them are taken back.

Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 4.3.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from unvanish.decide.limits import PLATEAU
from unvanish.decide.stationary import floor_of
from unvanish.evidence.inputs import first_layer, one_input, standardised, with_first
from unvanish.evidence.moving import loss_again, or_nan
from unvanish.evidence.regained import WORK
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers, Problem
from unvanish.records import Flow, InputFacts
from unvanish.rules.conditions import to_reach

SMALL = 0.1  # the deviation of every feature: an order of magnitude below that of standardised ones
WON = 0.05  # of the way from the best constant output to the lowest loss; up to 0.02 count as no better than that
MOST = 100  # steps that are tried at most


def with_small_inputs(look: Look, optimizer: Optimizers, flow: Flow) -> Flow:
    """The flow with what steps do on these inputs and on standardised ones, where only the latter learn something."""
    x, loss, first = one_input(look.problem), flow.loss, first_layer(flow.layers)
    if x is None or loss is None or not loss.at_constant or first is None or flow.inputs is not None:
        return flow
    standard, deviation = standardised(x)
    size, enough = float(deviation.max()), to_reach(loss, WON)
    if not 0.0 < size < SMALL or enough is None:
        return flow
    steps = max(1, min(MOST, look.problem.steps or MOST, int(WORK / max(1, look.work))))
    own = dataclasses.replace(look.problem, train_batches=None)
    taken, reached = _until(look, optimizer, with_first(own, standard), steps, enough)
    if not reached < enough:
        return flow
    _, as_it_is = _until(look, optimizer, own, taken, -math.inf)
    floor = floor_of(loss) or 0.0  # known, as otherwise no loss counts as at its constant
    if not as_it_is - floor >= PLATEAU * ((loss.best_constant or 0.0) - floor):
        return flow
    found = InputFacts(
        layer=first.name, largest_deviation=size, steps=taken, after=as_it_is, after_standardised=reached, small=True
    )
    return flow.replace(inputs=found)


def _until(look: Look, optimizer: Optimizers, problem: Problem, steps: int, enough: float) -> tuple[int, float]:
    """After how many steps at most the loss of the batch is below ``enough``, and the loss there."""
    taken, last = 0, math.nan

    def measured(count: int) -> bool:
        nonlocal taken, last
        taken = count
        if taken % 10 and taken != steps:
            return False
        with torch.no_grad():
            last = or_nan(lambda: loss_again(problem, look.model, look.seed))
        return last < enough

    with stepped(problem, look.model, optimizer, 1.0, steps, look.seed, measured, end=lambda: 0.0):
        return taken, last
