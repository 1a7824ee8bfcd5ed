"""Does the signal come by itself where an optimizer takes full steps on layers that hardly get any?

Adam and its like move every entry by about the learning rate, however small its gradient. The layers behind a long
chain of factors below one then move together, and within tens of steps the chain may pass its signal on, or it may not
for a thousand. Nothing measured before the first step tells the two apart, so the steps are really taken, and taken
back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from unvanish.decide.limits import VANISHED
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import StepFacts

TRIED = (30, 60, 100)
HOPELESS = -12.0
"""log10 of T_rel below which the steps, 100 of them, are not taken. The random chains
that were seen to let the signal through within 100 steps began at -4.8 to -7.7; 1,000 layers lie hundreds below."""
LARGE = 3e8  # parameters times samples from which on only the first of them is tried
Measure = Callable[[], Mapping[str, float]]


def with_recovery(
    look: Look, optimizer: Optimizers, facts: StepFacts, weak: frozenset[str], measure: Measure
) -> StepFacts:
    """The facts with how much of the signal reaches the ``weak`` layers once such steps have been taken.

    ``measure``: log10 of T_rel by layer, of the model as it stands. The first number of steps after which more than the
    limit arrives is the last that is tried.
    """
    size = look.problem.batch_size * sum(p.numel() for p in look.model.parameters())
    planned = look.problem.steps
    tried = [n for n in TRIED[: 1 if size > LARGE else None] if planned is None or n <= planned]
    taken, arrived = 0, dict[int, float]()

    def measured() -> bool:
        """Whether there is no use in going on: the signal has arrived, or cannot be told any more."""
        nonlocal taken
        taken += 1
        if taken not in tried:
            return False
        known = [value for name, value in measure().items() if name in weak and math.isfinite(value)]
        if len(known) == len(weak):
            arrived[taken] = min(known)
        return arrived.get(taken, math.inf) > VANISHED

    if tried:
        with stepped(look.problem, look.model, optimizer, 1.0, tried[-1], look.seed, measured):
            pass
    for steps, value in arrived.items():
        facts = facts.replace(arrived=value, arrived_after=steps)
    return facts
