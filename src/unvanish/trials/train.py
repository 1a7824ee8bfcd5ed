"""One copy of the network under one combination of remedies, trained step by step and never further than asked."""

from __future__ import annotations

import copy
import inspect
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.preserve import random_states, seeded
from unvanish.problem import Optimizer, Problem, rate_of
from unvanish.records import Finding, LayerFlow, UnvanishError
from unvanish.remedies import get
from unvanish.remedies.draft import Change, Draft, called, copied
from unvanish.trace.capture import autocast
from unvanish.trace.structure import inner_loss
from unvanish.trials.batches import Batch, Batches

Candidate = tuple[str, ...]
AS_IS: Candidate = ()
RECENT = 8
"""The loss at first and the loss now are means over so many steps; over a quarter of them where there are few."""


@dataclass
class Copy:
    """A copy under repair: the model after the edits, its optimizer, and where its training stands.

    ``failed_on``: the batch on which its loss was no number any more.
    """

    candidate: Candidate
    seed: int
    draft: Draft
    optimizer: Optimizer
    changes: tuple[Change, ...]
    walk: Iterator[Batch]
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    resume_random: Callable[[], None] | None = None
    failure: str = ""
    failed_on: Batch | None = None

    @property
    def model(self) -> nn.Module:
        return self.draft.model

    @property
    def title(self) -> str:
        return title(self.candidate)

    @property
    def finite(self) -> bool:
        """Whether it can be trained on: no step failed, no loss left the numbers."""
        return not self.failure

    @property
    def _window(self) -> int:
        return max(1, min(RECENT, len(self.losses) // 4))

    @property
    def loss_before(self) -> float:
        first = self.losses[: self._window]
        return sum(first) / len(first) if first else math.nan

    @property
    def loss_now(self) -> float:
        last = self.losses[-self._window :]
        return sum(last) / len(last) if last else math.nan

    @property
    def falling(self) -> bool:
        """Whether the mean loss of the last quarter is below that of the quarter before, by more than chance makes."""
        part = len(self.losses) // 4
        if part < 2:
            return False
        before, now = self.losses[-2 * part : -part], self.losses[-part:]
        error = math.sqrt((statistics.variance(before) + statistics.variance(now)) / part)
        return statistics.fmean(before) - statistics.fmean(now) > 2.0 * error

    @property
    def loss_fall(self) -> float:
        """(L₀ − L) / max(|L₀|, |L|) of the training loss, between −1 and 1; 0 before the first step."""
        before, now = self.loss_before, self.loss_now
        scale = max(abs(before), abs(now))
        return max(-1.0, (before - now) / scale) if scale > 0.0 else 0.0


def title(candidate: Candidate) -> str:
    """The name of a combination, for people."""
    return " + ".join(candidate) or "as is"


def prototype(
    problem: Problem,
    seed: int,
    batches: Batches,
    *,
    findings: Sequence[Finding],
    layers: Sequence[LayerFlow],
    pretrained: bool,
) -> Draft:
    """What every trial of a seed starts from: a copy of the network before any edit. The user's own is only read.

    Parameters that the user's optimizer does not hold are frozen in it, since every trial has an optimizer of its own.
    """
    model, optimizer = problem.build(seed)
    if optimizer is None:
        raise UnvanishError(
            "fix trains copies of the network, but Problem has no optimizer: pass the one you train with, such as"
            " optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
        )
    if getattr(inspect.signature(optimizer.step).parameters.get("closure"), "default", None) is inspect.Parameter.empty:
        raise UnvanishError(
            f"{type(optimizer).__name__} asks for the loss several times a step (step(closure)), and a budget counts"
            " single steps; give the Problem another optimizer, such as Adam"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(p.requires_grad and id(p) in held for p in model.parameters()):
        raise UnvanishError(
            "every parameter the optimizer holds is frozen (requires_grad=False), so no training can change anything;"
            " unfreeze what is meant to learn"
        )
    shared = replace(problem, train_batches=None if batches.only_the_batch else batches.epoch(seed, 0))
    draft = Draft.of(shared, model, optimizer, findings=findings, layers=layers, seed=seed, pretrained=pretrained)
    for mine, theirs in zip(draft.model.parameters(), model.parameters(), strict=True):
        if id(theirs) not in held:
            mine.requires_grad_(False)
    return draft


@dataclass
class Edited:
    """A draft after some edits, never trained, that further edits may go on from."""

    draft: Draft
    changes: tuple[Change, ...]
    random_state: Tensor


Made = dict[Candidate, Edited]


def start(original: Draft, candidate: Candidate, seed: int, batches: Batches, made: Made) -> Copy:
    """A fresh copy with the edits made and an optimizer of its own; raises remedies.Refused where one does not apply.

    Random numbers of the edits follow from ``seed``. ``made`` keeps single edits of this seed for pairs to begin with.
    """
    if isinstance(original.loss_fn, nn.Module):
        # an edit may wrap the loss, which has a state: each copy needs one of its own
        original, made = replace(original, loss_fn=copy.deepcopy(original.loss_fn)), {}
    with seeded(seed):
        edited = _edited(original, candidate, seed, made)
        draft = edited.draft.fork()
        if any(draft.model is kept.model for kept in (original, *(each.draft for each in made.values()))):
            draft.model, draft.recipe = copied(draft.model, draft.recipe)
        optimizer = draft.recipe.build(draft.model.parameters())
    for group in optimizer.param_groups:
        if group.get("foreach", True) is None and not group.get("fused"):
            group["foreach"] = True  # the same numbers, a quarter quicker for many small tensors
    return Copy(candidate, seed, draft, optimizer, edited.changes, batches.walk(seed))


def _edited(original: Draft, candidate: Candidate, seed: int, made: Made) -> Edited:
    """The draft with these edits made; one that a pair may begin with is kept in ``made``."""
    if candidate in made:
        return made[candidate]
    if not candidate:
        draft = original.fork()
        draft.generator = torch.Generator().manual_seed(seed)
        return Edited(draft, (), torch.get_rng_state())
    before = _edited(original, candidate[:-1], seed, made)
    draft = before.draft.fork()
    torch.set_rng_state(before.random_state)
    change = get(candidate[-1]).apply(draft)
    edited = Edited(draft, (*before.changes, change), torch.get_rng_state())
    if len(candidate) == 1:
        made[candidate] = edited
    return edited


def train(each: Copy, problem: Problem, to: int) -> None:
    """Train until ``to`` steps are taken; stops where a loss is not finite or a step fails, which ``failure`` tells.

    What a step is: loss, gradient, clipping where the recipe has it, the optimizer's step at the rate of the warm-up.
    """
    recipe, optimizer = each.draft.recipe, each.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rated = [group for group in optimizer.param_groups if not math.isnan(rate_of(group))]
    rates = [group["lr"] for group in rated]
    if not each.model.training:
        each.model.train()
    with seeded(each.seed + 7919 * each.steps):
        if each.resume_random is not None:
            each.resume_random()
        try:
            while each.steps < to and each.finite:
                if each.steps < recipe.warmup:
                    for group, rate in zip(rated, rates, strict=True):
                        group["lr"] = rate * recipe.rate(each.steps)
                _step(each, problem, parameters)
        finally:
            each.resume_random = random_states()
            for group, rate in zip(rated, rates, strict=True):
                group["lr"] = rate


def _step(each: Copy, problem: Problem, parameters: list[Tensor]) -> None:
    inputs, targets = next(each.walk)
    each.optimizer.zero_grad(set_to_none=True)
    each.steps += 1
    try:
        with autocast(problem, each.model):
            loss = loss_of(each.draft.loss_fn, called(each.model, inputs), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            each.failure, each.failed_on = f"the loss was {value} at step {each.steps}", (inputs, targets)
            return
        loss.backward()
        each.draft.recipe.clip_gradients(parameters)
        each.optimizer.step()
    except UnvanishError:
        raise
    except Exception as error:
        each.failure = f"step {each.steps} raised {type(error).__name__}: {error}"
        return
    each.losses.append(value)


def loss_of(loss_fn: Callable[..., Any] | None, outputs: Any, targets: Any) -> Any:
    """The loss of these outputs, as Problem has it."""
    if loss_fn is not None:
        return loss_fn(outputs, targets)
    return outputs if isinstance(outputs, Tensor) else inner_loss(outputs)
