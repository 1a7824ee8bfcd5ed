"""How long steps are, and how many of them it would take. No rule lives here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from unvanish.decide.limits import HORIZON
from unvanish.records import StepFacts

FEWEST = 6  # values from which on their order can show that they rise
LEAP = 10.0  # times what momentum makes of a step: more than batches differ by


def planned(step: StepFacts | None) -> int:
    return HORIZON if step is None or step.planned is None else step.planned


def little_gained(step: StepFacts, gap: float) -> bool:
    """Whether the steps really taken at the present rate left more than nine tenths of the gap."""
    return step.walked is not None and math.isfinite(step.walked) and step.loss - step.walked < 0.1 * gap


def rises_steadily(values: Sequence[float]) -> bool:
    """Whether so many values in a row stand in rising order, but for one pair at most.

    Of six values in random order, at most one pair of the fifteen stands the wrong way round in 6 of the 720 orders
    (Mann 1945, Nonparametric tests against trend): less than 1%.
    """
    return len(values) >= FEWEST and sum(a >= b for a, b in combinations(values, 2)) <= 1


def grown(step: StepFacts) -> float:
    """The length of the last real step in units of the first; 1 where steps do not grow but for chance.

    Batches make some steps longer than others.
    """
    lengths = step.lengths
    if not lengths or not 0.0 < lengths[0] < lengths[-1] < math.inf:
        return 1.0
    return lengths[-1] / lengths[0] if rises_steadily(lengths) else 1.0


def finds_its_rate(step: StepFacts) -> bool:
    """Whether steps grow faster than momentum makes them: 1 + β + … + β^(2n-1) is below twice 1 + β + … + β^(n-1).

    Or where one leaps: the j-th is at most j/i times the i-th by momentum, and ten times that is beyond what batches
    differ by. Learning rates that an optimizer finds for itself (Prodigy, D-Adaptation) begin at 10⁻⁶, leap and swing.
    Of plain descent, whose limit is known, none do: rounding may have swallowed the first.
    """
    lengths, half = step.lengths, len(step.lengths) // 2
    if step.lr_limit is not None or not half:
        return False
    pairs = combinations(enumerate(lengths, 1), 2)
    leaps = any(0.0 < LEAP * j / i * before < after < math.inf for (i, before), (j, after) in pairs)
    return leaps or 2.0 * lengths[half - 1] < lengths[-1] < math.inf


def needed_at_full_pace(step: StepFacts) -> float:
    """The steps needed at the full rate of the schedule, and at the length to which steps grow by themselves."""
    return (step.needed or 0.0) / ((step.scheduled or 1.0) * lengthening(step))


def lengthening(step: StepFacts) -> float:
    """How many times as long steps become within a few, and as the optimizer forgets larger gradients."""
    return grown(step) * (step.forgetting or 1.0)


def near_its_limit(step: StepFacts) -> bool:
    """Whether the rate is above a tenth of the largest that the curvature allows: then a larger one is no answer."""
    return bool(step.lr_limit) and step.lr * 2.0 / (step.lr_limit or math.inf) > 0.1
