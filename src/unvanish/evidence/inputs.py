"""Is it the scale of the inputs? Asked only of inputs far from unit size, and answered by standardising them.

The same network is looked at once more with every feature at mean 0 and deviation 1. What was wrong with the first
layer and is gone then was the inputs' doing; what stays was not.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from torch import Tensor

from unvanish.problem import Problem
from unvanish.records import CallFlow, InputFacts, LayerFlow
from unvanish.rules.conditions import goes_around
from unvanish.trace.scaled import LOG_ZERO

FAR = 10.0  # rms of some feature: an order of magnitude beyond a standardised one
Layers = Sequence[LayerFlow]
Calls = Sequence[CallFlow]
QuickLook = Callable[[Problem], tuple[Layers, Calls]]


def input_facts(problem: Problem, layers: Layers, calls: Calls, look: QuickLook) -> InputFacts | None:
    """The first layer and the first bounded activation before and after standardising.

    None where the inputs are of ordinary size or no one tensor.
    """
    x, facts = one_input(problem), as_they_are(problem, layers, calls)
    if x is None or facts is None:
        return None
    standard, _ = standardised(x)
    after, calls_after = look(with_first(problem, standard))
    again = next((a for a in after if a.name == facts.layer), None)
    return facts.replace(
        saturated_standardised=_saturated(calls_after),
        step_limit_standardised=None if again is None else _step_limit(again, after),
        loss_standardised=_loss(calls_after),
    )


def as_they_are(problem: Problem, layers: Layers, calls: Calls) -> InputFacts | None:
    """The same before standardising; nothing is said of after."""
    x, first = one_input(problem), first_layer(layers)
    if x is None or first is None:
        return None
    size = float(x.double().pow(2).mean(_axes(x)).sqrt().max())
    if not size > FAR:
        return None
    return InputFacts(
        layer=first.name,
        largest_deviation=size,
        saturated=_saturated(calls),
        step_limit=_step_limit(first, layers),
    )


def at_best(facts: InputFacts) -> InputFacts:
    """With all that standardised inputs could make good: nothing saturated, steps as elsewhere, and no loss left."""
    return facts.replace(saturated_standardised=0.0, step_limit_standardised=0.0, loss_standardised=0.0)


def one_input(problem: Problem) -> Tensor | None:
    """The first input, if it is one dense tensor of numbers with features along axis 1."""
    x = problem.inputs[0] if isinstance(problem.inputs, (tuple, list)) and problem.inputs else problem.inputs
    if not isinstance(x, Tensor) or x.is_nested or not x.is_floating_point() or x.ndim < 2 or x.shape[0] < 2:
        return None
    return x


def with_first(problem: Problem, x: Tensor) -> Problem:
    """The problem with another tensor in the place of the first input."""
    inputs = x if isinstance(problem.inputs, Tensor) else (x, *problem.inputs[1:])
    return dataclasses.replace(problem, inputs=inputs)


def standardised(x: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor with every feature at mean 0 and deviation 1, and their deviations as they are."""
    axes = _axes(x)
    deviation, mean = x.double().std(axes, keepdim=True), x.double().mean(axes, keepdim=True)
    return ((x.double() - mean) / deviation.where(deviation > 0.0, 1.0)).to(x.dtype), deviation


def standardise_by(x: Tensor) -> Callable[[Tensor], Tensor]:
    """What does to other inputs what ``standardised`` does to these."""
    axes = _axes(x)
    deviation, mean = x.double().std(axes, keepdim=True), x.double().mean(axes, keepdim=True)
    scale = deviation.where(deviation > 0.0, 1.0)
    return lambda other: ((other.double() - mean) / scale).to(other.dtype)


def _axes(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]


def _saturated(calls: Calls) -> float | None:
    """Of the first bounded activation: linear and ReLU layers before it pass the size of the inputs on."""
    bounded = (c for c in calls if c.bounded and c.part == "model" and c.saturated_fraction is not None)
    return next((c.saturated_fraction for c in bounded if not goes_around(calls, c)), None)


def _loss(calls: Calls) -> float | None:
    last = calls[-1] if calls else None
    return None if last is None or last.part != "loss" or last.log10_rms is None else 10.0**last.log10_rms


def first_layer(layers: Sequence[LayerFlow]) -> LayerFlow | None:
    return next((a for a in layers if a.call is not None and not a.frozen), None)


def _step_limit(layer: LayerFlow, layers: Sequence[LayerFlow]) -> float | None:
    """log10 of the step a layer's curvature ∝ |J|² allows, over that of the median layer."""
    known = [norm for a in layers if (norm := a.log10_jacobian_norm) is not None and norm > LOG_ZERO]
    if layer.log10_jacobian_norm is None or len(known) < 2:
        return None
    return 2.0 * (statistics.median(known) - layer.log10_jacobian_norm)
