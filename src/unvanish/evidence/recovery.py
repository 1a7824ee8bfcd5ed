"""Does the signal come by itself where an optimizer takes full steps on layers that hardly get any?

Adam and its like move every entry by about the learning rate, however small its gradient. The layers behind a long
chain of factors below one then move together, and within tens of steps the chain may pass its signal on, or it may not
for a thousand. Nothing measured before the first step tells the two apart, so the steps are really taken, and taken
back.

A loss that stands still tells nothing meanwhile: the last layers have found the best constant. What tells is the
signal itself. Each factor of the chain grows by about the same with every step, so their product grows ever faster, as
on the way out of a saddle; where the steps do not add up it stays where it is, or sinks. So after the first hundred
steps, in which the last layers find their place, more are taken as long as the signal rises fast enough, or faster and
faster. A loss that falls does tell, if it falls by what the weak layers learn: once sure, a network may saturate and
transmit as little as ever. And one that falls nearly all the way needs no layer that is not reached: as the branches
beside a trunk, which may wait for each other while the rest learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unvanish.decide.limits import HORIZON, STATIONARY, VANISHED
from unvanish.decide.stationary import floor_of, steps_to_leave
from unvanish.evidence.moving import loss_again, or_nan, put_back
from unvanish.evidence.step import stepped
from unvanish.flow.look import Look
from unvanish.problem import Optimizers
from unvanish.records import LossFacts, StepFacts
from unvanish.rules.conditions import to_reach
from unvanish.rules.pace import rises_steadily

FIRST = tuple(range(30, 101, 10))
DOUBLED = (200, 400, 800)
LOOKS = 6
"""Looks in each doubling, the last at its end: as many as show a trend, also in the pace from each to the next."""
TRIED = FIRST + tuple(end // 2 + end // 2 * k // LOOKS for end in DOUBLED for k in range(1, LOOKS + 1))
HOPELESS = -12.0
"""log10 of T_rel below which no steps are tried. Neither eps nor the smallest number of the type gives a bound: the
last layers move first, and a chain of 81 layers at -42, whose first gradients are zero in float32, let its signal
through within 100 steps. But those that come from so far do not train for it: of random chains under Adam in which the
signal came through, 6 of 8 from below -12 ended at the best constant after 1,500 steps, and 13 of 17 from above fitted.
What the first hundred steps themselves have thrown below it is left there for the same reason.
"""
LATEST = 1.3
"""Times the step that the pace tells, by which all of the chains that ``steps_to_leave`` speaks of had left."""
NEARLY = 0.9
"""Share of the loss won from which on a network counts as fitting its batch, whichever of its layers have learned."""
LARGE = 3e8  # parameters times samples from which on only the first of them is tried
WORK = FIRST[-1] * LARGE  # the same times steps: up to here more are tried after the first hundred
Measure = Callable[[], tuple[float, Mapping[str, float]]]


def with_recovery(
    look: Look,
    optimizer: Optimizers,
    facts: StepFacts,
    weak: frozenset[str],
    loss: LossFacts | None,
    measure: Measure,
    outputs: float = 0.0,
) -> StepFacts:
    """The facts with how much of the signal reaches the ``weak`` layers once such steps have been taken.

    ``measure``: of the model as it stands the loss of the batch, and log10 of T_rel of every layer. ``loss``: what is
    known of it before the first step, ``outputs``: the norm of all outputs there. The first number of steps after which
    more than the limit arrives, and has for long enough, or half of the loss has been learned by those layers or nearly
    all of it by any, is the last one tried; so is the end of a doubling at which what arrives does not rise.
    """
    enough, fits = _enough(loss, outputs)
    size = look.work
    most = FIRST[0] if size > LARGE else max(FIRST[-1], WORK / size)
    left = None if look.problem.steps is None else max(0, look.problem.steps - (facts.taken or 0))
    planned, horizon = (TRIED[-1], HORIZON) if left is None else (left, left)
    tried = [n for n in TRIED if n <= min(most, planned)]
    theirs = list({id(p): p for a in look.layers if a.name in weak for p in a.live}.values())
    before = [p.detach().clone() for p in theirs]
    arrived, learned = dict[int, float](), None

    def measured(taken: int) -> bool:
        """Whether there is no use in going on: the signal has arrived, does not come, or cannot be told any more."""
        nonlocal learned
        if taken not in tried:
            return False
        now, sent = measure()
        known = [value for name, value in sent.items() if name in weak and math.isfinite(value)]
        if len(known) < len(weak):
            return True
        arrived[taken] = min(known)
        if _lasts(arrived):
            return True
        by_these = enough is not None and now < enough < _with_values(look, theirs, before)
        if by_these or (fits is not None and now < fits):
            learned = now
        here = arrived[taken] > VANISHED
        if taken == FIRST[-1] and arrived[taken] < HOPELESS:
            return True
        if learned is not None or taken not in DOUBLED:
            return learned is not None
        return not (here or _pace(arrived, horizon) or _accelerates(arrived))

    if tried:
        with stepped(look.problem, look.model, optimizer, 1.0, tried[-1], look.seed, measured):
            pass
    if not arrived:
        return facts
    end = max(arrived)
    more = end == tried[-1] and min(most, TRIED[-1]) <= planned and learned is None and arrived[end] <= VANISHED
    pace = _pace(arrived, horizon) if more and rises_steadily([value for _, value in _last(arrived)]) else 0.0
    return facts.replace(arrived=arrived[end], arrived_after=end, learned=learned, arriving=pace or None)


def _enough(loss: LossFacts | None, outputs: float) -> tuple[float | None, float | None]:
    """The losses below which something has been learned, and all but NEARLY all; None where there is no such scale.

    From far above the best constant output a fall down to that is no learning, whatever its share. A loss without a
    lowest value has none to take a share of, and rounding brings it below that of the best constant: then so much less
    counts as outputs win that move a thousandth of their size where the loss asks them to.
    """
    if loss is not None and loss.best_constant is not None and floor_of(loss) is None:
        return loss.best_constant - STATIONARY * (loss.residual_norm or 0.0) * outputs, None
    if loss is None or loss.best_constant is None:
        return (None if loss is None else to_reach(loss)), None
    fits = to_reach(loss, NEARLY)
    return to_reach(loss), fits if fits is not None and fits < loss.best_constant else None


def _lasts(arrived: Mapping[int, float]) -> bool:
    """Whether the signal has arrived and stayed for half as many steps again as it took.

    A chain of sigmoids may let it through for a hundred steps on its way from one saturated state to the next.
    """
    lost = max((steps for steps, value in arrived.items() if value <= VANISHED), default=0)
    since = min((steps for steps in arrived if steps > lost), default=math.inf)
    return max(arrived) >= 1.5 * since


def _pace(arrived: Mapping[int, float], horizon: int) -> float:
    """The decades a step by which what arrives has risen since its lowest over the last doubling; 0 where too slowly.

    Since its lowest, because the first steps may throw it up, and it comes to rest before it grows. Too slow is what
    may not arrive within ``horizon`` steps of the training (see ``steps_to_leave`` and LATEST).
    """
    last = _last(arrived)
    (lowest, least), (end, value) = min(last, key=lambda look: look[1]), last[-1]
    pace = (value - least) / max(1, end - lowest)
    return pace if LATEST * (end + steps_to_leave(pace)) < horizon else 0.0


def _accelerates(arrived: Mapping[int, float]) -> bool:
    """Whether what arrives rises, if ever so slowly, and by more from look to look, as where a saddle is left."""
    pairs = pairwise(_last(arrived))
    paces = [(value - before) / (steps - start) for (start, before), (steps, value) in pairs]
    return paces[-1] > 0.0 and rises_steadily(paces)


def _last(arrived: Mapping[int, float]) -> list[tuple[int, float]]:
    """The looks of the last doubling, and the one it starts from: number of steps, and what arrives."""
    end = max(arrived)
    return [(steps, value) for steps, value in sorted(arrived.items()) if 2 * steps >= end]


def _with_values(look: Look, parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> float:
    """The loss of the batch with these values in place of those that the parameters have."""
    with put_back(parameters), torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data.copy_(value)
        return or_nan(lambda: loss_again(look.problem, look.model, look.seed))
