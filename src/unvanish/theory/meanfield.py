"""Wide random networks in the mean: how variances travel forward and squared gradients travel back.

A layer z = W φ(z') + b of width n with W ~ N(0, σ_w²/n), b ~ N(0, σ_b²) maps the variance q of the pre-activations to
σ_w² E φ(√q u)² + σ_b², u ~ N(0, 1); a squared gradient shrinks by χ₁ = σ_w² E φ′(√q u)² a layer on its way back.
Source: Poole et al. 2016; Schoenholz et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from unvanish.theory.activations import Activation, Array

REACH = 12.0
"""Standard deviations: beyond, the Gaussian weight is below 1e-31."""
PANELS = (-20.0, -8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0)
"""Pre-activations between which the function may bend, whatever the variance."""
SATURATED = 0.01
"""A slope below this share of the largest one counts as saturated, as in the check of a network."""
COLLAPSED = 1e-12
FAR = 1e9
"""A variance that has grown this far on its way to a fixed point has none: the drift of softplus is lost soon after."""
ROUNDING = 1e-10
"""|ln χ₁| below this cannot be told from 0."""
MARCH = 1.25
"""Factor between the variances tried on the way to a fixed point."""


@dataclass(frozen=True)
class Moments:
    """Gaussian averages of an activation at variance q.

    ``mean``: E φ. ``square``: E φ². ``slope_square``: E φ′². ``growth``: d E φ² / dq = E[u φ φ′] / √q.
    """

    q: float
    mean: float
    square: float
    slope_square: float
    growth: float


@dataclass(frozen=True)
class FixedPoint:
    """Where the variance settles after many layers, and what the gradient does there.

    ``q`` is 0 where it dies out and inf where it grows without end. ``chi1``: factor of the squared gradient a layer.
    ``q_slope``: derivative of the variance map there; below 1 the variance is stable. ``every_q``: any q stays.
    """

    sigma_w2: float
    sigma_b2: float
    q: float
    chi1: float
    q_slope: float
    every_q: bool = False

    @property
    def depth_scale(self) -> float:
        """ξ = 1 / |ln χ₁|: layers over which the squared gradient changes by a factor e; inf at χ₁ = 1, to rounding."""
        if self.chi1 in (0, math.inf):
            return 0.0
        rate = abs(math.log(self.chi1))
        return math.inf if rate < ROUNDING else 1 / rate


@dataclass(frozen=True)
class Critical:
    """A point of the critical line: the σ_w² and σ_b² with χ₁ = 1 at variance q, and the slope of the variance map."""

    q: float
    sigma_w2: float
    sigma_b2: float
    q_slope: float

    @property
    def feasible(self) -> bool:
        """Whether there is such an initialisation: a variance of the biases cannot be negative."""
        return self.sigma_b2 >= -1e-12


@cache
def _legendre() -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(64)
    return points, weights


def nodes(q: float, phi: Activation) -> tuple[Array, Array]:
    """Points u and weights of the standard Gaussian: 64 Gauss-Legendre points on each panel between kinks."""
    scale = math.sqrt(q)
    bends = {place / scale for place in (*phi.kinks, *PANELS) if abs(place) < REACH * scale}
    edges = np.array(sorted({*np.linspace(-REACH, REACH, 25).tolist(), *bends}))
    edges = edges[np.concatenate([[True], np.diff(edges) > 1e-14])]
    points, weights = _legendre()
    half = np.diff(edges)[:, None] / 2
    u = (half * points + (edges[1:] + edges[:-1])[:, None] / 2).ravel()
    return u, (half * weights).ravel() * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)


def moments(phi: Activation, q: float) -> Moments:
    """E φ, E φ², E φ′² and the growth of E φ² for pre-activations of variance q > 0.

    The nodes follow a sine up to q = 10,000; the other functions bend near 0 only.
    """
    u, weight = nodes(q, phi)
    z = u * math.sqrt(q)
    value, slope = phi.phi(z), phi.slope(z)
    return Moments(
        q,
        float(weight @ value),
        float(weight @ (value * value)),
        float(weight @ (slope * slope)),
        float(weight @ (u * value * slope)) / math.sqrt(q),
    )


def saturation(phi: Activation, q: float) -> float:
    """The share of pre-activations of variance q at which |φ′| is below 1% of its largest."""
    u = np.linspace(-REACH, REACH, 24_000)  # an even number: no point on a kink at 0
    weight = np.exp(-u * u / 2)
    low = np.abs(phi.slope(u * math.sqrt(q))) < SATURATED * phi.largest_slope
    return float(weight[low].sum() / weight.sum())


def critical(phi: Activation, q: float) -> Critical:
    """The initialisation with χ₁ = 1 at variance q: σ_w² = 1 / E φ′², σ_b² = q − σ_w² E φ²."""
    averages = moments(phi, q)
    weight = 1 / averages.slope_square
    return Critical(q, weight, q - weight * averages.square, weight * averages.growth)


def critical_with_bias(phi: Activation, sigma_b2: float = 0.0) -> tuple[Critical, ...]:
    """The critical initialisations that have this σ_b²; none where every q is critical (ReLU with σ_b² = 0) or none is.

    Roots are looked for between q = 1e-6 and 1e4.
    """
    grid = np.geomspace(1e-6, 1e4, 400)
    excess = np.array([critical(phi, q).sigma_b2 - sigma_b2 for q in grid.tolist()])
    live = np.abs(excess) > 1e-9 * grid
    places = [i for i in range(len(grid) - 1) if excess[i] * excess[i + 1] < 0 and live[i : i + 2].any()]
    roots = [
        _root(
            lambda log_q: critical(phi, math.exp(log_q)).sigma_b2 - sigma_b2, math.log(grid[i]), math.log(grid[i + 1])
        )
        for i in places
    ]
    return tuple(critical(phi, math.exp(root)) for root in roots)


def critical_everywhere(phi: Activation) -> bool:
    """Whether one σ_w² is critical for every q with zero bias, as for ReLU: φ scales with its input."""
    return all(abs(critical(phi, q).sigma_b2) < 1e-9 * q for q in (1e-6, 1e-2, 1.0, 1e2, 1e4))


def fixed_point(phi: Activation, sigma_w2: float, sigma_b2: float, start: float = 1.0) -> FixedPoint:
    """Where the variance goes from ``start``, and χ₁ there.

    The variance map grows with q, so that the variance moves one way only, to the next root on that side.
    """

    def rest(log_q: float) -> float:
        q = math.exp(log_q)
        return sigma_w2 * moments(phi, q).square + sigma_b2 - q

    here = math.log(start)
    drift = rest(here)
    if abs(drift) < 1e-12 * start:
        return _settled(phi, sigma_w2, sigma_b2, start, abs(rest(here + 3)) < 1e-11 * start)
    step = math.copysign(math.log(MARCH), drift)
    while rest(here + step) * drift > 0:
        here += step
        if not math.log(COLLAPSED) < here < math.log(FAR):
            return _escaped(phi, sigma_w2, sigma_b2, drift > 0)
    return _settled(phi, sigma_w2, sigma_b2, math.exp(_root(rest, here, here + step)))


def _settled(phi: Activation, sigma_w2: float, sigma_b2: float, q: float, every_q: bool = False) -> FixedPoint:
    averages = moments(phi, q)
    return FixedPoint(sigma_w2, sigma_b2, q, sigma_w2 * averages.slope_square, sigma_w2 * averages.growth, every_q)


def _escaped(phi: Activation, sigma_w2: float, sigma_b2: float, grows: bool) -> FixedPoint:
    """The limits: far out only the outer slopes count, close to 0 only the slope there."""
    if grows:
        factor = sigma_w2 * (phi.flat_left**2 + phi.flat_right**2) / 2
        return FixedPoint(sigma_w2, sigma_b2, math.inf, factor, factor)
    averages = moments(phi, COLLAPSED)
    return FixedPoint(sigma_w2, sigma_b2, 0.0, sigma_w2 * averages.slope_square, sigma_w2 * averages.growth)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """A root between two places of opposite sign, to the last bits: regula falsi with bisection (Illinois)."""
    at_low, at_high = function(low), function(high)
    side = 0
    for _ in range(200):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        if not min(low, high) < middle < max(low, high):
            middle = (low + high) / 2
        value = function(middle)
        if value == 0 or abs(high - low) < 1e-15 * max(1.0, abs(middle)):
            return middle
        if value * at_low > 0:
            low, at_low, at_high, side = middle, value, at_high / 2 if side == 1 else at_high, 1
        else:
            high, at_high, at_low, side = middle, value, at_low / 2 if side == -1 else at_low, -1
    return (low + high) / 2


def grid_chi1(phi: Activation, sigma_w2: Array, sigma_b2: Array) -> Array:
    """χ₁ at the fixed point reached from q = 1, for every pair of variances; shape (biases, weights).

    The averages are taken at 601 variances from 1e-9 to 1e9 and read off between them: right to about 1e-3.
    """
    grid = np.geomspace(COLLAPSED * 1e3, FAR, 601)
    averages = [moments(phi, q) for q in grid.tolist()]
    square, slope = (np.array([getattr(each, name) for each in averages]) for name in ("square", "slope_square"))
    excess = sigma_w2[None, :, None] * square + sigma_b2[:, None, None] - grid
    centre = len(grid) // 2
    rising = excess[..., centre] > 1e-9
    # on the side the variance moves to, the first place where the drift has turned
    up = np.argmax(excess[..., centre:] <= 0, axis=-1) + centre
    up = np.where((excess[..., centre:] > 0).all(axis=-1), len(grid) - 1, up)
    down = centre - np.argmax(excess[..., centre::-1] >= 0, axis=-1)
    down = np.where((excess[..., centre::-1] < 0).all(axis=-1), 0, down)
    right = np.maximum(np.where(rising, up, np.minimum(down + 1, centre)), 1)
    at = np.take_along_axis(excess, np.stack([right - 1, right], axis=-1), axis=-1)
    span = at[..., 0] - at[..., 1]
    share = np.clip(np.divide(at[..., 0], span, out=np.zeros_like(span), where=span != 0), 0.0, 1.0)
    return sigma_w2 * (slope[right - 1] * (1 - share) + slope[right] * share)
