"""Layers of n neurons with random weights, run forward and backward on one input: what a chain is for n = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unvanish.theory.activations import Activation, Array, activation
from unvanish.theory.chain import loss_slope
from unvanish.theory.products import Scaled, running_product_back


@dataclass(frozen=True)
class Layers:
    """z_l = W_l a_{l−1} + b, a_l = φ(z_l), the output (a_L1 + … + a_Ln) / √n. Arrays are (1, L) as those of a chain.

    ``weights`` (L,): ‖W_lᵀ δ_l‖ / ‖δ_l‖, what the weights multiply the error signal by; 1 where none arrives.
    ``slope``: ‖δ_l‖ / ‖∂C/∂a_l‖. ``factor``: ‖∂C/∂a_{l−1}‖ / ‖∂C/∂a_l‖. ``pre_activation`` and ``activation``: means
    over the neurons; ``before`` the norm of what enters. ``delta``: ‖∂C/∂z_l‖; ``loudest`` its largest entry.
    """

    weights: Array
    before: Array
    pre_activation: Array
    activation: Array
    slope: Array
    factor: Array
    error: Array
    delta: Scaled
    loudest: Scaled

    @property
    def depth(self) -> int:
        return len(self.weights)

    @property
    def weight_gradient(self) -> Scaled:
        """‖∂C/∂W_l‖ = ‖δ_l‖ · ‖a_{l−1}‖; shape (L,)."""
        return (self.delta * Scaled.of(self.before))[0]

    @property
    def log10_signal(self) -> Array:
        """log10 ‖δ_l‖; shape (L,)."""
        return self.delta.log10[0]


def draw_weights(scales: Sequence[float], noise: float, neurons: int, seed: int) -> Array:
    """W_l (L, n, n): entries w_l · N(0, 1/n) + noise · N(0, 1/n), so that a layer's gain is as that of one neuron."""
    chance = np.random.default_rng(seed)
    shape = (len(scales), neurons, neurons)
    drawn = chance.standard_normal(shape) * (np.asarray(scales, np.float64) / np.sqrt(neurons))[:, None, None]
    return drawn + chance.standard_normal(shape) * (noise / np.sqrt(neurons)) if noise else drawn


def layers(
    weights: Array,
    bias: float = 0.0,
    x: float = 1.0,
    phi: str | Activation = "sigmoid",
    residual: bool = False,
    loss: str = "output",
    target: float = 0.0,
) -> Layers:
    """Layers of the given weights (L, n, n) on the input x in every component; the losses are those of a chain.

    Gradients are exact at any depth: the error signal is kept with norm one, and its norm as a product of factors.
    """
    f = activation(phi) if isinstance(phi, str) else phi
    depth, neurons = weights.shape[:2]
    z, a = np.empty((depth, neurons)), np.empty((depth + 1, neurons))
    a[0] = x
    with np.errstate(all="ignore"):
        for at in range(depth):
            z[at] = weights[at] @ a[at] + bias
            a[at + 1] = f.phi(z[at]) + (a[at] if residual else 0.0)
        slopes = np.asarray(f.slope(z), np.float64)
    gains, slope, factor, peak = np.ones(depth), np.zeros(depth), np.zeros(depth), np.zeros(depth)
    here = np.full(neurons, 1 / np.sqrt(neurons))  # ∂C/∂a_l over its norm
    for at in reversed(range(depth)):
        local = slopes[at] * here
        slope[at] = np.linalg.norm(local)
        peak[at] = np.abs(local).max() / slope[at] if slope[at] else 0.0
        passed = weights[at].T @ local
        if slope[at]:
            gains[at] = np.linalg.norm(passed) / slope[at]
        passed = passed + here if residual else passed
        factor[at] = np.linalg.norm(passed)
        here = passed / factor[at] if factor[at] else passed
    with np.errstate(all="ignore"):  # what leaves float64 becomes inf or nan, and is told by its value
        means, before = (z.mean(axis=1)[None], a[1:].mean(axis=1)[None]), _norms(a[:-1])[None]
        error = loss_slope(loss, np.atleast_1d(a[-1].sum() / np.sqrt(neurons)), np.atleast_1d(target))
    after = np.concatenate([factor[1:], [1.0]])[None]
    delta = Scaled.of(np.abs(error))[:, None] * running_product_back(after) * Scaled.of(slope[None])
    return Layers(gains, before, *means, slope[None], factor[None], error, delta, delta[0] * Scaled.of(peak))


def _norms(rows: Array) -> Array:
    """The norm of each row; divided by its largest entry first, the square of which may be beyond float64."""
    largest = np.abs(rows).max(axis=1)
    unit = np.where(largest > 0, largest, 1.0)
    return unit * np.linalg.norm(rows / unit[:, None], axis=1)
