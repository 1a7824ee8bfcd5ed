"""The random numbers of a sweep: the same seed draws the same at every point, so that points differ in settings alone.

A layer's weights are a draw of unit size times the scale that a point asks for, as in a loop that seeds torch anew for
every network. So one draw serves all points of one shape, and a network is known by its settings and its seed,
whatever ran beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from numpy.typing import NDArray

Floats = NDArray[Any]
"""Arrays of float32; numpy's own types lose that in every mean and every product with a number."""
KEPT = 256 * 2**20
"""Bytes of weights that are kept; what is beyond is drawn again when it is needed."""
BLOCK = 256
"""Chains are drawn so many seeds at a time: a generator for each would cost more than the chain."""
LAYERS = 64
"""Layers of chains that are drawn together; of two depths the shallower has the first layers of the deeper."""
INPUTS = 2**20
"""The place of the inputs' numbers among those of the layers."""
_bytes = [0]
_kept: OrderedDict[tuple[str, int, int, int, int], tuple[Floats, Floats]] = OrderedDict()


def _generator(seed: int, place: int) -> torch.Generator:
    """Its own for every seed and place; the multiplication spreads neighbours over all 64 bits (splitmix)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + (place + 1) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 31)) * 0x94D049BB133111EB) % 2**64
    return torch.Generator().manual_seed(mixed % 2**63)


def _unit(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """ "normal": N(0, 1). "uniform": from −1 to 1. "orthogonal": rows or columns of length 1 at right angles."""
    if kind == "uniform":
        return torch.rand(shape, generator=generator) * 2 - 1
    if kind == "orthogonal" and len(shape) > 1:
        return torch.nn.init.orthogonal_(torch.empty(shape), generator=generator)
    return torch.randn(shape, generator=generator)


def layer(kind: str, seed: int, place: int, fan_out: int, fan_in: int) -> tuple[Floats, Floats]:
    """Unit weights (fan out, fan in) and biases (fan out,) of one layer; biases are normal unless uniform is asked."""
    key = (kind, seed, place, fan_out, fan_in)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    if fan_in == fan_out == 1:
        numbers = chains(kind, seed // BLOCK, place + 1)[place + 1, :, seed % BLOCK]
        drawn = (numbers[:1].reshape(1, 1), numbers[1:])
    else:
        generator = _generator(seed, place)
        weights = _unit(kind, (fan_out, fan_in), generator)
        drawn = (weights.numpy(), _unit(kind, (fan_out,), generator).numpy())
    _kept[key] = drawn
    _bytes[0] += drawn[0].nbytes
    while _bytes[0] > KEPT and len(_kept) > 1:
        _, (weights, _) = _kept.popitem(last=False)
        _bytes[0] -= weights.nbytes
    return drawn


def forget() -> None:
    """Let go of every draw that is kept; the same numbers are drawn again when they are needed."""
    _kept.clear()
    _bytes[0] = 0
    chains.cache_clear()


@lru_cache(maxsize=2)
def chains(kind: str, block: int, layers: int) -> Floats:
    """Unit weights and biases of chains, (1 + layers or more, 2, BLOCK): column s is of the seed BLOCK · block + s.

    Before the layers stands a row of standard normal numbers, the first of which are the chains' inputs.
    """
    generator = _generator(block, INPUTS + 1)
    rows = [torch.randn((1, 2, BLOCK), generator=generator)]
    unit = "uniform" if kind == "uniform" else "normal"
    rows += [_unit(unit, (LAYERS, 2, BLOCK), generator) for _ in range(0, layers, LAYERS)]
    numbers = torch.cat(rows)
    if kind == "orthogonal":
        numbers[1:, 0].sign_()
    return numbers.numpy()


def inputs(seeds: Sequence[int], batch: int, width: int) -> Floats:
    """Standard normal inputs, (seeds, batch, width)."""
    if batch == width == 1:
        drawn = [torch.from_numpy(chains("normal", seed // BLOCK, 0)[:1, :1, seed % BLOCK]) for seed in seeds]
    else:
        drawn = [torch.randn((batch, width), generator=_generator(seed, INPUTS)) for seed in seeds]
    return torch.stack(drawn).numpy()


def cotangents(seeds: Sequence[int], batch: int, outputs: int) -> Floats:
    """What the outputs are asked to do, (seeds, batch, outputs): the numbers that diagnose(…, seed=seed) draws."""
    drawn = [torch.randn((batch, outputs), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    stacked = torch.stack(drawn)
    if batch * outputs <= 8:
        stacked = torch.where(stacked < 0, -1.0, 1.0)
    return stacked.numpy()
