"""Whether the loss compares each output with a target of its own.

Outputs of shape (N, 1) minus targets of shape (N,) give an N × N table: each output meets every target, and the best it
can do is the mean of them all. The same happens where a loss takes a mean over the samples before it compares. Such a
loss trains without complaint to the best constant.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.loss import best_constant_of, loss_facts
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import LossFacts, PairFacts
from unvanish.trace.calls import Capture, Met
from unvanish.trace.ends import all_meet
from unvanish.trace.scaled import is_finite
from unvanish.trace.structure import rebuild, tensors

CONSTANT = 0.02
"""What free outputs win over the best constant at most, of what random ones cost, where it is as good as any."""

SAME = 1e-5
"""Share of the loss by which a new deal of scattered outputs must change it: rounding of float32 stays below, and the
mean over n pairs moves by about 1/sqrt(n), which reaches it at 10^10 entries."""


def pair_facts(look: Look, output_loss: OutputLoss, loss: LossFacts) -> PairFacts | None:
    """What speaks for outputs that have no target of their own; None where nothing does, or it cannot be asked."""
    if loss.best_constant is None:
        return None
    try:
        with torch.no_grad():
            met = _met(look, output_loss)
            found = None if met is None else _ask(output_loss, loss, met, look.seed)
            if found is None:
                found = _stretched(look, output_loss, loss)
            return found if found is not None or met is None else _unasked(output_loss, loss, met, look.seed)
    except Exception:  # a loss that refuses other outputs or targets: nothing is claimed
        return None


def may_lack_pairs(look: Look, output_loss: OutputLoss) -> bool:
    """Whether ``pair_facts`` may have something to say, by two passes of the loss: the rest of it takes many."""
    try:
        with torch.no_grad():
            met = _met(look, output_loss)
            if met is None:
                return False
            return _dealt(_without_copies(output_loss, met[0]) or output_loss, met, look.seed) is not None
    except Exception:  # as above
        return False


def _met(look: Look, output_loss: OutputLoss) -> Met | None:
    """The shapes that meet in the loss, if the targets differ from sample to sample and the loss uses them."""
    problem, capture = look.problem, look.capture
    rows = {t.shape[0] if t.ndim else 1 for t in output_loss.now}
    samples, met = min(rows), capture.compared
    if len(rows) > 1 or samples < 2:
        return None
    given = [t for t in tensors(problem.targets) if samples in t.shape]
    if given and not any(_differ(t, samples) for t in given):
        return (
            None  # what the loss makes of them, as a table of which samples are of one class, may differ all the same
        )
    if met is not None and _differ(met[1], samples):
        return met
    own = next((t for t in tensors(problem.targets) if _differ(t, samples)), None)
    if own is None or not _matter(problem, capture):
        return None
    return tuple(output_loss.now[0].shape), own, "" if met is None else met[2]


def _ask(output_loss: OutputLoss, loss: LossFacts, met: Met, seed: int) -> PairFacts | None:
    shape, target, source = met
    if (rows := _without_copies(output_loss, shape)) is not None:
        output_loss, loss = rows, loss_facts(rows, None, loss.value, seed)
    if loss.best_constant is None:
        return None
    noise = _dealt(output_loss, met, seed)
    if noise is None:
        return None
    with torch.enable_grad():
        _, constant = best_constant_of(output_loss)
    if constant is None:
        return None
    constant = [c.to(t.dtype) for c, t in zip(constant, output_loss.now, strict=True)]
    shuffled = _shuffled(output_loss, constant, noise)  # from far off what the deal changes is lost in the rest
    if shuffled is None or not (shuffled <= SAME or all_meet(shape, tuple(target.shape))):
        return None
    cost = _scattered(output_loss, constant, noise) - loss.best_constant
    lowest = loss.value if loss.best_free is None else loss.best_free
    won = max(0.0, loss.best_constant - min(lowest, loss.best_constant))
    if not cost > 0.0:
        return None
    return PairFacts(
        outputs=shape,
        targets=tuple(target.shape),
        source=source,
        shuffled=shuffled,
        won=won / cost,
        constant=loss.best_constant,
    )


def _stretched(look: Look, output_loss: OutputLoss, loss: LossFacts) -> PairFacts | None:
    """The same of a meeting further on in the loss at which both shapes stretch, as after outputs were picked out.

    Asked of the outputs that get there: what others win, as a policy beside its critic, is no answer to it.
    """
    capture = look.capture
    for index in sorted(capture.met):
        met = capture.met[index]
        if capture.calls[index].part != "loss":
            continue
        part = _reaching(capture, output_loss, index)
        if part is None or not _differ(met[1], part.now[0].shape[0] if part.now[0].ndim else 1):
            continue
        whole = len(part.now) == len(output_loss.now)
        found = _ask(part, loss if whole else loss_facts(part, None, loss.value, look.seed), met, look.seed)
        if found is not None and found.won < CONSTANT:
            return found.replace(partly=not whole)
    return None


def _reaching(capture: Capture, output_loss: OutputLoss, index: int) -> OutputLoss | None:
    """The loss as a function of those outputs alone that this call is made of; None where it is not known which."""
    before, now = capture.leading_to([index]), output_loss.now
    if len(now) == 1:
        return output_loss
    if len(capture.outputs) != len(now):
        return None
    places = [k for k, root in enumerate(capture.outputs) if capture.owner.get(root.slot[0]) in before]

    def at(z: Sequence[Tensor]) -> Tensor:
        free = dict(zip(places, z, strict=True))
        return output_loss.at([free.get(k, t) for k, t in enumerate(now)])

    return OutputLoss(at, [now[k] for k in places]) if places else None


def _unasked(output_loss: OutputLoss, loss: LossFacts, met: Met, seed: int) -> PairFacts | None:
    """Of a loss that one constant serves as well as any outputs: the samples whose targets take them out of it.

    Labels of 0 and 1 in a loss that is made for -1 and 1 do so: a factor of 0 leaves a constant.
    """
    shape, target, source = met
    constant = loss.best_constant
    if constant is None or target.numel() != (samples := output_loss.now[0].shape[0]):
        return None
    won = max(0.0, constant - (constant if loss.best_free is None else loss.best_free))
    if won > CONSTANT * max(abs(constant), abs(loss.value)):  # as a rule
        return None
    asked = torch.zeros(samples, dtype=torch.bool, device=target.device)
    draw = output_loss.drawn(seed)
    for kept, times in ((1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (0.0, -3.0), (0.0, -1.0), (0.0, 1.0), (0.0, 3.0)):
        with torch.enable_grad():
            places = zip(output_loss.now, draw, strict=True)
            free = [(kept * t + times * n).detach().requires_grad_(True) for t, n in places]
            slopes = torch.autograd.grad(output_loss.at(free), free, allow_unused=True)
        for slope in slopes:
            if slope is not None:
                asked |= (slope.reshape(samples, -1) != 0).any(1).to(asked.device)
    labels = target.reshape(-1)
    if bool(asked.all()) or not bool(asked.any()) or bool(torch.isin(labels[~asked], labels[asked]).any()):
        return None
    cost = float(output_loss.at(draw)) - constant  # not about the constant, which may lie where a tail is flat
    if not cost > 0.0 or won > CONSTANT * cost:
        return None
    return PairFacts(
        outputs=shape,
        targets=tuple(target.shape),
        source=source,
        won=won / cost,
        constant=constant,
        shuffled=math.inf,
        unasked=int((~asked).sum()),
    )


def _dealt(output_loss: OutputLoss, met: Met, seed: int) -> list[Tensor] | None:
    """What the outputs are scattered by, if a new deal of it changes nothing or each meets every target; else None."""
    shape, target, _ = met
    spread = float(target.double().std()) if target.is_floating_point() else 1.0
    noise = [t * (spread or 1.0) for t in output_loss.drawn(seed)]
    centre = [t.mean(0, keepdim=True) for t in output_loss.now]
    shuffled = _shuffled(output_loss, centre, noise)
    if shuffled is None or not (shuffled <= SAME or all_meet(shape, tuple(target.shape))):
        return None
    # Exponentials of numbers as large as counts may be lose the targets among their digits; nearer by they do not.
    near = _shuffled(output_loss, centre, output_loss.drawn(seed)) if spread > 1.0 else None
    return None if near is not None and near > SAME and not all_meet(shape, tuple(target.shape)) else noise


def _without_copies(output_loss: OutputLoss, shape: tuple[int, ...]) -> OutputLoss | None:
    """The loss as a function of outputs of this shape, where those it takes are copies of such; else None."""
    now = output_loss.now[0]
    fits = len(output_loss.now) == 1 and len(shape) == now.ndim and shape != tuple(now.shape)
    if not fits or not all(a in (1, b) for a, b in zip(shape, now.shape, strict=True)):
        return None
    rows = now[tuple(slice(size) for size in shape)]
    if not bool((now == rows).all()):
        return None
    return OutputLoss(lambda z: output_loss.at([z[0].expand(now.shape)]), [rows.clone()])


def _shuffled(output_loss: OutputLoss, centre: Sequence[Tensor], noise: Sequence[Tensor]) -> float | None:
    """The share by which a new deal of scattered outputs changes the loss; None where its digits are lost."""
    first = _scattered(output_loss, centre, noise)
    # Not at random: a deal of two may be the same one. Each output has its own: two towers are each other's targets.
    again = _scattered(output_loss, centre, [n.roll(k, 0) for k, n in enumerate(noise, 1)])
    return abs(again - first) / abs(first) if abs(first) > torch.finfo(torch.float32).smallest_normal else None


def _scattered(output_loss: OutputLoss, centre: Sequence[Tensor], noise: Sequence[Tensor]) -> float:
    return float(output_loss.at([c + n for c, n in zip(centre, noise, strict=True)]))


def _differ(target: Tensor, samples: int) -> bool:
    axis = next((k for k, size in enumerate(target.shape) if size == samples), None)
    if axis is None or target.is_sparse or (target.is_floating_point() and not is_finite(target)):
        return False
    return bool((target != target.select(axis, 0).unsqueeze(axis)).any())


def _matter(problem: Problem, capture: Capture) -> bool:
    """Whether the loss is another one with other targets: some are handed over and not used."""

    def other(target: Tensor) -> Any:
        return target + 1.0 if target.is_floating_point() else target

    with capture.replay():
        moved = dataclasses.replace(problem, targets=rebuild(problem.targets, other))
        return float(moved.loss(capture.values)) != float(problem.loss(capture.values))
