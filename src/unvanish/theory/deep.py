"""What mean-field theory predicts of a deep random network: how much of the error signal comes back to the first layer.

Many networks at once; the Gaussian averages are read off a table, which is right to a few parts in 10⁴.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from unvanish.theory.activations import CENTRED, Array, activation, centred_sigmoid
from unvanish.theory.meanfield import moments

SPAN = (1e-12, 1e12, 1201)
"""Smallest and largest variance of the table, and how many there are; beyond, powers of the variance go on as there."""


@dataclass(frozen=True)
class Table:
    """E φ, E φ² and E φ′² over the logarithm of the variance."""

    log_q: Array
    mean: Array
    log_square: Array
    log_slope: Array

    def at(self, q: Array) -> tuple[Array, Array, Array]:
        """E φ, E φ² and E φ′² at variances ``q``."""
        x = np.log(np.maximum(q, 1e-300))
        mean = np.interp(x, self.log_q, self.mean)
        return mean, np.exp(_extended(x, self.log_q, self.log_square)), np.exp(_extended(x, self.log_q, self.log_slope))


def _extended(x: Array, places: Array, values: Array) -> Array:
    """Between the places linear, beyond them with the slope of the last two."""
    extended = np.interp(x, places, values)
    for outside, edge, beside in ((x < places[0], 0, 1), (x > places[-1], -1, -2)):
        slope = (values[edge] - values[beside]) / (places[edge] - places[beside])
        extended = np.where(outside, values[edge] + slope * (x - places[edge]), extended)
    return extended


@cache
def table(name: str) -> Table:
    """The averages of one activation; ``name`` may be "centred sigmoid" too."""
    phi = centred_sigmoid() if name == CENTRED else activation(name)
    grid = np.geomspace(*SPAN)
    averages = [moments(phi, q) for q in grid.tolist()]
    mean, square, slope = (np.array([getattr(m, key) for m in averages]) for key in ("mean", "square", "slope_square"))
    with np.errstate(divide="ignore"):
        return Table(np.log(grid), mean, np.log(square), np.log(slope))


def log10_signal_ratio(
    phi: str,
    depth: int,
    first: tuple[Array, Array],
    inside: tuple[Array, Array],
    last: Array,
    *,
    inputs: float = 1.0,
    norm: str = "",
    skip: Array | None = None,
) -> Array:
    """log10 of the root mean square error signal at the first layer's output over that at the last layer's, (P,).

    ``depth`` hidden layers z = W h + b, h = φ(norm(z)) and a linear layer. ``first``, ``inside``: σ_w² and σ_b² of the
    first layer and of the others; ``last``: σ_w² of the linear one. ``inputs``: their mean square. ``norm``: "",
    "batch" or "layer"; ``skip``: the factor of the branches h + skip · φ(norm(z)) after the first layer, None for none.

    Without norm and skip the squared signal changes by χ₁ = σ_w² E φ′² a layer (Schoenholz et al. 2017); a residual
    branch adds skip² χ₁ to 1 (Yang & Schoenholz 2017); batch normalisation divides χ₁ by σ_w² Var φ (Yang et al. 2019),
    layer normalisation by σ_w² E h² + σ_b².
    """
    known = table(phi)
    one = np.ones_like(last)
    with np.errstate(all="ignore"):
        q = first[0] * inputs + first[1]
        mean, square, slope = known.at(one if norm else q)
        before = first[0] * inputs if norm == "batch" else q
        total = np.log10(last) + np.log10(slope) - (np.log10(before) if norm else 0.0)
        centre, power = mean, square
        for _ in range(depth - 1):
            spread = power - centre**2 if norm == "batch" else power
            q = inside[0] * spread + (0.0 if norm == "batch" else inside[1])
            mean, square, slope = known.at(one if norm else q)
            gain = inside[0] * slope / (q if norm else 1.0)
            if skip is None:
                total += np.log10(gain)
                centre, power = mean, square
            else:
                total += np.log10(1 + skip**2 * gain)
                power = power + 2 * skip * centre * mean + skip**2 * square
                centre = centre + skip * mean
        return 0.5 * total
