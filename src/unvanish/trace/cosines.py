"""Products of unit vectors, which stay between -1 and 1 whatever the weights become, and quotients of a fixed size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

ALONG = {"linear": -1, "matmul": -2, "__matmul__": -2, "mm": -2}
"""Products of two tensors, and the axis along which the second is summed up; of the first it is the last."""
UNIT = 1e-3  # of 1: half precision leaves as much


def are_cosines(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call gives cosines of what the network computes and of directions computed from weights."""
    if name == "cosine_similarity":
        return True
    if name not in ALONG or kwargs or len(args) < 2 or any(a is not None for a in args[2:]):
        return False
    data, weights = args[0], args[1]
    if not isinstance(data, Tensor) or not isinstance(weights, Tensor) or weights.ndim != 2:
        return False
    if any(t.requires_grad and t.grad_fn is None for t in (data, weights)):  # a step would change their length
        return False
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return _unit(weights, ALONG[name]) and _unit(data, -1)


def standardise(z: Tensor, dim: int, rms: float) -> Tensor:
    """Each row less its mean, over what its entries deviate from it."""
    z = z - z.mean(dim, keepdim=True)
    return rms * z / z.square().mean(dim, keepdim=True).sqrt().clamp_min(torch.finfo(z.dtype).tiny)


def to_largest(z: Tensor, dim: int) -> Tensor:
    """Each row over its entry farthest from 0."""
    return z / z.abs().amax(dim, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


def between_ends(z: Tensor, dim: int) -> Tensor:
    """Each row from 0, its least entry, to 1, its largest."""
    z = z - z.amin(dim, keepdim=True)
    return z / z.amax(dim, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


def shares(z: Tensor, dim: int) -> Tensor:
    """Each row, of numbers from 0 on, over its sum."""
    return z.abs() / z.abs().sum(dim, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)


SIZED = (normalize, standardise, to_largest, between_ends, shares)
"""Functions that give each row a size of its own making, whatever it is given."""


def divided_to_size(name: str, args: Any, made: Tensor) -> tuple[Any, dict[str, Any]] | None:
    """Which of these a quotient of two computed tensors is, as its result shows along the axis of the divisor."""
    parts = [a for a in args[:2] if isinstance(a, Tensor) and a.requires_grad]
    if "div" not in name or len(parts) < 2 or parts[0].ndim < parts[1].ndim or parts[0].numel() <= parts[1].numel():
        return None
    with torch.no_grad(), torch._C.DisableTorchFunction():
        sizes = (*(1,) * (parts[0].ndim - parts[1].ndim), *parts[1].shape)
        axes = [k for k, size in enumerate(sizes) if size == 1 < parts[0].shape[k]]
        if len(axes) != 1 or made.is_nested or made.layout is not torch.strided or not made.numel():
            return None
        found = _size(made.double(), axes[0])
        return found if found is not None and _leaves(parts[0]) == _leaves(parts[1]) else None


def _leaves(tensor: Tensor) -> set[Any]:
    """The ends of a tensor's graph: a learned scale of 1 that is in one part of a quotient alone does not stay so."""
    seen, stack = set[Any](), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [child for child, _ in node.next_functions]
    return {node for node in seen if not node.next_functions}


def _size(made: Tensor, axis: int) -> tuple[Any, dict[str, Any]] | None:
    entries = made.shape[axis]
    if _unit(made, axis):
        return normalize, {"dim": axis}
    if entries < 3:  # of two, a mean and a size leave a sign, and ends leave nothing
        return None
    rms = made.square().mean(axis).sqrt()
    for each in (1.0, math.sqrt(1.0 - 1.0 / entries)):  # by either of the two spreads
        if _are(rms, each) and _are(made.mean(axis), 0.0):
            return standardise, {"dim": axis, "rms": each}
    if _are(made.amax(axis), 1.0) and _are(made.amin(axis), 0.0):
        return between_ends, {"dim": axis}
    if bool((made >= 0.0).all()):
        return (shares, {"dim": axis}) if _are(made.sum(axis), 1.0) else None
    return (to_largest, {"dim": axis}) if _are(made.abs().amax(axis), 1.0) else None


def _are(found: Tensor, wanted: float) -> bool:
    return bool(((found - wanted).abs() < UNIT).all())


def _unit(tensor: Tensor, axis: int) -> bool:
    if tensor.is_nested or tensor.layout is not torch.strided or not tensor.numel():
        return False
    return bool(((torch.linalg.vector_norm(tensor, dim=axis) - 1.0).abs() < UNIT).all())
