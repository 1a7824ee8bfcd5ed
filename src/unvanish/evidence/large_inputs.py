"""Are the inputs so large that the network does not learn in time? Shown by steps on standardised ones, taken back.

A loss far above that of the best constant output, or a first activation on its flat ends, looks bad at the start and
says little about the end: Adam makes good for some of it within hundreds of steps, and for more it takes tens of
thousands. So the steps are really taken, of the same optimizer from the same weights, on the inputs as they are and on
the same with mean 0 and deviation 1.

Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 4.3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from unvanish.decide.limits import HORIZON
from unvanish.decide.stationary import floor_of
from unvanish.evidence.inputs import one_input, standardise_by, with_first
from unvanish.evidence.regained import TRIED, comes_down
from unvanish.evidence.step import batches_of
from unvanish.flow.look import Look
from unvanish.problem import Optimizers, Problem
from unvanish.records import Flow
from unvanish.rules.conditions import OFF, out_of_proportion
from unvanish.rules.uv707_input_scale import HALF, input_scale


def with_large_inputs(look: Look, optimizer: Optimizers, flow: Flow) -> Flow:
    """The flow with what steps do to the loss on these inputs and on standardised ones, where they look too large.

    Only where there are training batches: one alone is learned by heart, whatever its scale. Nothing is added where the
    loss, far off at first, comes down to that of the best constant output, or would in the planned steps at its pace.
    """
    x, loss, inputs, problem = one_input(look.problem), flow.loss, flow.inputs, look.problem
    if problem.train_batches is None or x is None or loss is None or inputs is None or inputs.small:
        return flow
    floor, constant, start = floor_of(loss), loss.best_constant, inputs.loss_standardised
    if floor is None or constant is None or start is None or not input_scale(flow):
        return flow
    learned, planned = floor + (1.0 - HALF) * (constant - floor), problem.steps or HORIZON
    standard = _standardised(look, standardise_by(x))
    cured = comes_down(look, optimizer, standard, (start, math.inf), learned, math.inf)
    enough, within = (constant, planned) if out_of_proportion(loss, OFF) else (learned, math.inf)
    as_it_is = comes_down(look, optimizer, problem, (loss.value, math.inf), enough, within)
    if enough == constant and (as_it_is.loss < enough or as_it_is.left <= planned - as_it_is.steps):
        return flow
    return flow.replace(
        inputs=inputs.replace(
            steps=as_it_is.steps,
            after=as_it_is.loss,
            after_standardised=cured.loss,
            steps_standardised=cured.steps,
        )
    )


def _standardised(look: Look, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with its inputs changed, those of its training batches too."""
    problem = look.problem

    def changed(each: Problem) -> Problem:
        x = one_input(each)
        return each if x is None else with_first(each, change(x))

    if problem.train_batches is None:
        return changed(problem)
    batches = [changed(each) for each in batches_of(problem, look.model, max(TRIED), look.seed)]
    whole = [each.inputs if problem.loss_fn is None else (each.inputs, each.targets) for each in batches]
    return dataclasses.replace(changed(problem), train_batches=whole)
