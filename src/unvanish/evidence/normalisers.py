"""Layer and batch norms through which J v costs what Jᵀu does: one pass of the kernel of their backward.

Torch differentiates that backward by some thirty operations, most of them for second derivatives by the input and the
weight, which no product with J asks for. With x̂ the normalised input of n entries, S = (I − 11ᵀ/n − x̂x̂ᵀ/n) / σ is
symmetric and Jᵀu = S(γu), so that J v = γ S v; a move of γ or β adds x̂ times it, or it.

Source: Ba, Kiros & Hinton 2016, Layer normalization; Ioffe & Szegedy 2015, Batch normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unvanish.trace.recorder import transformed

Parts = tuple[Any, Any, Any]  # what belongs to the input, the weight and the bias; None where nothing does


@dataclass(frozen=True)
class _Layer:
    """Over the last axes, of this shape."""

    shape: Sequence[int]
    eps: float

    def forward(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_layer_norm(x, list(self.shape), weight, bias, self.eps)

    def back(self, u: Tensor, x: Tensor, weight: Any, bias: Any, of: tuple[Tensor, Tensor]) -> Parts:
        wanted = [True, weight is not None, bias is not None]
        return torch.ops.aten.native_layer_norm_backward(u, x, list(self.shape), *of, weight, bias, wanted)

    def along(self, own: Tensor, x: Tensor) -> Tensor:
        """A weight, a mean or a spread, in a shape that fits the input."""
        return own


@dataclass(frozen=True)
class _Batch:
    """Over all axes but the channels', of a batch in training."""

    running: tuple[Any, Any]
    momentum: float
    eps: float

    def forward(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, *self.running, True, self.momentum, self.eps)

    def back(self, u: Tensor, x: Tensor, weight: Any, bias: Any, of: tuple[Tensor, Tensor]) -> Parts:
        wanted = [True, weight is not None, bias is not None]
        return torch.ops.aten.native_batch_norm_backward(u, x, weight, None, None, *of, True, self.eps, wanted)

    def along(self, own: Tensor, x: Tensor) -> Tensor:
        return own.view(-1, *(1,) * (x.ndim - 2))


class _Normed(torch.autograd.Function):
    """The normalised tensor, as torch's own kernel makes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, kind: Any) -> Tensor:
        made, mean, spread = kind.forward(x, weight, bias)
        ctx.kind = kind
        ctx.save_for_backward(x, weight, bias, mean, spread)
        return made

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:  # type: ignore[override]
        return *_Pulled.apply(u, ctx.kind, *ctx.saved_tensors), None  # type: ignore[misc]


class _Pulled(torch.autograd.Function):
    """Its Jᵀu, as torch's own kernel makes it; differentiated by u alone."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, kind: Any, x: Tensor, weight: Any, bias: Any, mean: Tensor, spread: Tensor) -> Any:
        ctx.kind = kind
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, mean, spread)
        return kind.back(u, x, weight, bias, (mean, spread))

    @staticmethod
    def backward(ctx: Any, v: Any, by_weight: Any, by_bias: Any) -> Any:  # type: ignore[override]
        kind, (x, weight, mean, spread) = ctx.kind, ctx.saved_tensors
        parts: list[Tensor] = []
        if v is not None:
            moved = kind.back(v, x, None, None, (mean, spread))[0]
            parts.append(moved if weight is None else moved * kind.along(weight, x))
        if by_weight is not None:
            unit = (x - kind.along(mean, x)) * kind.along(spread, x)
            parts.append(unit * kind.along(by_weight, x))
        if by_bias is not None:
            parts.append(kind.along(by_bias, x).expand_as(x))
        return (sum(parts[1:], parts[0]) if parts else None), *(None,) * 6


class PushedNorms(TorchFunctionMode):
    """Inside, layer norms and the batch norms of a training are such; their second derivatives are not to be had."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        make = _OURS.get(func)
        if make is not None and not torch.is_autocast_enabled("cpu") and not transformed():
            return make(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    if not _plain(x, weight, bias):
        return F.layer_norm(x, list(shape), weight, bias, eps)
    return _Normed.apply(x, weight, bias, _Layer(tuple(shape), eps))  # type: ignore[return-value]


def _batch_norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or not _plain(input, weight, bias):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _Normed.apply(input, weight, bias, _Batch((running_mean, running_var), momentum, eps))  # type: ignore[return-value]


def _plain(x: Tensor, *own: Any) -> bool:
    """Whether the kernels take these: on the CPU, of one type that is wide, and of no subclass."""
    kept = [x, *(t for t in own if t is not None)]
    wide = x.dtype in (torch.float32, torch.float64) and all(t.dtype is x.dtype for t in kept)
    return wide and all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in kept)


_OURS: dict[Any, Any] = {F.layer_norm: _layer_norm, F.batch_norm: _batch_norm}
