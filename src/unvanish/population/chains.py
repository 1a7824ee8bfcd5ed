"""Plain chains of one neuron a layer, thousands at once: each layer is a few operations on arrays, in float64.

Numbers of any size: products are kept as a mantissa and a power of two and brought back to size every few layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unvanish.population import draws
from unvanish.population.names import ACTIVATIONS
from unvanish.population.shape import Array, Shape
from unvanish.population.stacked import Flows
from unvanish.theory import Activation, activation

TOGETHER = 4_096
"""Chains in one chunk: an array of that many numbers stays in the processor's nearest cache."""
STORED = 2**24
"""Numbers of all layers that are kept for the way back: 128 MiB for each of three arrays."""
OFTEN = 8
"""Layers between two corrections of size: eight factors leave float64 only where each is beyond 10^±38."""
NATURAL_WEIGHT, NATURAL_BIAS = (1 / 3) ** 0.5, 0.1
"""The size a lone weight and bias have at an ordinary initialisation, as in a check."""
LOG10_2 = float(np.log10(2.0))


def is_chain(shape: Shape, own_data: bool) -> bool:
    """Whether the networks are chains on one sample, without normaliser and residual branches."""
    narrow = shape.width == shape.inputs == shape.outputs == shape.batch == 1
    return narrow and not shape.norm and not shape.skip and not own_data


def flows(shape: Shape, variances: Array, seeds: Sequence[int]) -> Flows:
    """The flow of the chains of every point and seed, as ``stacked.flows`` has it; ``variances``: (2, P)."""
    points, number = variances.shape[1], len(seeds)
    result: list[Any] = [np.empty((points, number), bool if at == 4 else float) for at in range(5)]
    together = max(1, min(TOGETHER, STORED // (shape.depth + 1)))
    some = max(1, min(number, together))
    for start in range(0, number, some):
        own = list(seeds[start : start + some])
        unit, inputs = _draws(shape, own)
        at_once = max(1, together // len(own))
        for first in range(0, points, at_once):
            chosen = slice(first, first + at_once)
            found = _measure(shape, variances[:, chosen], unit, inputs)
            for table, values in zip(result, found, strict=True):
                table[chosen, start : start + some] = values
    return Flows(*result)


def _draws(shape: Shape, seeds: Sequence[int]) -> tuple[Array, Array]:
    """Unit weights and biases, (layers, 2, seeds), and the inputs, (seeds,)."""
    found = np.empty((shape.depth + 2, 2, len(seeds)))
    blocks = np.array(seeds) // draws.BLOCK
    for block in np.unique(blocks).tolist():
        own = np.flatnonzero(blocks == block)
        columns = [seeds[at] % draws.BLOCK for at in own.tolist()]
        found[:, :, own] = draws.chains(shape.kind, block, shape.depth + 1)[:, :, columns]
    return found[1:], found[0, 0]


def _measure(shape: Shape, variances: Array, unit: Array, inputs: Array) -> tuple[Any, ...]:
    """ratio, transmission, lowest, rise and finite of one chunk, (points, seeds)."""
    with np.errstate(all="ignore"):
        layers = _forward(shape, variances, unit, inputs)
        return _back(*layers)


def _forward(shape: Shape, variances: Array, unit: Array, inputs: Array) -> tuple[Array, Array, Array, Array]:
    """By layer and chain: |w|, |φ′| of the layer, |z|, and how much a layer's weight and bias make of its z."""
    phi = activation(ACTIVATIONS[shape.activation][1])
    points, number = variances.shape[1], len(inputs)
    size = (shape.depth + 1, points, number)
    weights, slopes, z, moved = np.empty(size), np.empty(size), np.empty(size), np.empty((2, *size))
    here = np.broadcast_to(inputs, (points, number))
    for place in range(shape.depth + 1):
        by_weight, by_bias = shape.scales(place, variances)
        w = np.multiply.outer(by_weight, unit[place, 0])
        b = -w / 2 if shape.centred and place else np.multiply.outer(by_bias, unit[place, 1])
        value = w * here + b
        np.abs(w, out=weights[place])
        np.abs(value, out=z[place])
        entering = np.abs(here)
        b = np.abs(b)
        _length(entering * weights[place], b, moved[0, place])
        _length(entering * np.maximum(weights[place], NATURAL_WEIGHT), np.maximum(b, NATURAL_BIAS), moved[1, place])
        here, slopes[place] = _activated(phi, value)
    return weights, slopes, z, moved


def _length(one: Array, other: Array, out: Array) -> None:
    """√(a² + b²) of numbers that are neither huge nor tiny, several times as fast as hypot."""
    np.sqrt(one * one + other * other, out=out)


def _activated(phi: Activation, z: Array) -> tuple[Array, Array]:
    """φ and |φ′|; a sigmoid's two share their exponential."""
    if phi.name == "sigmoid":
        e = np.exp(-np.abs(z))
        r = 1 / (1 + e)
        slope = e * r * r
        return np.where(z >= 0, r, e * r), slope
    return phi.phi(z), np.abs(phi.slope(z))


def _back(weights: Array, slopes: Array, z: Array, moved: Array) -> tuple[Any, ...]:
    """The walk back from the last layer, with δ = 1 there.

    ``best``: the most that a layer from here on transmits, over |δ| here; it grows where the signal falls.
    """
    last = len(weights) - 1
    product, power = np.ones(z.shape[1:]), np.zeros(z.shape[1:])
    best, beyond = moved[0, last].copy(), np.zeros(z.shape[1:])
    lowest = _share(moved[1, last], best, beyond)
    rise, highest = np.zeros(z.shape[1:]), np.zeros(z.shape[1:])
    here = lowest
    for place in range(last - 1, -1, -1):
        factor = weights[place + 1] * slopes[place]
        product *= factor
        best = np.maximum(best / factor, np.ldexp(moved[0, place], -beyond.astype(np.int32)))
        rise = np.maximum(0.0, rise + np.log10(factor * (z[place] / z[place + 1])))
        rise[product == 0] = 0.0
        np.fmax(highest, rise, out=highest)
        if place % OFTEN == 0:
            product, shift = np.frexp(product)
            power += shift
            best, shift = np.frexp(best)
            beyond += shift
        here = _share(moved[1, place], best, beyond)
        np.minimum(lowest, here, out=lowest)
    ratio = np.log10(product) + power * LOG10_2
    finite = np.isfinite(z).all(axis=0) & ~np.isnan(ratio) & (ratio < np.inf)
    dead = ratio == -np.inf
    return ratio, np.where(dead, -np.inf, here), np.where(dead, -np.inf, lowest), highest, finite


def _share(mine: Array, best: Array, beyond: Array) -> Array:
    """log10 of what a layer transmits over the best of it and those after it."""
    return np.minimum(0.0, np.log10(mine) - np.log10(best) - beyond * LOG10_2)
