"""What fast weight decay does to a training: real steps with it and as many without, taken and taken back.

How much of the weights a step takes is known before any step. Whether the gradient holds against it is not: where
weights are normalised their size means nothing, and a penalty may be what its user wants. So where decay alone would
halve the weights within some tens of steps, the steps are really taken.

Source: Loshchilov & Hutter 2019, Decoupled weight decay regularization; Xie & Li 2024, Implicit bias of AdamW: its
weights end within 1/λ, whatever the gradient asks.
"""

from __future__ import annotations

import math

from unvanish.decide.limits import DECAYS_FAST
from unvanish.evidence.regained import WORK
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.flow.optimizers import without_decay
from unvanish.problem import Optimizers
from unvanish.records import NextStep, StepFacts

STEPS, FEW = 100, 30
"""How many are taken: at DECAYS_FAST, half of the weights are gone after the first number; the second where it is dear.
"""


def with_decay(look: Look, optimizer: Optimizers, arrival: NextStep | None, facts: StepFacts) -> StepFacts:
    """The facts with the loss of the batch after such steps, with decay and without, where the decay is fast."""
    if arrival is None or arrival.decay_share is None or arrival.decay_share < DECAYS_FAST:
        return facts
    steps = min(STEPS if STEPS * look.work < WORK else FEW, look.problem.steps or STEPS)
    found = list[float]()
    for each in (optimizer, without_decay(optimizer, with_state=True)):
        with stepped(look.problem, look.model, each, 1.0, steps, look.seed) as loss:
            found.append(loss if math.isfinite(loss) else math.inf)
    return facts.replace(decayed=found[0], undecayed=found[1], decayed_after=steps)
