"""What a copy is worth: the metric, or the share of the loss won, on data that chooses and on data that judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.remedies.draft import asks_for_a_graph, called
from unvanish.trace.capture import autocast
from unvanish.trace.structure import rebuild, tensors
from unvanish.trials.batches import Batch, pair
from unvanish.trials.train import AS_IS, Copy, loss_of

T = TypeVar("T")
FEWEST_TO_SPLIT = 20
GROUPS = 10


class CannotScoreError(Exception):
    """A changed copy cannot take the data it is to be scored on; the message says why."""


class Scale:
    """How copies are scored, higher is better. To score a copy leaves no trace in it, nor in loss and metric.

    With a metric: its value. Without: (L₀ − L) / L_ref, the share of the achievable reduction that has been reached, by
    the problem's own loss on the outputs in their own meaning; L₀ is the loss as it is before any step. ``choosing``
    and ``judging`` are the two halves of the validation data; the same data where there is none or too little of it.
    ``graph``: outputs are computed with a graph, because model or loss take derivatives themselves. ``whole``: the
    validation data are not cut, because the network takes no half of them, as one over a graph does not.
    """

    def __init__(
        self, problem: Problem, start: float = 0.0, reference: float | None = None, whole: bool = False
    ) -> None:
        self.problem = problem
        self.start = start
        self.reference = reference
        self.graph, self.whole = False, whole
        self.unseen = problem.validation is not None
        given = pair(problem, problem.validation) if self.unseen else (problem.inputs, problem.targets)
        if self.unseen and any(t.shape[:1] == (0,) for t in tensors(given[0])):
            raise UnvanishError("Problem(validation=…) holds no sample; give some, or leave it out")
        self.choosing, self.judging = _halves(given) if self.unseen and not whole else (given, given)
        self.split = self.choosing is not self.judging
        self.unit = "share of the loss won" if problem.metric is None else _name(problem.metric)

    def set_start(self, copy: Copy) -> tuple[float, float | None]:
        """Note the loss as it is, before any step: the zero of the scale where there is no metric, and its unit."""
        if self.problem.metric is None:
            loss = self._as_it_was(copy, lambda: self._loss(copy, *self._outputs(copy, self.choosing)))
            self.start = loss if math.isfinite(loss) else 0.0
            if self.reference is None or not self.reference > 0.0:
                self.reference = abs(self.start) or 1.0
        return self.start, self.reference

    def can_be_cut(self, copy: Copy) -> bool:
        """Whether the network as it is can be scored on each of the halves."""
        try:
            for half in (self.choosing, self.judging):
                self._as_it_was(copy, lambda half=half: self._score(copy, *self._outputs(copy, half)))
        except (UnvanishError, CannotScoreError):
            return False
        return True

    def of(self, copy: Copy) -> float:
        """The score on the data that chooses; −inf where outputs or score are not finite, or a step of it failed.

        Raises CannotScoreError.
        """
        if not copy.finite:
            return -math.inf
        return self._as_it_was(copy, lambda: self._score(copy, *self._outputs(copy, self.choosing)))

    def judged(self, copy: Copy) -> list[float]:
        """The score on the data that judges, then what it is without each tenth of them, where outputs can be cut."""
        if not copy.finite:
            return [-math.inf]

        def scores() -> list[float]:
            outputs, targets = self._outputs(copy, self.judging)
            return [self._score(copy, outputs, targets), *self._left_out(copy, outputs, targets)]

        try:
            return self._as_it_was(copy, scores)
        except CannotScoreError:
            return [-math.inf]

    def own_loss(self, copy: Copy) -> float | None:
        """The loss that the copy is trained by, on the data that judges; None where it is not finite or fails there."""
        if not copy.finite:
            return None

        def loss() -> float:
            inputs, targets = self.judging
            copy.model.eval()
            with autocast(self.problem, copy.model):
                value = loss_of(copy.draft.loss_fn, called(copy.model, inputs), targets)
            return float(value.detach() if isinstance(value, Tensor) else value)

        try:
            value = self._as_it_was(copy, loss)
        except Exception:  # a loss written for batches of one size, say: the score says what there is to say
            return None
        return value if math.isfinite(value) else None

    def _as_it_was(self, copy: Copy, work: Callable[[], T]) -> T:
        """Random numbers follow from the copy's seed; model, loss and metric are afterwards as they were."""
        try:
            kept = untouched(copy.model, copy.seed, self.problem.loss_fn, self.problem.metric)
            with kept, torch.set_grad_enabled(self.graph):
                return work()
        except (UnvanishError, CannotScoreError) as error:
            if self.graph or not asks_for_a_graph(error.__cause__):
                raise
        self.graph = True
        return self._as_it_was(copy, work)

    def _left_out(self, copy: Copy, outputs: Any, targets: Any) -> list[float]:
        count = rows(outputs)
        if self.whole or count < 2 * GROUPS or (self.problem.metric is None and self.problem.loss_fn is None):
            return []
        if any(t.ndim == 0 or t.shape[0] != count for t in tensors((outputs, targets))):
            return []
        keep = [[i for i in range(count) if i % GROUPS != g] for g in range(GROUPS)]
        return [self._score(copy, take(outputs, k, count), take(targets, k, count)) for k in keep]

    def _outputs(self, copy: Copy, data: Batch) -> Batch:
        """Outputs in evaluation mode, and targets. Raises CannotScoreError where a changed copy cannot take them."""
        inputs, targets = data
        copy.model.eval()
        try:
            with autocast(self.problem, copy.model):
                outputs = called(copy.model, inputs)
                if copy.draft.restore_outputs is not None:
                    outputs = copy.draft.restore_outputs(outputs)
        except UnvanishError:
            raise
        except Exception as error:
            what = f"the {'validation data' if self.unseen else 'batch'} raised {type(error).__name__}: {error}"
            if copy.candidate == AS_IS:
                raise UnvanishError(f"running the network as it is on {what}") from error
            raise CannotScoreError(f"running it on {what}") from error
        return outputs, targets

    def _score(self, copy: Copy, outputs: Any, targets: Any) -> float:
        if any(not bool(torch.isfinite(t).all()) for t in tensors(outputs) if t.is_floating_point()):
            return -math.inf
        metric = self.problem.metric
        if metric is None:
            score = (self.start - self._loss(copy, outputs, targets)) / (self.reference or 1.0)
        else:
            score = self._metric(metric, copy, rebuild(outputs, Tensor.detach) if self.graph else outputs, targets)
        return score if math.isfinite(score) else -math.inf

    def _metric(self, metric: Callable[..., Any], copy: Copy, outputs: Any, targets: Any) -> float:
        try:
            value = metric(outputs, targets)
        except Exception as error:
            raise UnvanishError(
                f"metric(outputs, targets) raised {type(error).__name__} in the trial {copy.title!r} after"
                f" {copy.steps} steps: {error}"
            ) from error
        try:
            if isinstance(value, str):  # float() would read "0.9"
                raise TypeError
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UnvanishError(
                f"metric(outputs, targets) returned a {type(value).__name__} in the trial {copy.title!r}; it must"
                " return one number, higher is better"
            ) from None

    def _loss(self, copy: Copy, outputs: Any, targets: Any) -> float:
        try:
            loss = loss_of(self.problem.loss_fn, outputs, targets)
            return float(loss.detach() if isinstance(loss, Tensor) else loss)
        except UnvanishError:
            raise
        except Exception as error:
            fault = f"gave no single loss ({type(error).__name__}: {error})"
            hint = ""
            if self.problem.loss_fn is None:
                hint = "; there is no loss_fn, so the model must return its loss"
            elif self.problem.validation is None:
                hint = (
                    "; without validation it is a part of the batch: what the loss_fn knows of all samples by itself"
                    " goes into targets, a tuple or a mapping, and is parted with them"
                )
            raise UnvanishError(f"the scoring data of the trial {copy.title!r} {fault}{hint}") from error


def standard_error(differences: Sequence[Sequence[float]]) -> float:
    """Of the mean over seeds of score differences, from the seeds and from the data that judged.

    se² = var_seeds / k + (g − 1)/g · Σ (d₋ᵢ − mean d₋ᵢ)², the second term the jackknife over g groups of the mean
    difference. ``differences``: per seed the difference on all judging data, then those without one group each.
    Source: Efron 1982, chapter 3.
    """
    whole = [each[0] for each in differences]
    count = len(whole)
    mean = sum(whole) / count
    by_seed = sum((d - mean) ** 2 for d in whole) / (count - 1) / count if count > 1 else 0.0
    groups = min(len(each) for each in differences) - 1
    if groups < 2:
        return math.sqrt(by_seed)
    left_out = [sum(each[g] for each in differences) / count for g in range(1, groups + 1)]
    middle = sum(left_out) / groups
    by_data = (groups - 1) / groups * sum((d - middle) ** 2 for d in left_out)
    return math.sqrt(by_seed + by_data)


def rows(tree: Any) -> int:
    """The first dimension of the first tensor that has one; 0 where there is none."""
    return next((t.shape[0] for t in tensors(tree) if t.ndim), 0)


def take(tree: Any, places: Sequence[int], count: int) -> Any:
    """The same structure with only these rows of every tensor, array or list that has ``count`` of them."""
    if isinstance(tree, list) and len(tree) == count and not any(isinstance(each, Tensor) for each in tree):
        return [tree[place] for place in places]
    if not isinstance(tree, (Tensor, list)) and getattr(tree, "shape", (0,))[:1] == (count,):
        return tree[list(places)]
    index = torch.tensor(places)
    return rebuild(tree, lambda t: t[index.to(t.device)] if t.ndim and t.shape[0] == count else t)


def _halves(whole: Batch) -> tuple[Batch, Batch]:
    """Two random halves, always the same ones; twice the whole where a half would be too small to tell."""
    count = rows(whole[0])
    if count < FEWEST_TO_SPLIT:
        return whole, whole
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    parts = sorted(order[: count // 2]), sorted(order[count // 2 :])
    first, second = ((take(whole[0], part, count), take(whole[1], part, count)) for part in parts)
    return first, second


def _name(metric: Callable[..., Any]) -> str:
    name = "".join(filter(str.isprintable, getattr(metric, "__name__", type(metric).__name__)))
    return "metric" if name == "<lambda>" else name.strip("_").replace("_", " ")
