"""What an optimizer step works with: the gradients it sees, the weights, and how far it moves them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.watching.norms import BLOCK, ENTRIES, below_normal, drawn, local, norms
from unvanish.watching.signals import log10
from unvanish.watching.table import Place, spread

FEW = 512
"""So many numbers are added up sooner in Python than by a kernel, which has to come into the processor's caches."""


def held(optimizer: Any) -> list[nn.Parameter]:
    """The parameters of an optimizer, group by group."""
    return [each for group in optimizer.param_groups for each in group["params"]]


def scale_of(optimizer: Any) -> float:
    """What the gradients are still multiplied by: fused optimizers divide by the loss scale themselves."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


class Seen:
    """Norms of gradients as the last backward left them, which clipping or unscaling changes before the step.

    Where no sample so far has seen a write in between, few of them are read and the version counters of all, and the
    rest once, before the step. A write that no counter shows, through ``.data`` or by a kernel of another library, is
    seen at the few; where it has multiplied them all by the same, as clipping does, the others follow.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, int, float | None]] = {}
        self.written = False  # something has changed them before the step
        self.unknown = False  # and what they were cannot be told

    def look(self, places: Iterable[Place], times: float = 1.0, few: int | None = None) -> None:
        """Read the gradients; ``times``: by how much they are smaller than the backward left them.

        ``few``: read only the smallest and the one whose turn it is; None for all.
        """
        them = {id(p): p.grad for place in places for p in place.parameters if p.requires_grad and p.grad is not None}
        gradients = list(them.values())
        chosen = list(range(len(gradients)))
        if few is not None and len(chosen) > 2:
            smallest = min(chosen, key=lambda at: gradients[at].numel())
            chosen.remove(smallest)
            chosen = [smallest, chosen[few % len(chosen)]]
        values = dict(zip(chosen, norms([gradients[at] for at in chosen]), strict=True))
        self.known = {
            key: (each, each._version, values[at] * times if at in values else None)
            for at, (key, each) in enumerate(them.items())
        }

    @property
    def was_finite(self) -> bool:
        """Whether all were read after the backward, and were finite."""
        return bool(self.known) and all(size is not None and math.isfinite(size) for _, _, size in self.known.values())

    def together(
        self, parameters: Sequence[nn.Parameter], now: Mapping[int, float], processes: int
    ) -> tuple[float, float]:
        """log10 of the norm of these gradients, first of those that are whole, then of the parts of others.

        ``now``: the norms that the optimizer sees, by the ids of the parameters. NaN where there is none.
        """
        mine = [(each, *self.known[id(each)]) for each in parameters if id(each) in self.known]
        times = 1.0
        if any(
            p.grad is not each or each._version != at or not _same(size, now.get(id(p))) for p, each, at, size in mine
        ):
            self.written = True
            times = _times([(size, now.get(id(p))) for p, _, _, size in mine if size is not None])
            self.unknown = self.unknown or (math.isnan(times) and any(size is None for *_, size in mine))
        whole: list[float] = []
        parts: list[float] = []
        for p, gradient, _, size in mine:
            size = now.get(id(p), math.nan) * times if size is None else size
            if spread(gradient):
                parts.append(size * _share(gradient, processes))
            else:
                whole.append(size)
        one, other = (log10(math.hypot(*some)) if some else math.nan for some in (whole, parts))
        return one, other


def _same(before: float | None, now: float | None) -> bool:
    """Whether a norm is what it was; where it was not read there is nothing to say. Sums may be ordered otherwise."""
    return before is None or (now is not None and (abs(before - now) <= 1e-6 * before or not math.isfinite(before)))


def _times(pairs: list[tuple[float, float | None]]) -> float:
    """By what all were multiplied, before over now; NaN where it was not the same for each, or none of these moved."""
    known = [before / now for before, now in pairs if now and math.isfinite(before)]
    alike = len(known) > 1 and max(known) - min(known) <= 1e-4 * max(known)
    return known[0] if alike and abs(known[0] - 1.0) > 1e-4 else math.nan


def sizes(
    places: Iterable[Place], divide_by: float = 1.0, processes: int = 1
) -> tuple[dict[int, tuple[float, float, float | None]], float, dict[int, float]]:
    """Of each layer log10 of the gradient norm and of the weight norm, and the share of its gradient that underflows.

    Only layers with a gradient. A gradient with an entry that is not finite has the norm +inf. Of a layer that is
    spread over several processes, what this one adds to the square: the sum over all of them is exact. Second: log10 of
    the norm of what counts again in a sum over the layers, because several of them share a weight. Third: the norm of
    each gradient by the id of its parameter.
    """
    found = [
        (place, [each for each in place.parameters if each.requires_grad and each.grad is not None]) for place in places
    ]
    found = [(place, with_gradient) for place, with_gradient in found if with_gradient]
    gradients = {id(each): each.grad for _, some in found for each in some if each.grad is not None}
    weights = [each for place, _ in found for each in place.parameters]
    both = norms([*gradients.values(), *weights])
    known, of_weights = dict(zip(gradients, both, strict=False)), iter(both[len(gradients) :])
    result: dict[int, tuple[float, float, float | None]] = {}
    for place, some in found:
        share = {id(each): _share(each, processes) for each in place.parameters} if place.sharded else {}
        size = math.hypot(*(known[id(each)] * share.get(id(each), 1.0) for each in some)) / divide_by
        weight = math.hypot(*(next(of_weights) * share.get(id(each), 1.0) for each in place.parameters))
        result[place.at] = log10(size), log10(weight), _underflow([(gradients[id(p)], known[id(p)]) for p in some])
    seen: set[int] = set()
    all_of = [id(each) for _, some in found for each in some]
    again = [known[each] for each in all_of if each in seen or seen.add(each)]
    return result, log10(math.hypot(*again) / divide_by) if again else math.nan, known


def _share(tensor: Any, processes: int) -> float:
    """The root of one over the number of processes that hold the very same entries."""
    if not spread(tensor):
        return 1.0 / math.sqrt(processes)
    mesh = tensor.device_mesh
    parts = math.prod(mesh.size(at) for at, each in enumerate(tensor.placements) if each.is_shard())
    return math.sqrt(parts / mesh.size())


def looks_finite(first: Tensor | None) -> bool:
    """A look at one small gradient of the first layer, which all that is not finite on the way back reaches."""
    gradient = None if first is None else first.grad
    if gradient is None or not gradient.is_cpu or gradient.is_sparse:
        return True
    here = gradient if type(gradient) is Tensor else local(gradient)
    if here.ndim == 1 and len(here) <= FEW:
        return math.isfinite(sum(here.tolist()))
    return math.isfinite(here.sum().item())


def _underflow(gradients: list[tuple[Tensor, float]]) -> float | None:
    """The largest share among the tensors of a layer; None where all are exactly zero or not finite."""
    largest: float | None = None
    for tensor, size in gradients:
        mine = local(tensor)
        if math.isfinite(size) and (count := mine.numel()):
            share = below_normal(mine, size / math.sqrt(count))
            if share is not None and (largest is None or share > largest):
                largest = share
    return largest


def total(values: Iterable[float]) -> float:
    """log10 of the norm of all together, from log10 of the norms of the parts; NaN of none, and none is NaN itself."""
    known = [value for value in values if not math.isnan(value)]
    top = max(known, default=math.nan)
    if not math.isfinite(top):
        return top
    return top + 0.5 * math.log10(sum(10.0 ** (2.0 * (each - top)) for each in known))


def less(whole: float, part: float) -> float:
    """log10 of the norm of what is left of a whole without a part of it, from log10 of both norms."""
    share = 10.0 ** (2.0 * (part - whole)) if math.isfinite(whole) and math.isfinite(part) else 0.0
    return whole + 0.5 * math.log10(1.0 - share) if 0.0 < share < 1.0 else whole


class Moves:
    """Copies of some entries of each layer's weights, taken before a step and compared after it.

    Blocks of 64 neighbouring entries, drawn anew for each tensor size; small tensors whole.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.parts: list[tuple[int, nn.Parameter, Tensor | None]] = []
        for place in places:
            for each in place.trainable:
                self.parts.append((place.at, each, _blocks(local(each))))
        some = [_some(each, rows) for _, each, rows in self.parts]
        whole = [at for at, (_, _, rows) in enumerate(self.parts) if rows is None]
        if whole:  # the others are copies already
            copies = torch._foreach_mul([some[at] for at in whole], 1)  # pyright: ignore[reportPrivateImportUsage]
            for at, copy in zip(whole, copies, strict=True):
                some[at] = copy
        self.before = some

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
    if rest := flat.numel() % BLOCK:
        flat = flat.view(-1)[:-rest]
    return flat.view(-1, BLOCK).index_select(0, rows)
