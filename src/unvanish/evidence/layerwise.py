"""How the loss bends along each layer's own gradient, and what the layer alone could still gain by that.

Along the unit gradient ĝ of a layer the Gauss-Newton curvature is h = ĝᵀ Jᵀ H J ĝ. A quadratic model of the loss then
promises ½ ‖g‖² / h for moving this layer alone and along ĝ only: a lower bound of the layer's own decrement
½ gᵀ G⁻¹ g. Where no one scale keeps all gradients inside the range of their type, they are walked once more with their
powers of two; each direction is pushed forward at a scale at which it neither underflows nor overflows. A push passes
only through what lies behind its layer.

A push costs about half a pass through the network and no finding rests on it: many layers are looked at evenly spaced.
Where the operations are so small that to call them takes longer than to compute them, several are pushed at once.

Source: Martens 2010, Deep learning via Hessian-free optimization, section 4; Schraudolph 2002, Fast curvature
matrix-vector products for second-order gradient descent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unvanish.decide.limits import VANISHED
from unvanish.decide.stationary import falls, has_converged, may_be_stationary
from unvanish.evidence.gauss_newton import NOT_TWICE, WHOLE, GaussNewton, dot, refusal
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.records import Flow, LayerFlow
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.trace.scaled import LOG_ZERO, Scaled, norm_of, room, shift
from unvanish.trace.tape import LOG10_2

MOST = {"auto": 8, "full": 64}  # layers looked at; of more, so many evenly spaced ones
AT_ONCE = 8  # directions pushed at once, at most: each takes the weights of all of them along
ENTRIES = 2**16  # of the largest tensor of a pass, over all directions at once: of larger ones, work is all that counts
MARGIN = 10.0  # decades from either end of a type's range: room for what a gradient is computed from
LEAST = 1e-30  # rms of an output's move below which float32 has no digits left


def chosen(look: Look, flow: Flow) -> list[Layer]:
    """The layers worth looking at: with "auto" those a small gradient of which is in question, with "full" all.

    Where a small tensor or a short branch of its own explains a small gradient, it is in no question.
    """
    moving = {
        a.name: a.log10_transmission
        for a in flow.layers
        if a.log10_transmission is not None and math.isfinite(a.log10_transmission)
    }
    small = has_converged(flow.loss) or (may_be_stationary(flow) and not falls(flow))
    every = look.effort == "full" or small
    weak = {a.name for a in flow.layers if not a.gate and moving.get(a.name, 0.0) < VANISHED}
    asked = [a for a in look.layers if a.name in (moving if every else weak)]
    own = list({frozenset(id(p) for p in a.live): a for a in reversed(asked)}.values())[::-1]  # a shared one once
    most = MOST.get(look.effort, 0)
    if len(own) <= most:
        return own
    return [own[round(k * (len(own) - 1) / (most - 1))] for k in range(most)] if most > 1 else []


class GradientCurvature(NamedTuple):
    """Along one layer: log10 of the curvature along its gradient, and log10 of the loss it alone could gain."""

    log10_curvature: float
    log10_gain: float


def gradient_curvatures(
    look: Look, layers: Sequence[Layer], flows: Mapping[str, LayerFlow], output_loss: OutputLoss
) -> dict[str, GradientCurvature] | str:
    """By layer, of those given; or why curvature cannot be had.

    ``flows``: what the walk measured of them; |∂output/∂w| sets the scale of a layer's direction. A layer whose
    gradient is zero or not finite, or along which the loss does not bend upwards, is left out.
    """
    parameters = list({id(p): p for layer in layers for p in layer.live}.values())
    found: dict[str, GradientCurvature] = {}
    try:
        product = GaussNewton(look, output_loss, parameters)
        power = _power([flows[layer.name] for layer in layers], product)
        gradients = _walked(look, parameters) if power is None else _pulled(product, power)
        sides = [s for a in layers if (s := _side(a, gradients, flows[a.name], product)) is not None]
        if sides and not product.is_twice_differentiable:
            return NOT_TWICE
        together: list[Tensor] = []
        whole = True
        for side, moved, bent in _pushed(look, product, sides):
            together = [a + b for a, b in zip(together, moved, strict=True)] if together else moved
            whole = whole and math.isclose(product.slope(moved), side.slope, rel_tol=WHOLE)
            measured = _gradient_curvature(side, moved, bent)
            if measured is not None:
                found[side.name] = measured
        # Where the loss falls along each direction as its gradient says, no part of a push is missing. Where the slopes
        # of the samples cancel that is not to be seen, and a pull back tells; a sum of pushes is that of the sum.
        if not whole and not product.is_whole(_together(product, sides), together):
            return NOT_TWICE
    except Exception as error:  # an operation without second derivatives, a loss that refuses detached outputs
        return refusal(error)
    return found


class _Side(NamedTuple):
    """One layer's parameters, its unit gradient in float64, log2 of its norm, and log2 of the scale to push at."""

    name: str
    parameters: list[nn.Parameter]
    unit: list[Tensor]
    log2_norm: float
    power: int

    @property
    def slope(self) -> float:
        """|g| times the scale, the slope of the loss along the direction that is pushed."""
        return 2.0 ** max(-1000.0, min(1000.0, self.log2_norm + self.power))


def _pushed(
    look: Look, product: GaussNewton, sides: Sequence[_Side]
) -> Iterator[tuple[_Side, list[Tensor], list[Tensor]]]:
    """Each side with J v and H J v, neighbours at once where a pass is made of small operations: they share the way."""
    sizes = [math.prod(call.shape) for call in look.capture.calls] + [p.numel() for p in product.parameters]
    count = max(1, min(AT_ONCE, ENTRIES // max(1, *sizes)))
    for start in range(0, len(sides), count):
        part = sides[start : start + count]
        made = product.pushed([_spread(product, side) for side in part])
        yield from ((side, *each) for side, each in zip(part, made, strict=True))


def _power(flows: Sequence[LayerFlow], product: GaussNewton) -> int | None:
    """The power of two at which torch's own backward gives all digits of all these gradients; None where none does."""
    found = one_power(flows)
    return None if found is None or not product.log10_residual() > found.low else found.power


class OnePower(NamedTuple):
    """A power of two that keeps all digits of some gradients, and the log10 of the least rms that it is meant for."""

    power: int
    low: float


def one_power(flows: Sequence[LayerFlow]) -> OnePower | None:
    """That at which torch's own backward gives all digits of the gradients of these layers; None where none does."""
    kinds = {getattr(torch, flow.dtype or "float16") for flow in flows}
    ends = [(math.log10(torch.finfo(t).tiny), math.log10(torch.finfo(t).max)) for t in kinds]
    low, high = max(a for a, _ in ends) + MARGIN, min(b for _, b in ends) - MARGIN
    rms = [value for a in flows if (value := a.log10_grad_rms) is not None and value > LOG_ZERO]
    if not rms or max(rms) - min(rms) > high - low:
        return None
    return OnePower(round((0.5 * (low + high) - 0.5 * (max(rms) + min(rms))) / LOG10_2), low)


def _pulled(product: GaussNewton, power: int) -> dict[int, Scaled]:
    """The gradients as Jᵀr, pulled back at 2^power of their size."""
    found = {id(p): g for p, g in zip(product.parameters, product.gradient(power), strict=True)}
    return {key: Scaled(g, -power, math.log2(norm) if (norm := norm_of(g)) else LOG_ZERO) for key, g in found.items()}


def _walked(look: Look, parameters: Sequence[nn.Parameter]) -> dict[int, Scaled]:
    """The exact gradient of each of the parameters, by id, with its power of two."""
    wanted, kept = {id(p) for p in parameters}, dict[int, Scaled]()

    def keep(parameter: nn.Parameter, channel: int, gradient: Scaled) -> None:
        if id(parameter) in wanted:
            kept[id(parameter)] = gradient

    capture = record(look.problem, look.model)
    root = capture.loss_root
    if root is not None:
        start = torch.ones(root.shape, dtype=root.dtype, device=root.device)
        walk(capture, [[(root, start)]], keep)
    return kept


def _side(layer: Layer, gradients: Mapping[int, Scaled], flow: LayerFlow, product: GaussNewton) -> _Side | None:
    jacobian = flow.log10_jacobian_norm
    pairs = [(p, gradients[id(p)]) for p in layer.live if id(p) in gradients]
    live = [float(g.exponent) for _, g in pairs if float(g.log2) > LOG_ZERO]
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
    if float(gradient.log2) == LOG_ZERO:
        return torch.zeros_like(values, dtype=torch.float64).reshape(parameter.shape)
    return shift(values.double(), round(float(gradient.exponent) - top)).reshape(parameter.shape)


def _spread(product: GaussNewton, side: _Side) -> list[Tensor | None]:
    """The unit gradient of one layer, times its power of two, among all parameters of the product."""
    own = {id(p): shift(t, side.power).to(p.dtype) for p, t in zip(side.parameters, side.unit, strict=True)}
    return [own.get(id(p)) for p in product.parameters]


def _together(product: GaussNewton, sides: Sequence[_Side]) -> list[Tensor]:
    total = [torch.zeros_like(p) for p in product.parameters]
    for side in sides:
        total = [a if b is None else a + b for a, b in zip(total, _spread(product, side), strict=True)]
    return total


def _gradient_curvature(side: _Side, moved: Sequence[Tensor], bent: Sequence[Tensor]) -> GradientCurvature | None:
    """Along the unit gradient; ``moved``: what it is pushed to at 2^power of its length; ``bent``: H of that."""
    if not math.sqrt(dot(moved, moved) / sum(t.numel() for t in moved)) > LEAST:
        return None
    along = dot(moved, bent)
    if not 0.0 < along < math.inf:  # the loss is not convex in its outputs, or flat along this direction
        return None
    curvature = math.log10(along) - 2.0 * side.power * LOG10_2
    return GradientCurvature(curvature, 2.0 * side.log2_norm * LOG10_2 - math.log10(2.0) - curvature)
