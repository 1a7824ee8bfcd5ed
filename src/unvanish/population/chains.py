"""Plain chains of one neuron a layer, thousands at once: each layer is a few operations on arrays, in float64.

Numbers of any size: products are kept as a mantissa and a power of two and brought back to size every few layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unvanish.population import draws
from unvanish.population.names import ACTIVATIONS
from unvanish.population.shape import Array, Shape
from unvanish.population.stacked import Flows
from unvanish.theory import Activation, activation

TOGETHER = 4_096
"""Chains in one chunk: an array of that many numbers stays in the processor's nearest caches."""
DRAWN = 2**22
"""Pairs of a weight and a bias that are drawn for a chunk: 64 MiB."""
OFTEN, SMALL = 8, 1e-30
"""Layers between two corrections of size, where no squared factor is below the second; else every layer has one."""
NATURAL_WEIGHT, NATURAL_BIAS = 1 / 3, 0.01
"""The squares of a lone weight and bias at an ordinary initialisation, as in a check."""
HALF_LOG10_2 = 0.5 * float(np.log10(2.0))


def is_chain(shape: Shape, own_data: bool) -> bool:
    """Whether the networks are chains on one sample, without normaliser and residual branches."""
    narrow = shape.width == shape.inputs == shape.outputs == shape.batch == 1
    return narrow and not shape.norm and not shape.skip and not own_data


def flows(shape: Shape, variances: Array, seeds: Sequence[int]) -> Flows:
    """The flow of the chains of every point and seed, as ``stacked.flows`` has it; ``variances``: (2, P)."""
    points, number = variances.shape[1], len(seeds)
    result: list[Any] = [np.empty((points, number), bool if at == 4 else float) for at in range(5)]
    some = min(number, TOGETHER, max(1, DRAWN // (shape.depth + 2)))
    for start in range(0, number, some):
        chunk = list(seeds[start : start + some])
        unit, inputs = _draws(shape, chunk)
        at_once = max(1, TOGETHER // len(chunk))
        for first in range(0, points, at_once):
            chosen = slice(first, first + at_once)
            measured = _measure(shape, variances[:, chosen], unit, inputs)
            for table, values in zip(result, measured, strict=True):
                table[chosen, start : start + some] = values
    return Flows(*result)


def _draws(shape: Shape, seeds: Sequence[int]) -> tuple[Array, Array]:
    """Unit weights and biases, (layers, 2, seeds), and the inputs, (seeds,)."""
    drawn = np.empty((shape.depth + 2, 2, len(seeds)))
    at = 0
    while at < len(seeds):
        block, column = divmod(seeds[at], draws.BLOCK)
        count = 1  # neighbours are copied together, which is a hundred times as fast as one by one
        while at + count < len(seeds) and column + count < draws.BLOCK and seeds[at + count] == seeds[at] + count:
            count += 1
        numbers = draws.chains(shape.kind, block, shape.depth + 1)[: shape.depth + 2]
        drawn[:, :, at : at + count] = numbers[:, :, column : column + count]
        at += count
    return drawn[1:], drawn[0, 0]


@dataclass
class _Sized:
    """Numbers of any size: ``number`` · 2^``power``; ``one`` is 1 in that unit (0 or inf where it is far away)."""

    number: Array
    power: Array
    one: Array

    @classmethod
    def ones(cls, size: tuple[int, ...]) -> _Sized:
        return cls(np.ones(size), np.zeros(size), np.ones(size))

    def settle(self) -> None:
        """Bring the numbers back to size."""
        number, shift = np.frexp(self.number)
        self.number[...] = number
        self.power += shift
        self.one = np.ldexp(1.0, np.clip(-self.power, -2000, 2000).astype(np.int32))

    @property
    def log2(self) -> Array:
        return np.log2(self.number) + self.power


def _measure(shape: Shape, variances: Array, unit: Array, inputs: Array) -> tuple[Any, ...]:
    """ratio, transmission, lowest, rise and finite of one chunk, (points, seeds); all in squares.

    One pass from the first layer to the last: everything is kept in units of δ² of the layer that was reached, and is
    multiplied by δ_l² / δ_{l+1}² = (φ′ w)² on the way to the next. The lowest share is the least over pairs of layers
    of what the earlier transmits over what the later does; the largest rise is that over pairs of sensitivities.
    """
    walk = _Walk((variances.shape[1], len(inputs)))
    phi = activation(ACTIVATIONS[shape.activation].name)
    here: Array = np.broadcast_to(inputs, walk.size)
    slope: Any = None
    before: Any = None
    with np.errstate(all="ignore"):
        for place in range(shape.depth + 1):
            by_weight, by_bias = shape.scales(place, variances)
            w = np.multiply.outer(by_weight, unit[place, 0])
            weight = w * w
            if shape.centred and place:
                b, bias = w / -2, weight / 4
            else:
                b = np.multiply.outer(by_bias, unit[place, 1])
                bias = b * b
            w *= here
            w += b
            z, square = w, w * w
            walk.total += square
            if slope is not None:
                slope *= weight
                before /= square
                walk.on(slope, before)
            walk.layer(here, weight, bias, last=place == shape.depth)
            if place % walk.often == 0 or place == shape.depth:
                walk.settle()
            if place < shape.depth:
                here, slope = _activated(phi, z)
                slope = slope * slope
                walk.often = OFTEN if slope.min() > SMALL else 1
                before = square
        return walk.result()


class _Walk:
    """What is known of each chain up to one layer."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self.often = size, OFTEN
        self.total = np.zeros(size)
        self.first: Array = np.ones(size)
        self.begun = False
        self.product, self.least, self.most, self.rise = (_Sized.ones(size) for _ in range(4))
        self.low, self.high = np.full(size, np.inf), np.ones(size)
        self.lowest, self.highest = np.zeros(size), np.zeros(size)

    def on(self, factor: Array, change: Array) -> None:
        """To the next layer; ``change``: of z², over that of the next."""
        for each in (self.product, self.least, self.most, self.rise):
            each.number *= factor
        self.rise.number *= change
        if self.often == 1:
            closed = factor == 0  # of what lies behind a closed door nothing is sensed
            self.high[closed], self.highest[closed] = 0.0, 0.0
        np.fmax(self.rise.number, self.rise.one, out=self.rise.number)
        np.maximum(self.high, self.rise.number, out=self.high)

    def layer(self, entering: Array, weight: Array, bias: Array, last: bool) -> None:
        """What a layer's weight and bias make of its z, with the sizes they have and no less than natural ones.

        The ``last`` bias counts as no smaller than a natural one, as in a check: it moves the output itself.
        """
        entering = entering * entering
        product = entering * weight
        product += np.maximum(bias, NATURAL_BIAS) if last else bias
        full = np.maximum(weight, NATURAL_WEIGHT, out=weight)
        full *= entering
        full += np.maximum(bias, NATURAL_BIAS, out=bias)
        if not self.begun:
            self.begun, self.first = True, full
            self.least.number, self.most.number = full.copy(), product.copy()
        else:
            np.minimum(self.least.number, full * self.least.one, out=self.least.number)
            np.maximum(self.most.number, product * self.most.one, out=self.most.number)
        np.minimum(self.low, np.divide(self.least.number, product, out=product), out=self.low)

    def settle(self) -> None:
        """Bring every number back to size, and note what its extremes have been."""
        np.minimum(self.lowest, np.log2(self.low) + self.least.power, out=self.lowest)
        np.fmax(self.highest, np.log2(self.high) + self.rise.power, out=self.highest)
        self.low.fill(np.inf)
        self.high.fill(0.0)
        for each in (self.product, self.least, self.most, self.rise):
            each.settle()

    def result(self) -> tuple[Any, ...]:
        ratio = self.product.log2
        dead = ratio == -np.inf
        sent = np.minimum(0.0, np.log2(self.first) + ratio - self.most.log2)
        finite = np.isfinite(self.total) & ~np.isnan(ratio) & (ratio < np.inf)
        results = (ratio, *(np.where(dead, -np.inf, each) for each in (sent, self.lowest)), self.highest)
        return (*(HALF_LOG10_2 * each for each in results), finite)


def _activated(phi: Activation, z: Array) -> tuple[Array, Array]:
    """φ and φ′; a sigmoid's two share their exponential."""
    if phi.name == "sigmoid":
        e = np.abs(z)
        np.exp(np.negative(e, out=e), out=e)
        r = 1 / (1 + e)
        e *= r
        return np.where(z >= 0, r, e), e * r
    return phi.phi(z), phi.slope(z)
