"""Does the signal come by itself where an optimizer takes full steps on layers that hardly get any?

Adam and its like move every entry by about the learning rate, however small its gradient. The layers behind a long
chain of factors below one then move together, and within tens of steps the chain may pass its signal on, or it may not
for a thousand. Nothing measured before the first step tells the two apart, so the steps are really taken, and taken
back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from unvanish.decide.limits import VANISHED
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import LayerFlow, StepFacts

TRIED = (30, 100)
HOPELESS = -12.0
"""log10 of T_rel below which no steps are tried. Neither eps nor the smallest number of the type gives a bound: the
last layers move first, and a chain of 81 layers at -42, whose first gradients are zero in float32, let its signal
through within 100 steps. But those that come from so far do not train for it: of random chains under Adam in which the
signal came through, 6 of 8 from below -12 ended at the best constant after 1,500 steps, and 13 of 17 from above fitted.
"""
RISE = 0.3
"""Decades that the weakest layer must have gained by the first steps for more to be taken: as much as log10 of T_rel
differs by between seeds. All that let the signal through had by then gained 1.1 or more."""
LARGE = 3e8  # parameters times samples from which on only the first of them is tried
Measure = Callable[[], Sequence[LayerFlow]]


def with_recovery(
    look: Look, optimizer: Optimizers, facts: StepFacts, weak: Mapping[str, float], measure: Measure
) -> StepFacts:
    """The facts with how much of the signal reaches the ``weak`` layers once such steps have been taken.

    ``weak``: log10_transmission of each of them now. ``measure`` measures the layers of the model as it stands. The
    first number of steps after which more than the limit arrives, or nothing has been gained, is the last one tried.
    """
    size = look.problem.batch_size * sum(p.numel() for p in look.model.parameters())
    for steps in TRIED[: 1 if size > LARGE else None]:
        if look.problem.steps is not None and steps > look.problem.steps:
            break
        with stepped(look.problem, look.model, optimizer, 1.0, steps, look.seed) as after:
            if not math.isfinite(after):
                break
            found = [a.log10_transmission for a in measure() if a.name in weak]
        known = [value for value in found if value is not None and math.isfinite(value)]
        if len(known) < len(weak):
            break
        facts = facts.replace(arrived=min(known), arrived_after=steps)
        if min(known) > VANISHED or min(known) < min(weak.values()) + RISE:
            break
    return facts
