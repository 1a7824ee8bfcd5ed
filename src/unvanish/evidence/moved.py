"""How much of the signal reaches each layer once the weights have moved, without recording the pass again.

The calls and what feeds what are those of the first pass; one forward pass and torch's own backward give the rest. That
takes a third of what a recorded pass and an exact walk take, and serves as long as no gradient nears the end of its
type: where one does, the exact walk is taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unvanish.evidence.moving import loss_again, or_nan, pass_again
from unvanish.flow.look import Look, looking
from unvanish.flow.measure import transmissions, transmissions_of
from unvanish.flow.transmission import cotangents_of
from unvanish.trace.calls import root_of
from unvanish.trace.capture import forward_is_finite
from unvanish.trace.scaled import is_finite, norms_of
from unvanish.trace.structure import inner_loss, tensors

DIGITS = 1e6  # times the smallest normal number the rms of a gradient must be for its entries to have all theirs


def moved(look: Look) -> tuple[float, dict[str, float]]:
    """The loss of the batch, and log10 of T_rel by layer, of the model as it stands.

    ``look``: an earlier one, whose graph may be gone. The loss is nan where the pass itself fails on the moved weights;
    the layers are {} where loss or outputs are not finite.
    """
    found = _by_autograd(look)
    if found is not None:
        return found
    with torch.no_grad():
        loss = or_nan(lambda: loss_again(look.problem, look.model, look.seed))
    if not math.isfinite(loss):
        return loss, {}
    with looking(look.problem, look.model, seed=look.seed) as again:
        if again.capture.loss_root is None or not forward_is_finite(again.capture):
            return loss, {}
        return loss, transmissions(again.capture, again.layers, look.seed)


def _by_autograd(look: Look) -> tuple[float, dict[str, float]] | None:
    """None where the outputs are not all that the signal starts from, or a gradient is too near the end of its type."""
    problem, capture = look.problem, look.capture
    parameters = list({id(p): p for layer in look.layers if layer.calls for p in layer.live}.values())
    beside = problem.loss_fn is None  # the model's own loss is among what it gives, and no start of the signal
    plain = (beside or not capture.own_loss) and problem.autocast is None and not capture.ends_in_loss
    wide = all(p.dtype in (torch.float32, torch.float64) and not p._backward_hooks for p in parameters)
    if not plain or not wide or capture.hooked:
        return None
    with torch.enable_grad():
        try:
            outputs, loss = pass_again(problem, look.model, look.seed)
        except torch.cuda.OutOfMemoryError:  # says nothing about the weights
            raise
        except Exception:
            return math.nan, {}
        if not math.isfinite(loss):
            return loss, {}
        own = None if not beside else outputs if isinstance(outputs, Tensor) else inner_loss(outputs)
        ends = [t for t in tensors(outputs) if t.is_floating_point() and t.requires_grad and t is not own]
        if not ends or any(t.is_leaf or t.is_nested or t.is_sparse or not is_finite(t.detach()) for t in ends):
            return None
        starts = [cotangent for _, cotangent in cotangents_of([root_of(t) for t in ends], look.seed)]
        gradients = torch.autograd.grad(ends, parameters, starts, allow_unused=True)
    known: list[tuple[int, Tensor]] = [(id(p), g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    if any(g.layout is not torch.strided for _, g in known):
        return None
    slopes: dict[int, float] = {}
    for (key, gradient), norm in zip(known, norms_of([g for _, g in known]), strict=True):
        if not DIGITS * torch.finfo(gradient.dtype).tiny * math.sqrt(gradient.numel()) < norm < math.inf:
            return None
        slopes[key] = math.log10(norm)
    return loss, transmissions_of(capture.calls, look.layers, slopes)
