"""What an optimizer step works with: the gradients it sees, the weights, and how far it moves them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.watching.norms import BLOCK, ENTRIES, below_normal, drawn, local, norms
from unvanish.watching.signals import log10
from unvanish.watching.table import Place, spread


def held(optimizer: Any) -> list[nn.Parameter]:
    """The parameters of an optimizer, group by group."""
    return [each for group in optimizer.param_groups for each in group["params"]]


def scale_of(optimizer: Any) -> float:
    """What the gradients are still multiplied by: fused optimizers divide by the loss scale themselves."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


class Seen:
    """Norms of gradients as the last backward left them.

    They are read again before the step: unscaling and clipping write without a trace in a tensor's version counter.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, float]] = {}

    def look(self, places: Iterable[Place]) -> None:
        """Read all gradients."""
        them = {id(p): p.grad for place in places for p in place.trainable if p.grad is not None}
        values = norms(list(them.values()))
        self.known = {key: (each, value) for (key, each), value in zip(them.items(), values, strict=True)}

    def together(self, parameters: Iterable[nn.Parameter], processes: int) -> tuple[float, float]:
        """log10 of the norm of these gradients, first of those that are whole, then of the parts of others.

        NaN where there is none.
        """
        whole: list[float] = []
        parts: list[float] = []
        for each in parameters:
            if id(each) in self.known:
                gradient, size = self.known[id(each)]
                if spread(gradient):
                    parts.append(size * _share(gradient, processes))
                else:
                    whole.append(size)
        one, other = (log10(math.hypot(*some)) if some else math.nan for some in (whole, parts))
        return one, other


def sizes(
    places: Iterable[Place], divide_by: float = 1.0, processes: int = 1
) -> dict[int, tuple[float, float, float | None]]:
    """Of each layer log10 of the gradient norm and of the weight norm, and the share of its gradient that underflows.

    Only layers with a gradient. A gradient with an entry that is not finite has the norm +inf. Of a layer that is
    spread over several processes, what this one adds to the square: the sum over all of them is exact.
    """
    places = [place for place in places if any(each.grad is not None for each in place.trainable)]
    gradients = {id(each): each.grad for place in places for each in place.trainable if each.grad is not None}
    known = dict(zip(gradients, norms(list(gradients.values())), strict=True))
    weights = iter(norms([each for place in places for each in place.parameters]))
    result: dict[int, tuple[float, float, float | None]] = {}
    for place in places:
        shares = [_share(each, processes) if place.sharded else 1.0 for each in place.parameters]
        mine = [(each.grad, known[id(each)]) for each in place.trainable if each.grad is not None]
        parts = [share for each, share in zip(place.parameters, shares, strict=True) if _has_gradient(each)]
        size = math.hypot(*(value * part for (_, value), part in zip(mine, parts, strict=True))) / divide_by
        weight = math.hypot(*(next(weights) * share for share in shares))
        result[place.at] = log10(size), log10(weight), _underflow(mine)
    return result


def _has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.grad is not None


def _share(tensor: Any, processes: int) -> float:
    """The root of one over the number of processes that hold the very same entries."""
    if not spread(tensor):
        return 1.0 / math.sqrt(processes)
    mesh = tensor.device_mesh
    parts = math.prod(mesh.size(at) for at, each in enumerate(tensor.placements) if each.is_shard())
    return math.sqrt(parts / mesh.size())


def _underflow(gradients: list[tuple[Tensor, float]]) -> float | None:
    """The largest share among the tensors of a layer; None where all are exactly zero or not finite."""
    shares = [
        below_normal(local(tensor), size / math.sqrt(local(tensor).numel()))
        for tensor, size in gradients
        if local(tensor).numel() and math.isfinite(size)
    ]
    return max((each for each in shares if each is not None), default=None)


def total(values: Iterable[float]) -> float:
    """log10 of the norm of all together, from log10 of the norms of the parts; NaN of none."""
    known = list(values)
    top = max(known, default=math.nan)
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
            for each in place.trainable:
                self.parts.append((place.at, each, _blocks(local(each))))
        some = [(_some(each, rows), rows) for _, each, rows in self.parts]
        self.before = [each.clone() if rows is None else each for each, rows in some]

    def squares(self) -> dict[int, tuple[float, float]]:
        """Per layer the sum of squares of the update, and of the weights, both over the same entries."""
        if not self.parts:
            return {}
        with torch.no_grad():
            after = [_some(each, rows) for _, each, rows in self.parts]
            found = norms([*_differences(after, self.before), *self.before])
        moved, old = found[: len(after)], found[len(after) :]
        sums: dict[int, tuple[float, float]] = {}
        for (at, _, _), update, weight in zip(self.parts, moved, old, strict=True):
            mine = sums.get(at, (0.0, 0.0))
            sums[at] = mine[0] + update * update, mine[1] + weight * weight
        return sums


def _differences(new: list[Tensor], old: list[Tensor]) -> list[Tensor]:
    """In one call where they are float32; half precision would round a small step away."""
    if all(each.dtype is torch.float32 for each in new):
        return list(torch._foreach_sub(new, old))  # pyright: ignore[reportPrivateImportUsage]
    return [a.float() - b.float() for a, b in zip(new, old, strict=True)]


def _blocks(parameter: Tensor) -> Tensor | None:
    """The blocks of a large tensor that are looked at; None where all of it is."""
    if parameter.numel() <= ENTRIES // 2 or not parameter.is_contiguous():
        return None
    rows = parameter.numel() // BLOCK
    wanted = ENTRIES // 4 // BLOCK
    return drawn(rows, wanted, parameter.device)


def _some(parameter: nn.Parameter, rows: Tensor | None) -> Tensor:
    flat = local(parameter).detach()
    if rows is None:
        return flat
    whole = flat.numel() // BLOCK * BLOCK
    return flat.view(-1)[:whole].view(-1, BLOCK).index_select(0, rows)
