"""Does the optimizer step along the gradient instead of against it, or is the gradient not that of this loss?

Asked only where none of the sizes tried of the next step lowers the loss. A step of momentum may climb for a while and
one of decay as long as it likes: so the step looked at is that of the same optimizer without any state and decay.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from unvanish.evidence.step import ULPS, First, held_by, spacing_of, stepped
from unvanish.flow.look import Look
from unvanish.flow.optimizers import without_decay
from unvanish.problem import Optimizers
from unvanish.records import StepFacts

CHANCE = 5.0
"""Standard deviations: the cosine of a random direction of n entries with a given one has one of 1/sqrt(n)."""
STRAIGHT = 2.0
"""Factor by which a rise may differ from a tenth of that of a step ten times as long; a parabola's is a hundredth."""


def with_direction(look: Look, optimizer: Optimizers, facts: StepFacts) -> StepFacts:
    """The facts with the cosine of the gradient and the step, where none of the sizes tried lowers the loss.

    Above 0 the step climbs by what the gradient says; not what chance may make of it. Below 0 only where the gradient
    is wrong: it says that the step lowers the loss, which rises in proportion to it.
    """
    if facts.best is not None or not any(value > facts.loss for _, value in facts.ladder):
        return facts
    plain, parameters, shared = without_decay(optimizer, with_state=False), held_by(optimizer), First()
    before = [p.detach().clone() for p in parameters]
    made: list[tuple[Tensor, Tensor]] = []

    def measure(_: int) -> None:
        assert shared.known is not None
        for p, start, gradient in zip(parameters, before, shared.known[1], strict=True):
            if gradient is not None:
                made.append((_flat(gradient), _flat(p.detach() - start)))

    with stepped(look.problem, look.model, plain, 1.0, 1, look.seed, measure, shared, lambda: 0.0) as ended:
        cosine, entries = _cosine(made) if ended == 0.0 else (math.nan, 0)
    if not abs(cosine) > CHANCE / math.sqrt(max(1, entries)):
        return facts
    told = any(group.get("maximize") for group in optimizer.param_groups)
    sure = cosine > 0.0 or (_same(optimizer) and _rises_straight(look, facts))
    return facts.replace(climbs=cosine, maximize=told) if sure else facts


def _same(optimizer: Optimizers) -> bool:
    """Whether the step tried on the ladder was one without state and decay."""
    return not optimizer.state and not any(group.get("weight_decay") for group in optimizer.param_groups)


def _cosine(made: list[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Of gradients and steps, and of how many entries with a gradient."""
    dot = sum(float(g @ step) for g, step in made)
    sizes = [math.sqrt(sum(float(each[k] @ each[k]) for each in made)) for k in (0, 1)]
    return dot / (sizes[0] * sizes[1] or math.nan), sum(int(g.count_nonzero()) for g, _ in made)


def _flat(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    real = torch.view_as_real(dense) if dense.is_complex() else dense
    return real.detach().reshape(-1).double()


def _rises_straight(look: Look, facts: StepFacts) -> bool:
    """Whether the loss rises in proportion to the length of the step over two decades, far above rounding."""
    least = 10.0 * ULPS * spacing_of(look.problem, look.model) * abs(facts.loss)
    rises = [value - facts.loss for multiple, value in facts.ladder if multiple <= 1.0]  # shortest first
    clear = [rise for rise in rises if least < rise < math.inf]
    ratios = [longer / shorter for shorter, longer in itertools.pairwise(clear)][:2]
    return len(ratios) == 2 and all(10.0 / STRAIGHT < ratio < 10.0 * STRAIGHT for ratio in ratios)
