"""Does a network that reacts violently to its first layers learn the task, or each sample by heart?

A chaotic network maps samples that lie close to each other to unrelated outputs. Steps of the optimizer still fit it to
the batch, often faster than a sound one, and so the loss of the batch excuses nothing. Sine networks with frequencies
that suit the task look alike from the first layers, and learn it. The loss of samples that the steps have not seen
tells them apart: they are taken on every other sample, and the others are looked at. All of it is taken back.

Source: Poole et al. 2016, Exponential expressivity in deep neural networks through transient chaos; Sitzmann, Martel,
Bergman, Lindell & Wetzstein 2020, Implicit neural representations with periodic activation functions.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from unvanish.decide.limits import EXPLODING
from unvanish.evidence.chunks import with_samples
from unvanish.evidence.moving import loss_again, or_nan
from unvanish.evidence.regained import WORK
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import Flow, StepFacts
from unvanish.rules.conditions import LEARNED, to_reach

TRIED = (10, 30, 100)
FEWEST = 16  # samples: of fewer, half says little


def with_held_out(look: Look, optimizer: Optimizers, flow: Flow, facts: StepFacts) -> StepFacts:
    """The facts with the loss of every other sample after steps on the rest, where early layers may be exploding.

    The last number of steps is that after which it is low enough to have learned something, or the last one tried.
    """
    enough = None if flow.loss is None else to_reach(flow.loss, LEARNED)
    violent = any((a.log10_sensitivity_rise or 0.0) > EXPLODING for a in flow.layers)
    if enough is None or not violent or look.problem.batch_size < FEWEST:
        return facts
    whole = dataclasses.replace(look.problem, train_batches=None)
    seen, unseen = (with_samples(whole, lambda t, first=first: t[first::2]) for first in (0, 1))
    work = look.work
    tried = [n for n in TRIED if n <= (look.problem.steps or TRIED[-1]) and n * work < WORK] or [TRIED[0]]
    value: dict[int, float] = {}

    def measured(taken: int) -> bool:
        if taken not in tried:
            return False
        with torch.no_grad():
            value[taken] = or_nan(lambda: loss_again(unseen, look.model, look.seed))
        return value[taken] < enough

    with stepped(seen, look.model, optimizer, 1.0, tried[-1], look.seed, measured, end=lambda: 0.0):
        pass
    if not value:
        return facts
    last = value[max(value)]
    return facts.replace(unseen=last if math.isfinite(last) else math.inf, unseen_after=max(value))
