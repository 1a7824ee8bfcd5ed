"""The flow at initialisation of many networks of one shape: one product of matrices a layer serves all of them.

Networks that differ in the scale of their weights share the draw: their samples are rows of one matrix, so that a layer
is one large product for each seed. Chunks are small enough for the processor's cache. Cotangents are kept at norm one
and their size as a logarithm, as in the walk of a check, so that depth cannot lose them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unvanish.population import draws
from unvanish.population.elementwise import Back, Floats, activate, normalise
from unvanish.population.shape import Array, Shape
from unvanish.population.threads import one_thread

CHUNK = 2**16
"""Entries of the activations of one layer that are worked on together: 256 KiB."""
WEIGHTS = 2**24
"""Entries of the weights of a chunk of seeds: 64 MiB."""
STORED = 2**26
"""Entries of all layers' activations of a chunk: 256 MiB."""


@dataclass(frozen=True)
class Flows:
    """What is measured of networks at their start; arrays (points, seeds), logarithms base 10.

    ``ratio``: signal at the first layer's output over that at the last layer's. ``transmission``: T_rel of the first
    layer, ``lowest`` the lowest of any layer. ``rise``: the largest rise of the relative sensitivity of any layer.
    ``finite``: whether the outputs and the signals are.
    """

    ratio: Array
    transmission: Array
    lowest: Array
    rise: Array
    finite: NDArray[np.bool_]


@one_thread()
def flows(shape: Shape, variances: Array, skip: Array, seeds: Sequence[int], data: Floats | None = None) -> Flows:
    """The flow of the networks of every point and seed.

    ``variances``: (2, P), σ_w² and σ_b²; ``skip``: (P,), the factor of the residual branches. ``data``: inputs
    (batch, inputs) that all networks see; None: standard normal ones, other ones for each seed.
    """
    points, number = variances.shape[1], len(seeds)
    result: list[Any] = [np.empty((points, number), bool if at == 4 else float) for at in range(5)]
    for block in _pieces(number, _seeds_at_once(shape)):
        chosen = [seeds[at] for at in range(block.start, block.stop)]
        chunk = _Chunk(shape, chosen, data)
        for some in _pieces(points, _points_at_once(shape, len(chosen))):
            measured = chunk.measure(variances[:, some], skip[some])
            for table, values in zip(result, measured, strict=True):
                table[some, block] = values.T
    return Flows(*result)


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _seeds_at_once(shape: Shape) -> int:
    layers = (shape.depth - 1) * shape.width**2 + shape.width * (shape.inputs + shape.outputs)
    return max(1, min(WEIGHTS // layers, CHUNK // (shape.batch * shape.width)))


def _points_at_once(shape: Shape, seeds: int) -> int:
    row = seeds * shape.batch * max(shape.width, shape.inputs if shape.depth == 1 else 1)
    return max(1, min(CHUNK // row, STORED // (row * shape.depth)))


def _log10(values: Any) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(np.asarray(values, np.float64))


def _norm(values: Floats) -> Array:
    """Of the last two axes, in float64: the squares of float32 numbers overflow too early."""
    return torch.linalg.vector_norm(torch.from_numpy(values), dim=(-2, -1), dtype=torch.float64).numpy()


@dataclass
class _Layer:
    """One layer going forward: what enters it, its scales, and the way back through its norm and activation."""

    entering: Floats
    size: Array
    scales: tuple[Array, Array]
    activated: Back | None = None
    normalised: Back | None = None
    unit: Floats | None = None


class _Chunk:
    """Some seeds of one shape: their weights, inputs and cotangents. Arrays are (seeds, points, samples, units)."""

    def __init__(self, shape: Shape, seeds: Sequence[int], data: Floats | None) -> None:
        self.shape, self.seeds = shape, seeds
        self.inputs = draws.inputs(seeds, shape.batch, shape.inputs) if data is None else data[None]
        self.aim = draws.cotangents(seeds, shape.batch, shape.outputs)
        stored = (shape.depth - 1) * shape.width**2 * len(seeds) <= WEIGHTS
        self.kept = [self._draw(place) for place in range(shape.depth + 1)] if stored else None

    def _draw(self, place: int) -> tuple[Floats, Floats]:
        fans = self.shape.fans(place)
        pairs = [draws.layer(self.shape.kind, seed, place, *fans) for seed in self.seeds]
        return np.stack([weights for weights, _ in pairs]), np.stack([biases for _, biases in pairs])

    def weights(self, place: int) -> tuple[Floats, Floats]:
        """Unit weights (seeds, fan out, fan in) and biases (seeds, fan out) of a layer."""
        return self._draw(place) if self.kept is None else self.kept[place]

    def measure(self, variances: Array, skip: Array) -> tuple[Array, Array, Array, Array, NDArray[np.bool_]]:
        """ratio, transmission, lowest, rise and finite of one chunk of points, (seeds, points)."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            layers, outputs = self._forward(variances, skip)
            walk = _Walk(self, variances.shape[1])
            walk.back(layers, skip)
        finite = np.isfinite(walk.ratio()) | (walk.ratio() == -np.inf)
        for layer in layers:
            finite &= np.isfinite(layer.size)
        finite &= np.isfinite(outputs).all(axis=(-2, -1))
        return walk.ratio(), walk.transmissions()[0], walk.transmissions().min(axis=0), walk.highest, finite

    def _forward(self, variances: Array, skip: Array) -> tuple[list[_Layer], Floats]:
        shape = self.shape
        points = variances.shape[1]
        factor = skip.astype(np.float32)[None, :, None, None]
        here: Floats = self.inputs[:, None]
        layers: list[_Layer] = []
        for place in range(shape.depth + 1):
            scales = shape.scales(place, variances)
            z = self._linear(place, here, scales, points)
            layer = _Layer(here, _norm(z), scales)
            layers.append(layer)
            if place == shape.depth:
                return layers, z
            if shape.norm:
                z, layer.normalised = normalise(shape.norm, z)
                layer.unit = z
            value, layer.activated = activate(shape.activation, z)
            here = here + factor * value if shape.skip and place else value
        raise AssertionError("the last layer returns")

    def _linear(self, place: int, here: Floats, scales: tuple[Array, Array], points: int) -> Floats:
        """W x + b of every network, (seeds, points, samples, fan out)."""
        weights, biases = self.weights(place)
        by_weight, by_bias = (scale.astype(np.float32)[None, :, None, None] for scale in scales)
        rows = here.reshape(len(here), -1, here.shape[-1])
        z = np.matmul(rows, weights.swapaxes(1, 2))
        z = z.reshape(len(self.seeds), -1, self.shape.batch, z.shape[-1]) * by_weight
        if scales[1].any():
            z += biases[:, None, None] * by_bias
        if self.shape.centred and place:
            z -= weights.sum(-1)[:, None, None] * (by_weight / 2)
        assert z.shape[1] == points
        return z


class _Walk:
    """One walk back: cotangents at norm one, their sizes and what the layers transmit as logarithms."""

    def __init__(self, chunk: _Chunk, points: int) -> None:
        self.chunk, self.shape = chunk, chunk.shape
        table = (len(chunk.seeds), points)
        self.size = np.zeros(table)
        self.signals: list[Array] = []
        self.best = np.full((2, *table), -np.inf)
        self.seen: list[Array] = []
        self.highest = np.zeros(table)

    def ratio(self) -> Array:
        return self.signals[-1] - self.signals[0]

    def transmissions(self) -> Array:
        """T_rel of the layers from the first on, (layers, seeds, points)."""
        return np.stack(self.seen[::-1])

    def back(self, layers: list[_Layer], skip: Array) -> None:
        shape, aim = self.shape, self.chunk.aim
        table = self.size.shape
        norm = _norm(aim)
        g: Floats = np.broadcast_to((aim / norm[:, None, None].astype(np.float32))[:, None], (*table, *aim.shape[1:]))
        self.size = self.size + _log10(norm)[:, None]
        ahead: Any = None
        rise: Any = None
        around: Floats | None = None
        for place in range(shape.depth, -1, -1):
            layer = layers[place]
            self._arrived(place, layer, g)
            sensitivity = self.size + _log10(layer.size)
            if ahead is None:
                here = np.zeros(table)
            else:
                grown = 0.0 if shape.norm else sensitivity - ahead
                here = np.maximum(0.0, grown + rise)
            self.highest = np.maximum(self.highest, np.where(np.isfinite(here), here, 0.0))
            if place == 0:
                return
            came = self._through(place, g, layer.scales[0])
            ahead, rise, around = self._joined(came, around, (sensitivity, here), (ahead, rise))
            branch = skip[None, :, None, None].astype(np.float32) if shape.skip and place > 1 else 1
            before = layers[place - 1]
            assert before.activated is not None
            g = before.activated(around * branch if shape.skip else around)
            if before.normalised is not None:
                assert before.unit is not None
                self._gains(before.unit, g)
                g = before.normalised(g)
            unit = self._scale_down(g)
            g = g / unit
            if shape.skip:
                around = around / unit
            if not shape.skip or place == 1:
                around = None

    def _scale_down(self, g: Floats) -> Floats:
        """Take the size of the cotangents out of them; returns what to divide by."""
        norm = _norm(g)
        self.size = self.size + _log10(norm)
        safe = np.where(norm > 0, norm, 1.0)
        return safe.astype(np.float32)[..., None, None]

    def _through(self, place: int, g: Floats, scale: Array) -> Floats:
        """Wᵀ g of every network."""
        weights, _ = self.chunk.weights(place)
        rows = np.ascontiguousarray(g).reshape(len(g), -1, g.shape[-1])
        came = np.matmul(rows, weights).reshape(*self.size.shape, self.shape.batch, -1)
        return came * scale.astype(np.float32)[None, :, None, None]

    def _joined(
        self, came: Floats, around: Floats | None, weighted: tuple[Array, Array], beside: tuple[Any, Any]
    ) -> tuple[Any, Any, Floats]:
        """The cotangent before a layer, and the state of whichever way most of it came: sensitivity and rise ahead."""
        if around is None:
            return (*weighted, came)
        branch = _norm(came) > _norm(around)
        ahead, rise = (np.where(branch, one, other) for one, other in zip(weighted, beside, strict=True))
        return ahead, rise, came + around

    def _arrived(self, place: int, layer: _Layer, g: Floats) -> None:
        """The signal at a layer's output, and what its weights and biases transmit (T of a check).

        The biases of the last layer, which is the first here, count as no smaller than usual: they move the outputs.
        """
        self.signals.append(self.size)
        weights, biases = self.chunk.weights(place)
        fan_out, fan_in = self.shape.fans(place)
        to_weights = self._of_weights(g, layer.entering)
        to_biases = np.linalg.norm(g.sum(-2, dtype=np.float64), axis=-1)
        weight_norms = np.linalg.norm(weights.astype(np.float64), axis=(-2, -1))[:, None] * layer.scales[0]
        bias = np.linalg.norm(biases.astype(np.float64), axis=-1)[:, None] * layer.scales[1]
        if self.shape.centred and place:
            bias = np.linalg.norm(weights.sum(-1), axis=-1)[:, None] * layer.scales[0] / 2
        natural = np.sqrt(fan_out / 3), np.sqrt(fan_out) * 0.1
        usual = np.maximum(bias, natural[1])
        full = np.hypot(to_weights * np.maximum(weight_norms, natural[0]), to_biases * usual)
        sent = np.hypot(to_weights * weight_norms, to_biases * (bias if self.seen else usual))
        self._compare(sent, full, fan_out * (fan_in + 1))

    def _of_weights(self, g: Floats, entering: Floats) -> Array:
        """‖gᵀ x‖ of every network; from products of samples where there are few of them."""
        samples = self.shape.batch
        if 2 * samples <= min(g.shape[-1], entering.shape[-1]):
            pairs = np.matmul(g, g.swapaxes(-1, -2)) * np.matmul(entering, entering.swapaxes(-1, -2))
            norms = np.sqrt(np.maximum(pairs.sum((-2, -1), dtype=np.float64), 0.0))
            if np.isfinite(norms).all() and (norms > 1e-15).all():
                return norms
        return _norm(np.matmul(g.swapaxes(-1, -2), entering))

    def _gains(self, unit: Floats, g: Floats) -> None:
        """A normaliser is a layer too, with gains of one and shifts of zero."""
        width = unit.shape[-1]
        to_gains = np.linalg.norm((g * unit).sum(-2, dtype=np.float64), axis=-1)
        to_shifts = np.linalg.norm(g.sum(-2, dtype=np.float64), axis=-1)
        root = np.sqrt(width)
        self._compare(to_gains * root, np.hypot(to_gains * root, to_shifts * root * 0.1), 2 * width)

    def _compare(self, transmitted: Array, full: Array, numel: int) -> None:
        """T_rel: against the best of the layers after it and itself, by norm and per parameter; the larger counts."""
        half = 0.5 * np.log10(numel)
        one, mine = self.size + _log10(transmitted), self.size + _log10(full)
        self.best = np.maximum(self.best, np.stack([one, one - half]))
        by_norm = mine - np.maximum(mine, self.best[0])
        by_rms = mine - half - np.maximum(mine - half, self.best[1])
        self.seen.append(np.where(mine == -np.inf, -np.inf, np.maximum(by_norm, by_rms)))
