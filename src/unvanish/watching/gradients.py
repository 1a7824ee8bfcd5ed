"""What an optimizer step works with: the gradients it sees, the weights, and how far it moves them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.watching.norms import BLOCK, ENTRIES, below_normal, norms
from unvanish.watching.signals import log10
from unvanish.watching.table import Place


def held(optimizer: Any) -> list[nn.Parameter]:
    """The parameters of an optimizer, group by group."""
    return [each for group in optimizer.param_groups for each in group["params"]]


def scale_of(optimizer: Any) -> float:
    """What the gradients are still multiplied by: fused optimizers divide by the loss scale themselves."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def sizes(
    places: Iterable[Place], divide_by: float = 1.0
) -> tuple[dict[int, tuple[float, float, float | None]], float]:
    """Of each layer log10 of the gradient norm and of the weight norm, and the share of its gradient that underflows.

    Only layers with a gradient. A gradient with an entry that is not finite has the norm +inf. Second: log10 of the
    norm of all together, in which a weight that several layers share counts once.
    """
    places = [place for place in places if not place.sharded and any(each.grad is not None for each in place.trainable)]
    gradients = [each.grad for place in places for each in place.trainable if each.grad is not None]
    known = list(zip(gradients, norms(gradients), strict=True))
    found = iter(known)
    weights = iter(norms([each for place in places for each in place.parameters]))
    result: dict[int, tuple[float, float, float | None]] = {}
    for place in places:
        mine = [next(found) for each in place.trainable if each.grad is not None]
        size = math.hypot(*(value for _, value in mine)) / divide_by
        weight = math.hypot(*(next(weights) for _ in place.parameters))
        result[place.at] = log10(size), log10(weight), _underflow(mine)
    whole = {id(gradient): size for gradient, size in known}
    return result, log10(math.hypot(*whole.values()) / divide_by) if whole else math.nan


def size_of_all(places: Iterable[Place]) -> float:
    """log10 of the norm of all gradients together; NaN where there is none."""
    whole = [place for place in places if not place.sharded]
    gradients = {id(p): p.grad for place in whole for p in place.trainable if p.grad is not None}
    return log10(math.hypot(*norms(list(gradients.values())))) if gradients else math.nan


def _underflow(gradients: list[tuple[Tensor, float]]) -> float | None:
    """The largest share among the tensors of a layer; None where all are exactly zero or not finite."""
    shares = [
        below_normal(tensor, size / math.sqrt(tensor.numel()))
        for tensor, size in gradients
        if tensor.numel() and math.isfinite(size)
    ]
    return max((each for each in shares if each is not None), default=None)


def total(values: Iterable[float]) -> float:
    """log10 of the norm of all together, from log10 of the norms of the parts; NaN counts for nothing."""
    known = [value for value in values if not math.isnan(value)]
    top = max(known, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + 0.5 * math.log10(sum(10.0 ** (2.0 * (each - top)) for each in known))


class Moves:
    """Copies of some entries of each layer's weights, taken before a step and compared after it.

    Blocks of 64 neighbouring entries, drawn anew for each tensor size; small tensors whole.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.parts: list[tuple[int, nn.Parameter, Tensor | None]] = []
        for place in places:
            for each in () if place.sharded else place.trainable:
                self.parts.append((place.at, each, _blocks(each)))
        self.before = [_some(each, rows).clone() for _, each, rows in self.parts]

    def ratios(self) -> dict[int, float]:
        """Per layer the root mean square of the update over that of the weights, both over the same entries."""
        if not self.parts:
            return {}
        with torch.no_grad():
            after = [_some(each, rows) for _, each, rows in self.parts]
            moved = norms([new.float() - old.float() for new, old in zip(after, self.before, strict=True)])
            old = norms(self.before)
        sums: dict[int, list[float]] = {}
        for (at, _, _), update, weight in zip(self.parts, moved, old, strict=True):
            mine = sums.setdefault(at, [0.0, 0.0])
            mine[0] += update * update
            mine[1] += weight * weight
        return {at: math.sqrt(u / w) if w else math.nan for at, (u, w) in sums.items()}


def _blocks(parameter: nn.Parameter) -> Tensor | None:
    """The blocks of a large tensor that are looked at; None where all of it is."""
    if parameter.numel() <= ENTRIES // 2 or not parameter.is_contiguous():
        return None
    rows = parameter.numel() // BLOCK
    wanted = ENTRIES // 4 // BLOCK
    drawn = torch.randint(rows, (wanted,), generator=torch.Generator().manual_seed(rows))
    return drawn.to(parameter.device)


def _some(parameter: nn.Parameter, rows: Tensor | None) -> Tensor:
    flat = parameter.detach()
    if rows is None:
        return flat
    whole = flat.numel() // BLOCK * BLOCK
    return flat.reshape(-1)[:whole].view(-1, BLOCK)[rows]
