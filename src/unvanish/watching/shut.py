"""Which entries of an activation are saturated: those whose input lies where the function is flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from unvanish.flow.slopes import EXACT, SATURATED, slope_of_function
from unvanish.watching.norms import ENTRIES

STEP = 1e-5
"""Half the distance over which a slope is taken, in float64; saturated means below a hundredth of the largest slope."""

REACH, POINTS = 50.0, 40_001
"""Flat stretches are looked for up to here on both sides, at so many inputs; beyond, it goes on as at the end. The
narrowest of a known function (GELU's, around its minimum) holds fifteen of them."""

FEW = 256
"""So many counts are faster in plain numbers than in four calls of torch."""

WHOLE = 4 * ENTRIES
"""So many entries are all looked at where one comparison does it: to gather a part of them takes no less."""

MOST = 8
"""A function with more flat stretches is a wave, which does not go on as at the end."""


@dataclass(frozen=True)
class Flat:
    """Where a function is flat: between the numbers of each pair. ``wave``: it has to be asked at each input."""

    stretches: tuple[tuple[float, float], ...]
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    limit: float
    wave: bool

    @cached_property
    def below(self) -> float | None:
        """Where it is flat below one number, and nowhere else, that number, as for ReLU."""
        alone = not self.wave and len(self.stretches) == 1 and self.stretches[0][0] == -math.inf
        return self.stretches[0][1] if alone else None

    def at(self, inputs: Tensor, ours: bool = False) -> Tensor:
        """Of each input 1 where the function is flat, else 0: numbers, which are counted faster than truth values.

        ``ours``: they may be written over.
        """
        if self.wave:
            return _slopes(self.func, self.args, self.kwargs, inputs.double()).abs().lt(self.limit).float()
        if inputs.element_size() < 4:
            inputs, ours = inputs.float(), True
        if (below := self.below) is not None:
            return torch.lt(inputs, below, out=inputs if ours else torch.empty_like(inputs))
        found = torch.zeros_like(inputs, dtype=torch.bool)
        for low, high in self.stretches:
            if low == -math.inf:
                found |= inputs.lt(high)
            elif high == math.inf:
                found |= inputs.gt(low)
            else:
                found |= inputs.gt(low) & inputs.lt(high)
        return found.to(inputs.dtype)


_known: dict[Any, Flat | None] = {}


def flat_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flat | None:
    """Where a call is flat, or None where it is no activation; each function is tried once."""
    key = (func, repr(args), repr(kwargs))
    if key not in _known:
        _known[key] = _tried(func, args, {name: value for name, value in kwargs.items() if name != "inplace"})
    return _known[key]


def _tried(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flat | None:
    with saved_tensors_hooks(_same, _same):  # a checkpoint around us counts what is saved, and this is not its own
        kind = slope_of_function(getattr(func, "__name__", ""), func, args, kwargs)
    if kind is None or not kind.activation:
        return None
    limit = SATURATED * kind.largest
    grid = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64, device="cpu")
    low = _low(func, args, kwargs, grid, limit)
    turns = (low[1:] != low[:-1]).nonzero().flatten()
    wave = len(turns) > 2 * MOST
    ends = [] if wave else _between(func, args, kwargs, limit, grid[turns], grid[turns + 1])
    ends = [*([-math.inf] if bool(low[0]) else []), *ends]
    ends += [math.inf] if len(ends) % 2 else []
    return Flat(tuple(zip(ends[::2], ends[1::2], strict=True)), func, args, kwargs, limit, wave)


def _between(func: Any, args: Any, kwargs: Any, limit: float, low: Tensor, high: Tensor) -> list[float]:
    """Where it turns from flat to steep or back, between these inputs."""
    if not len(low):
        return []
    start = _low(func, args, kwargs, low, limit)
    for _ in range(50):
        middle = (low + high) / 2
        same = _low(func, args, kwargs, middle, limit) == start
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return low.tolist()


def _low(func: Any, args: Any, kwargs: Any, inputs: Tensor, limit: float) -> Tensor:
    return _slopes(func, args, kwargs, inputs).abs().lt(limit)


def _slopes(func: Any, args: Any, kwargs: Any, inputs: Tensor) -> Tensor:
    with torch.no_grad():  # by differences: a backward here would disturb a checkpoint that counts what is saved
        return (func(inputs + STEP, *args, **kwargs) - func(inputs - STEP, *args, **kwargs)) / (2.0 * STEP)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def dead_and_saturated(flat: Flat, inputs: Tensor) -> Tensor | tuple[float, float]:
    """Shares of an activation: of its entries that are saturated, and of its units that are for the whole batch.

    A unit is a channel (dimension 1) of images, else an entry of the last dimension. Of many entries so many units are
    drawn that no more than ENTRIES are looked at; each unit over all samples. On the CPU numbers, elsewhere a tensor of
    both, so that nobody has to wait for it.
    """
    inputs = inputs.detach()
    axis = 1 if inputs.ndim == 4 else inputs.ndim - 1
    units = inputs.shape[axis]
    most = WHOLE if flat.below is not None else ENTRIES
    wanted = units if inputs.numel() <= most else max(1, ENTRIES * units // inputs.numel())
    if some := wanted < units:
        inputs = inputs.index_select(axis, _chosen(units, wanted, inputs.device))
    low = flat.at(inputs, some)
    together = low.numel() // max(1, low.shape[axis])
    low = low.double() if together > EXACT else low
    others = [k for k in range(low.ndim) if k != axis]
    counts = low.sum(others) if others else low
    if not counts.is_cpu:
        return torch.stack([counts.sum() / low.numel(), (counts == together).to(low.dtype).mean()])
    if (several := counts.numel()) > FEW:
        return counts.sum().item() / low.numel(), counts.eq(together).sum().item() / several
    values = counts.tolist()
    return sum(values) / max(1, low.numel()), values.count(together) / max(1, several)


@lru_cache(maxsize=1024)
def _chosen(units: int, wanted: int, device: torch.device) -> Tensor:
    return torch.randperm(units, generator=torch.Generator().manual_seed(units))[:wanted].to(device)
