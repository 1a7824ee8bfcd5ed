"""Products of unit vectors: cosines, which stay between -1 and 1 whatever the weights become."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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


def divided_by_length(name: str, args: Any, made: Tensor) -> int | None:
    """The axis along which a quotient of two computed tensors has length 1 throughout; None where none has."""
    parts = [a for a in args[:2] if isinstance(a, Tensor) and a.requires_grad]
    if "div" not in name or len(parts) < 2 or parts[0].ndim != parts[1].ndim or parts[0].numel() == parts[1].numel():
        return None
    with torch.no_grad(), torch._C.DisableTorchFunction():
        axes = [k for k, size in enumerate(parts[1].shape) if size == 1 < parts[0].shape[k]]
        return axes[0] if len(axes) == 1 and _unit(made, axes[0]) else None


def _unit(tensor: Tensor, axis: int) -> bool:
    if tensor.is_nested or tensor.layout is not torch.strided or not tensor.numel():
        return False
    return bool(((torch.linalg.vector_norm(tensor, dim=axis) - 1.0).abs() < UNIT).all())
