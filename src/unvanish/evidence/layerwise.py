"""How the loss bends along each layer's own gradient, and what the layer alone could still gain by that.

Along the unit gradient ĝ of a layer the Gauss-Newton curvature is h = ĝᵀ Jᵀ H J ĝ. A quadratic model of the loss then
promises ½ ‖g‖² / h for moving this layer alone and along ĝ only: a lower bound of the layer's own decrement
½ gᵀ G⁻¹ g, which further steps of conjugate gradients only raise. The exact gradient is walked once more with its
powers of two, and each direction is pushed forward at a scale at which it neither underflows nor overflows.

Source: Martens 2010, Deep learning via Hessian-free optimization, section 4; Schraudolph 2002, Fast curvature
matrix-vector products for second-order gradient descent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unvanish.backward import LOG10_2, plain_walk, supported, walk
from unvanish.capture import record
from unvanish.decide import VANISHED, has_converged, may_be_stationary
from unvanish.evidence.free import FreeLoss
from unvanish.evidence.gauss_newton import GaussNewton, dot
from unvanish.layers import Layer
from unvanish.problem import Problem
from unvanish.records import Flow
from unvanish.scaled import ZERO, Scaled, room, shift

MOST = {"auto": 8, "full": 64}  # layers that are looked at; of more, so many evenly spaced ones
STEPS = {"auto": 1, "full": 4}  # of conjugate gradients; one is along the gradient alone
DONE = 1e-20  # of |g|²: of a residue below this, rounding is all that is left
LEAST = 1e-30  # rms of an output's move below which float32 has no digits left


def chosen(flow: Flow, layers: Sequence[Layer], effort: str) -> list[Layer]:
    """The layers worth looking at: with "auto" those a small gradient of which is in question, with "full" all."""
    moving = {
        a.name: a.log10_transmission
        for a in flow.layers
        if a.log10_transmission is not None and math.isfinite(a.log10_transmission)
    }
    every = effort == "full" or has_converged(flow.loss) or may_be_stationary(flow)
    asked = [a for a in layers if a.name in moving and (every or moving[a.name] < VANISHED)]
    own = list({frozenset(id(p) for p in a.live): a for a in reversed(asked)}.values())[::-1]  # a shared one once
    most = MOST.get(effort, 0)
    if len(own) <= most:
        return own
    return [own[round(k * (len(own) - 1) / (most - 1))] for k in range(most)] if most > 1 else []


class Bend(NamedTuple):
    """Along one layer: log10 of the curvature along its gradient, and log10 of the loss it alone could gain."""

    log10_curvature: float
    log10_gain: float


def bends(
    problem: Problem,
    model: nn.Module,
    layers: Sequence[Layer],
    jacobians: Mapping[str, float],
    free: FreeLoss,
    steps: int,
    seed: int,
) -> dict[str, Bend] | str:
    """By layer, with ``steps`` steps of conjugate gradients at most; or why curvature cannot be had.

    ``jacobians``: log10 of |∂output/∂w| by layer, which sets the scale of its direction. A layer whose gradient is zero
    or leaves the range of its type, or along which the loss does not bend upwards, is left out.
    """
    parameters = list({id(p): p for layer in layers for p in layer.live}.values())
    gradients = _gradients(problem, model, parameters)
    found: dict[str, Bend] = {}
    try:
        product = GaussNewton(problem, model, free, parameters, seed)
        sides = [s for a in layers if (s := _side(a, gradients, jacobians.get(a.name), product)) is not None]
        if sides and not product.is_whole(_together(product, sides)):
            return "an operation of the model has no second derivative"
        for side in sides:
            bend = _bend(product, side, steps)
            if bend is not None:
                found[side.name] = bend
    except Exception as error:  # an operation without second derivatives, a loss that refuses detached outputs
        return str(error).split("\n")[0] or type(error).__name__
    return found


class _Side(NamedTuple):
    """One layer's parameters, its unit gradient in float64, log2 of its norm, and log2 of the scale to push at."""

    name: str
    parameters: list[nn.Parameter]
    unit: list[Tensor]
    log2_norm: float
    power: int


def _gradients(problem: Problem, model: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[int, Scaled]:
    """The exact gradient of each of the parameters, by id, with its power of two."""
    wanted, kept = {id(p) for p in parameters}, dict[int, Scaled]()

    def keep(parameter: nn.Parameter, channel: int, gradient: Scaled) -> None:
        if id(parameter) in wanted:
            kept[id(parameter)] = gradient

    capture = record(problem, model)
    root = capture.loss_root
    if root is not None:
        start = torch.ones(root.shape, dtype=root.dtype, device=root.device)
        (plain_walk if supported() else walk)(capture, [[(root, start)]], keep)
    return kept


def _side(layer: Layer, gradients: Mapping[int, Scaled], jacobian: float | None, product: GaussNewton) -> _Side | None:
    pairs = [(p, gradients[id(p)]) for p in layer.live if id(p) in gradients]
    live = [float(g.exponent) for _, g in pairs if float(g.log2) > ZERO]
    if not live or jacobian is None or not math.isfinite(jacobian):
        return None
    top = max(live)
    parts = [_dense(g, p, top) for p, g in pairs]
    length = math.sqrt(dot(parts, parts))
    if not 0.0 < length < math.inf:
        return None
    most = min(room(t.dtype) for t in (*product.parameters, *product.outputs))
    power = max(-most, min(most, -round(jacobian / LOG10_2)))
    return _Side(layer.name, [p for p, _ in pairs], [t / length for t in parts], math.log2(length) + top, power)


def _dense(gradient: Scaled, parameter: nn.Parameter, top: float) -> Tensor:
    """The gradient over 2^top in float64, shaped like the parameter."""
    values = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
    if float(gradient.log2) == ZERO:
        return torch.zeros_like(values, dtype=torch.float64).reshape(parameter.shape)
    return shift(values.double(), round(float(gradient.exponent) - top)).reshape(parameter.shape)


def _spread(product: GaussNewton, side: _Side, v: Sequence[Tensor]) -> list[Tensor | None]:
    """A direction of one layer, times its power of two, among all parameters of the product."""
    own = {id(p): shift(t, side.power).to(p.dtype) for p, t in zip(side.parameters, v, strict=True)}
    return [own.get(id(p)) for p in product.parameters]


def _together(product: GaussNewton, sides: Sequence[_Side]) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in product.parameters]
    for side in sides:
        total = [a if b is None else a + b for a, b in zip(total, _spread(product, side, side.unit), strict=True)]
    return total


def _bend(product: GaussNewton, side: _Side, steps: int) -> Bend | None:
    """Conjugate gradients in the layer's own block, from zero; all in units of 2^power and of ‖g‖."""
    residue, direction, left, gained, curvature = list(side.unit), list(side.unit), 1.0, 0.0, None
    for turn in range(steps):
        moved = product.push(_spread(product, side, direction))
        if not math.sqrt(dot(moved, moved) / sum(t.numel() for t in moved)) > LEAST:
            break
        bent = product.bend(moved)
        along = dot(moved, bent)
        if not 0.0 < along < math.inf:  # the loss is not convex in its outputs, or flat along this direction
            break
        curvature = along if curvature is None else curvature
        step = left / along
        gained += 0.5 * step * left
        if turn + 1 == steps:
            break
        back = _pulled(product, side, bent)
        residue = [a - step * b for a, b in zip(residue, back, strict=True)]
        rest = dot(residue, residue)
        if not DONE < rest < math.inf:
            break
        direction = [a + rest / left * b for a, b in zip(residue, direction, strict=True)]
        left = rest
    if curvature is None:
        return None
    scale = 2.0 * side.power * LOG10_2
    return Bend(math.log10(curvature) - scale, math.log10(gained) + 2.0 * side.log2_norm * LOG10_2 + scale)


def _pulled(product: GaussNewton, side: _Side, bent: Sequence[Tensor]) -> list[Tensor]:
    """2^power Jᵀ(Hy) in float64; H y travels back at the norm that suits the layer's Jacobian."""
    drift = side.power - math.frexp(math.sqrt(dot(bent, bent)))[1]
    found = product.pull([shift(t, drift) for t in bent], side.parameters)
    return [shift(t.double(), side.power - drift) for t in found]
