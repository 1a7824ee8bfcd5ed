"""The best outputs of the usual losses, known in closed form: no search has to find them.

Cross-entropy −Σ q log softmax(z) is least where softmax(z) is proportional to q, squared errors at the targets, binary
cross-entropy where the probability is the share of ones, a Poisson likelihood where the rate is the count; one output
for all samples is best where it is that for the weights summed over the samples. The loss itself says what it is worth
there, so that a reduction, a weight or a target that counts for nothing needs no formula of its own.

Source: Bishop, Pattern Recognition and Machine Learning (2006), sections 1.5.5 and 4.3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unvanish.trace.listening import Listening

Loss = Callable[[Sequence[Tensor]], Tensor]
FLOOR = math.exp(-30.0)
"""What a class that never occurs counts for, beside the one that counts most: less than any loss can show."""
NEAR = 1e-4
"""Loss, in nats a sample, that is left at the nearest outputs that count as best: the best of all lie at infinity."""
MOVES = (
    "View", "ReshapeAlias", "UnsafeView", "Transpose", "Permute", "T", "Slice", "Select", "Squeeze", "Unsqueeze",
    "Clone", "Alias", "ToCopy", "Unbind", "Split", "SplitWithSizes",
)  # fmt: skip
"""Nodes of autograd, less "Backward" and a number, that hand entries on and change none."""


@dataclass(frozen=True)
class Known:
    """A loss that is known: which of the outputs it is computed of, and per entry of that what its best values follow.

    ``best`` of ``shares``, summed over any samples, is the best entry for all of them. ``near``: an output nearer to
    the present one that is as good to NEAR; where the loss does not look, it is the present one.
    """

    place: int
    shares: tuple[Tensor, ...]
    best: Callable[..., Tensor]
    near: Tensor

    def free(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The best outputs of all; those that this loss does not look at stay."""
        return self._put(outputs, self.best(*self.shares))

    def nearest(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs as good as the best to NEAR, without a step that the loss does not ask for."""
        return self._put(outputs, self.near)

    def constant(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The best output for all samples, with one row."""
        summed = [share.sum(0, keepdim=True, dtype=_wide(share.dtype)) for share in self.shares]
        return self._put([t.mean(0, keepdim=True) for t in outputs], self.best(*summed))

    def _put(self, outputs: Sequence[Tensor], best: Tensor) -> list[Tensor]:
        return [best if place == self.place else t.detach() for place, t in enumerate(outputs)]


def known(loss: Loss, now: Sequence[Tensor]) -> Known | None:
    """What is known of this loss; None unless it is one call of a known loss on entries of an output, and no more."""
    if any(not t.is_floating_point() or t.is_sparse or t.is_nested for t in now):
        return None
    calls: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def heard(*call: Any) -> None:
        if call[0] in _SHARES:
            calls.append(call)

    try:
        with torch.enable_grad(), Listening(heard):
            z = [t.detach().as_subclass(Tensor).clone().requires_grad_(True) for t in now]
            value = loss(z)
        if not calls or calls[-1][-1] is not value:
            return None
        func, args, kwargs, _ = calls[-1]
        given = _signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        entries, target = given.arguments["input"], given.arguments["target"]
        place = _taken_from(entries, z)
        if place is None or target.requires_grad or not bool(torch.isfinite(target).all()):
            return None
        shares = _SHARES[func](given.arguments)
        if shares is None:
            return None
        which = (func, given.arguments["log_input"]) if func is F.poisson_nll_loss else func
        near = _NEAREST[which](entries.detach(), *shares).to(entries.dtype)
        kept = [*shares, near - entries.detach()]
        *back, move = (torch.autograd.grad(entries, z[place], one, retain_graph=True)[0] for one in kept)
    except Exception:  # whatever it is, it is searched instead
        return None
    return Known(place, tuple(back), _BEST[which], now[place].detach() + move)


_signature = cache(inspect.signature)  # of a few functions of torch's, and dear to read


def _taken_from(entries: Tensor, outputs: Sequence[Tensor]) -> int | None:
    """Which output these are entries of, each of them once and as it was; None where they are something else."""
    node = entries.grad_fn
    if node is None:
        return next((place for place, t in enumerate(outputs) if t is entries), None)
    while len(node.next_functions) == 1 and node.name().split("Backward")[0] in MOVES:
        node = node.next_functions[0][0]
        if node is None:
            return None
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            return next((place for place, t in enumerate(outputs) if t is leaf), None)
    return None


def _of_classes(given: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """Cross-entropy: what each class counts for, in the shape of the logits (class dimension 1)."""
    logits, target, smooth = given["input"], given["target"], given["label_smoothing"]
    if logits.ndim < 2:
        return None
    classes = logits.shape[1]
    weight = None
    if given["weight"] is not None:
        weight = given["weight"].detach().to(logits).view(1, classes, *(1,) * (logits.ndim - 2))
    if target.is_floating_point():
        if bool((target < 0.0).any()):
            return None
        share = target.to(logits) * (1.0 - smooth) + smooth / classes
        return (share if weight is None else weight * share,)
    counted = target != given["ignore_index"]
    hot = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    hot.scatter_(1, torch.where(counted, target, 0).unsqueeze(1), 1.0 - smooth)
    if smooth:
        # a smoothed class counts with its own weight, and the others with theirs
        hot += smooth / classes
    hot = hot if weight is None else hot.mul_(weight)
    return (hot if bool(counted.all()) else hot.mul_(counted.unsqueeze(1)),)


def _of_numbers(given: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """Squared error: the targets, and how many there are."""
    entries, target = given["input"], given["target"]
    if given.get("weight") is not None or entries.shape != target.shape or target.is_complex():
        return None
    return target.to(entries), torch.ones_like(entries)


def _of_coins(given: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """Binary cross-entropy: what a one counts for, and what a zero."""
    entries, target = given["input"], given["target"]
    if entries.shape != target.shape or bool(((target < 0.0) | (target > 1.0)).any()):
        return None
    ones, zeros = target.to(entries), 1.0 - target.to(entries)
    if given.get("pos_weight") is not None:
        ones = ones * given["pos_weight"].detach()
    if given["weight"] is not None:
        ones, zeros = ones * given["weight"].detach(), zeros * given["weight"].detach()
    return (ones, zeros) if bool((ones >= 0.0).all()) and bool((zeros >= 0.0).all()) else None


def _of_counts(given: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """Poisson: the counts, and how many there are."""
    return None if bool((given["target"] < 0.0).any()) else _of_numbers(given)


def _log(counts: Tensor) -> Tensor:
    least = (counts.amax() * FLOOR).clamp_min(torch.finfo(counts.dtype).tiny)
    return counts.clamp_min(least).log_()


def _odds(ones: Tensor, zeros: Tensor) -> Tensor:
    least = (torch.maximum(ones, zeros) * FLOOR).clamp_min(torch.finfo(ones.dtype).tiny)
    return torch.maximum(ones, least).log() - torch.maximum(zeros, least).log()


def _near_classes(entries: Tensor, share: Tensor) -> Tensor:
    """Logits are worth the same when all of a sample grow by one number: their mean stays."""
    most = share.amax(1, keepdim=True)
    best = share.clamp_min(most * (NEAR / share.shape[1])).log_()
    best += (entries - best).mean(1, keepdim=True)
    return best if bool((most > 0.0).all()) else torch.where(most > 0.0, best, entries)


def _near_coins(entries: Tensor, ones: Tensor, zeros: Tensor) -> Tensor:
    most = torch.maximum(ones, zeros)
    least = most * NEAR
    best = torch.maximum(ones, least).log() - torch.maximum(zeros, least).log()
    return torch.where(most > 0.0, best, entries)


def _near_numbers(entries: Tensor, target: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0.0, _mean(target, count), entries)


def _near_shares(entries: Tensor, ones: Tensor, zeros: Tensor) -> Tensor:
    return _near_numbers(entries, ones, ones + zeros)


def _log_mean(total: Tensor, count: Tensor) -> Tensor:
    return _log(_mean(total, count))


def _near_rates(entries: Tensor, total: Tensor, count: Tensor) -> Tensor:
    mean = _mean(total, count)
    return torch.where(count > 0.0, mean.clamp_min(mean.mean() * NEAR).log(), entries)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return total / count.clamp_min(torch.finfo(count.dtype).tiny)


def _share(ones: Tensor, zeros: Tensor) -> Tensor:
    return _mean(ones, ones + zeros)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else torch.float64


_SHARES: dict[Any, Callable[[dict[str, Any]], tuple[Tensor, ...] | None]] = {
    F.cross_entropy: _of_classes,
    F.mse_loss: _of_numbers,
    F.binary_cross_entropy_with_logits: _of_coins,
    F.binary_cross_entropy: _of_coins,
    F.poisson_nll_loss: _of_counts,
}
_BEST: dict[Any, Callable[..., Tensor]] = {
    F.cross_entropy: _log,
    F.mse_loss: _mean,
    F.binary_cross_entropy_with_logits: _odds,
    F.binary_cross_entropy: _share,
    (F.poisson_nll_loss, True): _log_mean,
    (F.poisson_nll_loss, False): _mean,
}
_NEAREST: dict[Any, Callable[..., Tensor]] = {
    F.cross_entropy: _near_classes,
    F.mse_loss: _near_numbers,
    F.binary_cross_entropy_with_logits: _near_coins,
    F.binary_cross_entropy: _near_shares,
    (F.poisson_nll_loss, True): _near_rates,
    (F.poisson_nll_loss, False): _near_numbers,
}
