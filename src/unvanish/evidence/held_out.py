"""Does a network that reacts violently to its first layers learn the task, or each sample by heart?

A chaotic network maps samples that lie close to each other to unrelated outputs. Steps of the optimizer still fit it to
the batch, often faster than a sound one, and so the loss of the batch excuses nothing. Sine networks with frequencies
that suit the task look alike from the first layers, and learn it. The loss of samples that the steps have not seen
tells them apart: they are taken on every other sample, and the others are looked at. All of it is taken back.

Attention whose queries each look at one entry, picked at random, learns few examples by heart and many for what they
have in common: which of the two it is only training batches tell.

Source: Poole et al. 2016, Exponential expressivity in deep neural networks through transient chaos; Sitzmann, Martel,
Bergman, Lindell & Wetzstein 2020, Implicit neural representations with periodic activation functions.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import cycle, islice
from typing import Any

import torch

from unvanish.decide.limits import EXPLODING
from unvanish.evidence.chunks import with_samples
from unvanish.evidence.moving import loss_again, or_nan
from unvanish.evidence.regained import WORK
from unvanish.evidence.step import batches_of, stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers, Problem
from unvanish.records import Flow, StepFacts
from unvanish.rules.conditions import LEARNED, to_reach
from unvanish.rules.saturation import FLAT, copying_calls
from unvanish.trace.structure import tensors

TRIED = (10, 30, 100)
LATER = (200, 400)
"""Further steps where attention copies at random: unscaled scores fit texts of which each is new after 100 to 300."""
FEWEST = 16  # samples: of fewer, half says little


def with_held_out(look: Look, optimizer: Optimizers, flow: Flow, facts: StepFacts) -> StepFacts:
    """The facts with the loss of samples that real steps have not seen, where early layers may be exploding.

    Those are every other sample of the batch. Where attention copies at random, they are the last training batch, and
    the steps are taken on the others: from half a batch such a network learns by heart whatever its scores are.

    The last number of steps is that after which it is low enough to have learned something, or the last one tried.
    """
    enough = None if flow.loss is None else to_reach(flow.loss, LEARNED)
    violent = any((a.log10_sensitivity_rise or 0.0) > EXPLODING for a in flow.layers)
    copies = flow.loss is not None and flow.loss.at_constant and bool(copying_calls(flow, FLAT))
    if enough is None or not (violent or copies) or look.problem.batch_size < FEWEST:
        return facts
    parts, tried = (_halves(look), TRIED) if violent else (_apart(look), (*TRIED, *LATER))
    if parts is None:
        return facts
    seen, unseen = parts
    work = look.work
    tried = [n for n in tried if n <= (look.problem.steps or tried[-1]) and n * work < WORK] or [tried[0]]
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


def _halves(look: Look) -> tuple[Problem, Problem]:
    whole = dataclasses.replace(look.problem, train_batches=None)
    seen, unseen = (with_samples(whole, lambda t, first=first: t[first::2]) for first in (0, 1))
    return seen, unseen


def _apart(look: Look) -> tuple[Problem, Problem] | None:
    """The problem on the training batches but the last, over and over, and on that; None where there is but one."""
    problem = look.problem
    found = [each for each in batches_of(problem, look.model, LATER[-1], look.seed) if each is not problem]
    others = [each for each in found[:-1] if not _same(each.inputs, found[-1].inputs)]
    if not others:
        return None
    whole = [each.inputs if problem.loss_fn is None else (each.inputs, each.targets) for each in others]
    again = list(islice(cycle(whole), LATER[-1]))
    return dataclasses.replace(problem, train_batches=again), found[-1]


def _same(one: Any, other: Any) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=False))
