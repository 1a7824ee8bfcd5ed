"""What an optimizer step works with: the gradients it sees, the weights, and how far it moves them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.watching.norms import BLOCK, ENTRIES, below_normal, drawn, local, norms, spread
from unvanish.watching.sample import GRADIENT
from unvanish.watching.signals import log10
from unvanish.watching.table import Place


def held(optimizer: Any) -> list[nn.Parameter]:
    """The parameters of an optimizer, group by group."""
    return [*chain.from_iterable(group["params"] for group in optimizer.param_groups)]


def scale_of(optimizer: Any) -> float:
    """What the gradients are still multiplied by: fused optimizers divide by the loss scale themselves."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


_version = attrgetter("_version")

WIDE = frozenset((torch.float32, torch.float64, torch.bfloat16))
PLENTY = 1e-22
"""Of these types a norm above it, of up to 1e18 entries, has no share below the smallest normal number, 1.2e-38, that
``below_normal`` would count."""


class Seen:
    """Norms of gradients as the last backward left them, which clipping or unscaling changes before the step.

    Where no sample so far has seen a write in between, few of them are read and the version counters of all, and the
    rest once, before the step. A write that no counter shows, through ``.data`` or by a kernel of another library, is
    seen at the few; where it has multiplied them all by the same, as clipping does, the others follow.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, int, float | None]] = {}
        self.part: tuple[int, int, float] | None = None  # whose turn it is, which of its entries, and their norm
        self.written = False  # something has changed them before the step
        self.unknown = False  # and what they were cannot be told

    def look(self, places: Iterable[Place], times: float = 1.0, few: int | None = None) -> None:
        """Read the gradients; ``times``: by how much they are smaller than the backward left them.

        ``few``: read only the smallest and the one whose turn it is; None for all.
        """
        them: dict[int, Tensor] = {}
        for place in places:
            for p in place.parameters:
                if p.requires_grad and (gradient := p.grad) is not None:
                    them[id(p)] = gradient
        gradients = list(them.values())
        chosen = list(range(len(gradients)))
        self.part = None
        if few is not None and len(chosen) > 2:
            numbers = [each.numel() for each in gradients]
            smallest = numbers.index(min(numbers))
            chosen.remove(smallest)
            turn = chosen[few % len(chosen)]
            chosen = [smallest]
            if (some := _part(gradients[turn], few)) is None:
                chosen.append(turn)
            else:
                self.part = list(them)[turn], few, norms([some])[0] * times
        sizes: list[float | None] = [None] * len(gradients)
        for at, size in zip(chosen, norms([gradients[at] for at in chosen]), strict=True):
            sizes[at] = size * times
        self.known = dict(zip(them, zip(gradients, map(_version, gradients), sizes, strict=True), strict=True))

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
        part = self._of_the_part(parameters)
        if _written(mine, now) or not all(_same(*each) for each in part):
            self.written = True
            times = _times([*((size, now.get(id(p))) for p, _, _, size in mine if size is not None), *part])
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

    def _of_the_part(self, parameters: Sequence[nn.Parameter]) -> list[tuple[float, float]]:
        """What was read of a large gradient, and the norm of the same entries now; nothing where there is none."""
        if self.part is None:
            return []
        key, turn, size = self.part
        p = next((each for each in parameters if id(each) == key), None)
        some = None if p is None or p.grad is None else _part(p.grad, turn)
        return [] if some is None else [(size, norms([some])[0])]


def _part(gradient: Tensor, turn: int) -> Tensor | None:
    """ENTRIES neighbouring entries of a large gradient, others at each turn; None where all of it is read as well."""
    here = local(gradient)
    if not here.is_cpu or here.layout is not torch.strided or not here.is_contiguous() or here.numel() <= ENTRIES:
        return None
    flat = here.detach().view(-1)
    return flat.narrow(0, turn * ENTRIES % (flat.numel() - ENTRIES + 1), ENTRIES)


def _written(them: list[tuple[nn.Parameter, Tensor, int, float | None]], now: Mapping[int, float]) -> bool:
    for p, gradient, version, size in them:  # a plain loop: it is run for every parameter in every sampled step
        if p.grad is not gradient or gradient._version != version:
            return True
        if size is not None and not _same(size, now.get(id(p))):
            return True
    return False


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
    found: list[tuple[Place, list[int]]] = []
    gradients: dict[int, Tensor] = {}
    weights: list[Tensor] = []
    again: list[int] = []
    for place in places:
        some: list[int] = []
        for each in place.parameters:
            if each.requires_grad and (gradient := each.grad) is not None:
                some.append(key := id(each))
                if key in gradients:
                    again.append(key)
                gradients[key] = gradient
        if some:
            found.append((place, some))
            weights.extend(place.parameters)
    both = norms([*gradients.values(), *weights])
    known, of_weights = dict(zip(gradients, both, strict=False)), iter(both[len(gradients) :])
    result: dict[int, tuple[float, float, float | None]] = {}
    for place, some in found:
        mine, those = [known[key] for key in some], [*islice(of_weights, len(place.parameters))]
        lost = _underflow([gradients[key] for key in some], mine)
        if place.sharded:
            share = {id(each): _share(each, processes) for each in place.parameters}
            mine = [known[key] * share[key] for key in some]
            those = [size * share[id(each)] for size, each in zip(those, place.parameters, strict=True)]
        result[place.at] = log10(math.hypot(*mine) / divide_by), log10(math.hypot(*those)), lost
    return result, log10(math.hypot(*[known[key] for key in again]) / divide_by) if again else math.nan, known


def gone(places: Iterable[Place], before: Container[int]) -> dict[int, tuple[float, float, None]]:
    """The same of layers that have no gradient any more, though after the backward there was one: it is exactly zero.

    ``before``: the ids of the parameters that had one.
    """
    mine = [place for place in places if any(id(each) in before for each in place.trainable)]
    weights = iter(norms([each for place in mine for each in place.parameters]))
    return {
        place.at: (-math.inf, log10(math.hypot(*[next(weights) for _ in place.parameters])), None) for place in mine
    }


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
    return math.isfinite(here.sum().item())


def odd(rows: Mapping[int, Sequence[float]], places: Iterable[Place]) -> list[int]:
    """The layers whose gradient is not finite: by what was read of them, or where nothing was, by a look at it."""
    if rows:
        return [at for at, row in rows.items() if row[GRADIENT] == math.inf]
    found = [(place.at, p.grad) for place in places for p in place.trainable if p.grad is not None]
    return list(dict.fromkeys(at for at, g in found if not g.is_sparse and not local(g.detach()).isfinite().all()))


def _underflow(gradients: Iterable[Tensor], sizes: Iterable[float]) -> float | None:
    """The largest share among the tensors of a layer; None where all are exactly zero or not finite."""
    largest: float | None = None
    for tensor, size in zip(gradients, sizes, strict=True):
        if PLENTY < size < math.inf and tensor.dtype in WIDE:
            share = 0.0
        elif math.isfinite(size) and (count := (mine := local(tensor)).numel()):
            share = below_normal(mine, size / math.sqrt(count))
        else:
            continue
        if share is not None and (largest is None or share > largest):
            largest = share
    return largest


class Moves:
    """Copies of some entries of each layer's weights, taken before a step and compared after it.

    Blocks of 64 neighbouring entries, drawn anew for each tensor size; small tensors whole. Those of one type and
    device lie one after the other in one tensor, so that few calls are made.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.parts: dict[Any, list[tuple[int, nn.Parameter, Tensor | None]]] = {}
        for place in places:
            for each in place.trainable:
                mine = local(each)
                kind = mine.dtype if mine.is_cpu else (mine.dtype, mine.device)
                self.parts.setdefault(kind, []).append((place.at, each, _blocks(mine)))
        with torch.no_grad():
            self.before = {kind: _in_a_row(parts) for kind, parts in self.parts.items()}

    def squares(self) -> dict[int, tuple[float, float]]:
        """Per layer the sum of squares of the update, and of the weights, both over the same entries."""
        updates: list[Tensor] = []
        weights: list[Tensor] = []
        places: list[int] = []
        with torch.no_grad():
            for kind, parts in self.parts.items():
                (before, sizes), (after, _) = self.before[kind], _in_a_row(parts)
                if before.element_size() < 4:  # half precision would round a small step away
                    before, after = before.float(), after.float()
                lengths: list[int] = []
                for (at, _, _), size in zip(parts, sizes, strict=True):  # those of one layer are neighbours
                    if lengths and places[-1] == at:
                        lengths[-1] += size
                    else:
                        places.append(at)
                        lengths.append(size)
                weights += before.split_with_sizes(lengths)
                updates += after.sub_(before).split_with_sizes(lengths)
        found = norms(updates + weights)
        sums: dict[int, tuple[float, float]] = {}
        for at, update, weight in zip(places, found[: len(places)], found[len(places) :], strict=True):
            mine = sums.get(at, (0.0, 0.0))
            sums[at] = mine[0] + update * update, mine[1] + weight * weight
        return sums


def _in_a_row(parts: list[tuple[int, nn.Parameter, Tensor | None]]) -> tuple[Tensor, list[int]]:
    """A copy of what is looked at of these parameters, one after the other, and how long each is."""
    some = [_some(each, rows).flatten() for _, each, rows in parts]
    return torch.cat(some), [*map(Tensor.numel, some)]


def _blocks(parameter: Tensor) -> Tensor | None:
    """The blocks of a large tensor that are looked at; None where all of it is."""
    if parameter.numel() <= ENTRIES // 2 or not parameter.is_contiguous():
        return None
    rows = parameter.numel() // BLOCK
    wanted = ENTRIES // 4 // BLOCK
    return drawn(rows, wanted, parameter.device)


def _some(parameter: nn.Parameter, rows: Tensor | None) -> Tensor:
    mine = local(parameter)
    if rows is None:
        return mine
    rest = mine.numel() % BLOCK
    blocks = mine.view(-1)[:-rest] if rest else mine
    return blocks.view(-1, BLOCK).index_select(0, rows)
