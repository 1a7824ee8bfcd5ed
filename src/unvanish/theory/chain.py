"""One neuron a layer: z = w·a + b, a = φ(z), or a + φ(z) with a residual connection; many chains at once.

It is the tool's own mathematics written out for scalars; tests hold it against capture and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unvanish.theory.activations import Activation, activation
from unvanish.theory.products import Array, Scaled, log10_rms, running_product_back, scaled_sum

LOSSES = ("output", "half", "square")
"""What is differentiated: the output itself, ½ Σ (o − y)², or Σ (o − y)². Sums run over the training set."""
FEW = 8
"""As many chains as this run faster one number at a time than layer by layer in arrays."""
AT_ONCE = 256
"""Layers that are run before it is asked whether anything still changes."""

SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
LARGEST_LOG2 = {"float16": 16, "bfloat16": 128, "float32": 128, "float64": 1024}


@dataclass(frozen=True)
class Chain:
    """A chain run forward and backward on N inputs; arrays are (N, L), column l − 1 belongs to layer l.

    ``before``: the activation that enters a layer. ``factor``: ∂a_l/∂a_{l−1}, w·φ′(z), plus 1 with a residual
    connection. ``delta``: ∂C/∂z_l per input. ``error``: ∂C/∂a_L per input.
    """

    weights: Array
    biases: Array
    inputs: Array
    before: Array
    pre_activation: Array
    activation: Array
    slope: Array
    factor: Array
    error: Array
    is_residual: bool
    delta: Scaled

    @property
    def depth(self) -> int:
        return self.weights.shape[-1]

    @property
    def output(self) -> Array:
        """a_L, one per input."""
        return self.activation[..., -1]

    @cached_property
    def weight_gradient(self) -> Scaled:
        """∂C/∂w_l = Σ over inputs of δ_l · a_{l−1}; shape (L,)."""
        return scaled_sum(self.delta * Scaled.of(self.before))

    @property
    def bias_gradient(self) -> Scaled:
        """∂C/∂b_l = Σ over inputs of δ_l; shape (L,)."""
        return scaled_sum(self.delta)

    @cached_property
    def log10_signal(self) -> Array:
        """log10 of the root mean square over inputs of δ_l; shape (L,)."""
        return log10_rms(self.delta.log10)

    @cached_property
    def loudest(self) -> Scaled:
        """δ_l of the input on which it is largest; shape (L,)."""
        return self.delta[self.delta.log10.argmax(axis=0), np.arange(self.depth)]

    @property
    def input_gradient(self) -> Scaled:
        """∂C/∂x per input; shape (N,)."""
        return Scaled.of(self.error) * running_product_back(self.factor)[..., 0]


def chain(
    weights: ArrayLike,
    biases: ArrayLike = 0.0,
    inputs: ArrayLike = 1.0,
    phi: str | Activation = "sigmoid",
    residual: bool = False,
    loss: str = "output",
    targets: ArrayLike = 0.0,
) -> Chain:
    """A chain of the given weights (L,) on inputs (N,) or one number, run forward and backward.

    ``loss``: "output" (C = a_L), "half" (½ Σ (a_L − y)²) or "square" (Σ (a_L − y)²) with ``targets`` (N,).
    Gradients are exact at any depth: they are kept as mantissa and exponent.
    """
    w = np.atleast_1d(np.asarray(weights, np.float64))
    b = np.broadcast_to(np.asarray(biases, np.float64), w.shape)
    x = np.atleast_1d(np.asarray(inputs, np.float64))
    f = activation(phi) if isinstance(phi, str) else phi
    z, a = forward(np.broadcast_to(w, (len(x), len(w))), b, x, f, residual)
    before = np.concatenate([x[:, None], a[:, :-1]], axis=1)
    slope = _slopes(f, z)
    factor = w * slope + (1.0 if residual else 0.0)
    error = loss_slope(loss, a[:, -1], np.asarray(targets, np.float64))
    return Chain(w, b, x, before, z, a, slope, factor, error, residual, _delta(error, factor, slope))


def forward(weights: Array, biases: Array, inputs: Array, phi: Activation, residual: bool) -> tuple[Array, Array]:
    """z and a of N chains, both (N, L); ``weights`` (N, L), ``biases`` (L,) or (N, L), ``inputs`` (N,)."""
    biases = np.broadcast_to(biases, weights.shape)
    if len(weights) <= FEW:
        runs = [_forward_one(w, b, float(x), phi, residual) for w, b, x in zip(weights, biases, inputs, strict=True)]
        a = np.array([run + [math.nan] * (weights.shape[1] - len(run)) for run in runs])
        with np.errstate(all="ignore"):
            z = weights * np.concatenate([inputs[:, None], a[:, :-1]], axis=1) + biases
        for row, run in zip(z, runs, strict=True):
            row[len(run) :] = math.nan
        return z, a
    z, a = np.empty(weights.shape), np.empty(weights.shape)
    here = inputs
    with np.errstate(all="ignore"):
        for layer in range(weights.shape[1]):
            z[:, layer] = weights[:, layer] * here + biases[:, layer]
            here = phi.phi(z[:, layer]) + here if residual else phi.phi(z[:, layer])
            a[:, layer] = here
    return z, a


def _forward_one(weights: Array, biases: Array, x: float, phi: Activation, residual: bool) -> list[float]:
    """a of one chain, number by number: 100,000 layers in some 20 ms. It ends where φ refuses a number."""
    alike = bool((weights == weights[0]).all() and (biases == biases[0]).all())
    ws, bs, here, made = weights.tolist(), biases.tolist(), x, list[float]()
    for start in range(0, len(ws), AT_ONCE):
        pairs = list(zip(ws[start : start + AT_ONCE], bs[start : start + AT_ONCE], strict=True))
        try:
            made += _some(pairs, here, phi.one, residual)
        except (OverflowError, ValueError):  # math refuses the infinities that arrays carry on with
            for pair in pairs:
                try:
                    made += _some([pair], here, phi.one, residual)
                except (OverflowError, ValueError):
                    return made
                here = made[-1]
        here = made[-1]
        if alike and len(made) > 1 and here == made[-2]:  # nothing changes any more
            return made + [here] * (len(ws) - len(made))
    return made


def _some(pairs: list[tuple[float, float]], here: float, one: Callable[[float], float], residual: bool) -> list[float]:
    if residual:
        return [here := one(w * here + b) + here for w, b in pairs]
    return [here := one(w * here + b) for w, b in pairs]


def _slopes(phi: Activation, z: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(phi.slope(z), np.float64)


def _delta(error: Array, factor: Array, slope: Array) -> Scaled:
    """δ_l = ∂C/∂a_L · factor_L ⋯ factor_{l+1} · φ′(z_l)."""
    after = np.concatenate([factor[:, 1:], np.ones((len(factor), 1))], axis=1)
    return Scaled.of(error)[:, None] * running_product_back(after) * Scaled.of(slope)


def loss_slope(loss: str, output: Array, targets: Array) -> Array:
    """∂C/∂a_L per input."""
    if loss == "output":
        return np.ones_like(output)
    with np.errstate(over="ignore", invalid="ignore"):
        return (output - targets) * (2.0 if loss == "square" else 1.0)


def zero_from(numbers: Scaled, dtype: str) -> int | None:
    """The first place (from 1) whose number, or one before it, a dtype rounds to zero; None if there is none.

    A number rounds to zero at or below half the smallest subnormal.
    """
    # half the smallest subnormal 2^s is 2^(s-1), which frexp writes as 0.5 · 2^s
    smallest = int(math.log2(SMALLEST[dtype]))
    size = np.abs(numbers.mantissa)
    return _first((size == 0) | (numbers.exponent < smallest) | ((numbers.exponent == smallest) & (size <= 0.5)))


def overflow_from(numbers: Scaled, dtype: str) -> int | None:
    """The first place (from 1) whose number is beyond the largest of a dtype; None if there is none."""
    return _first(numbers.exponent > LARGEST_LOG2[dtype])


def _first(held: NDArray[np.bool_]) -> int | None:
    return int(held.argmax()) + 1 if held.any() else None
