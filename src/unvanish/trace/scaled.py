"""Tensors with a power of two beside them, so that no product of a million factors underflows or overflows.

Every node of an autograd graph is linear in its incoming cotangent: scaling by 2^k passes through it unchanged, and
multiplying by a power of two rounds nothing. A cotangent is (tensor, exponent, log2 of its norm). ``Host`` reads the
norm of each tensor and rescales only when it drifts; ``Device`` keeps exponents and norms on the accelerator and never
waits for it. Numbers are read back once, by ``read``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LOG_ZERO = -math.inf
"""The logarithm of zero: of a gradient or a signal of which nothing arrives."""


class Scaled(NamedTuple):
    """The tensor ``mantissa · 2^exponent``; ``log2`` of its norm is None until somebody needs it, -inf for zero."""

    mantissa: Tensor
    exponent: Any
    log2: Any = None


_norms: Any = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage] - one call for a list of tensors

# How far a node's result may stray before it is computed again at another scale, and by how much: half of what the
# exponent of the type can hold, so that one node's factor has the same room on either side.
_ROOM = {torch.float16: 8, torch.bfloat16: 60, torch.float32: 60, torch.float64: 480}


def room(dtype: torch.dtype) -> int:
    return _ROOM.get(dtype, 60)


def normal_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1), drawn in float32 on the CPU whatever the defaults of the process are, in the tensor's shape and type."""
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu").to(tensor)


def is_finite(tensor: Tensor) -> bool:
    """Whether every entry is a finite number."""
    if tensor.is_nested:
        return math.isfinite(norm_of(tensor))
    plain = tensor.is_floating_point() and tensor.layout is torch.strided
    # A norm that is finite has only such entries, and takes a twentieth of the time of looking at each of them.
    if plain and math.isfinite(torch.linalg.vector_norm(tensor).item()):
        return True
    return bool(torch.isfinite(tensor).all())


def entries_of(tensor: Tensor) -> Tensor:
    """All entries, as a vector, of a tensor that is nested or sparse; any other as it is."""
    if tensor.is_nested:
        return torch.cat([part.reshape(-1) for part in tensor.unbind()])
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def log10_of(value: float) -> float:
    """LOG_ZERO for a zero; nan stays nan."""
    return math.log10(value) if value > 0.0 else math.nan if math.isnan(value) else LOG_ZERO


def norm_of(tensor: Tensor) -> float:
    """Euclidean norm; entries so small or large that their squares leave the type are summed in float64."""
    if tensor.dtype is torch.float32 and not tensor.is_sparse and not tensor.is_nested:  # as a rule, at every edge
        norm = torch.linalg.vector_norm(tensor).item()
        if 1e-15 < norm < 1e15:
            return norm
    return _careful_norm(tensor)


def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """The Euclidean norm of each; those of many small ones are read back together."""
    if len(tensors) < 2 or any(t.dtype is not torch.float32 or t.layout is not torch.strided for t in tensors):
        return [norm_of(t) for t in tensors]
    found = torch.stack(_norms(list(tensors))).tolist()
    return [norm if 1e-15 < norm < 1e15 else norm_of(t) for norm, t in zip(found, tensors, strict=True)]


def _careful_norm(tensor: Tensor) -> float:
    tensor = entries_of(tensor)
    if not tensor.numel():
        return 0.0
    if not (tensor.is_floating_point() or tensor.is_complex()):
        tensor = tensor.double()
    narrow = tensor.dtype in (torch.float16, torch.bfloat16)
    norm = float(torch.linalg.vector_norm(tensor, dtype=torch.float32 if narrow else None))
    if not 1e-15 < norm < 1e15:
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        norm = float(torch.linalg.vector_norm(tensor, dtype=wide))
        if norm == 0.0 or math.isinf(norm):  # float64 entries whose squares leave float64
            top = float(tensor.abs().max())
            if 0.0 < top < math.inf:
                norm = float(torch.linalg.vector_norm(shift(tensor, -math.frexp(top)[1]), dtype=wide))
                norm = math.ldexp(norm, math.frexp(top)[1]) if math.log2(norm) + math.frexp(top)[1] < 1024 else math.inf
    return norm


def shift(tensor: Tensor, k: int) -> Tensor:
    """``tensor · 2^k``, in steps that a float16 can hold."""
    if k == 0:
        return tensor
    if k < -4000:
        return torch.zeros_like(tensor)
    step = 14 if tensor.dtype is torch.float16 else 120
    while abs(k) > step:
        sign = 1 if k > 0 else -1
        tensor, k = tensor * 2.0 ** (sign * step), k - sign * step
    return tensor * 2.0**k


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return b + a if a.is_sparse and not b.is_sparse else a + b  # torch adds a sparse tensor to a dense one only


class Host:
    """Exponents are Python integers; a tensor is rescaled only when its norm has left the comfortable range."""

    @staticmethod
    def settle(tensor: Tensor, exponent: int, last: bool = False) -> Scaled:
        """``last``: nothing more is made of it, so that it may stay as it is wherever its digits are whole."""
        norm = norm_of(tensor)
        # As a rule, at every edge: well inside the comfortable range of 2^±20.
        if tensor.dtype is torch.float32 and 1e-6 * (root := math.sqrt(tensor.numel())) < norm < 1e6 * root:
            return Scaled(tensor, exponent, math.log2(norm) + exponent)
        if norm == 0.0:
            return Scaled(tensor, 0, LOG_ZERO)
        if not math.isfinite(norm):
            return Scaled(tensor, exponent, norm)
        drift = math.frexp(norm / math.sqrt(tensor.numel()))[1] if not tensor.is_sparse else 0
        comfortable = room(tensor.dtype) if last else 2 if tensor.dtype is torch.float16 else 20
        if abs(drift) <= comfortable:
            return Scaled(tensor, exponent, math.log2(norm) + exponent)
        return Scaled(shift(tensor, -drift), exponent + drift, math.log2(norm) + exponent)

    @staticmethod
    def add(a: Scaled, b: Scaled) -> Scaled:
        if a.log2 == LOG_ZERO:
            return b
        if b.log2 == LOG_ZERO:
            return a
        if a.exponent < b.exponent:
            a, b = b, a
        return Scaled(_sum(a.mantissa, shift(b.mantissa, b.exponent - a.exponent)), a.exponent)

    @staticmethod
    def align(parts: Sequence[Scaled]) -> tuple[list[Tensor], int]:
        """The mantissas on one common exponent (the largest)."""
        live = [p.exponent for p in parts if p.log2 != LOG_ZERO]
        top = max(live, default=0)
        return [p.mantissa if p.log2 == LOG_ZERO else shift(p.mantissa, p.exponent - top) for p in parts], top

    @staticmethod
    def read(values: Sequence[Any]) -> list[float]:
        return [float(v) for v in values]


class Device:
    """Exponents and norms are float64 scalars on the accelerator: nothing waits, every tensor is rescaled."""

    @staticmethod
    def settle(tensor: Tensor, exponent: Any, last: bool = False) -> Scaled:
        values = entries_of(tensor)
        wide = torch.complex128 if values.is_complex() else torch.float64
        log2 = torch.linalg.vector_norm(values, dtype=wide).log2()
        if tensor.is_sparse:
            return Scaled(tensor, exponent, log2 + exponent)
        drift = torch.nan_to_num(log2 - 0.5 * math.log2(max(1, tensor.numel())), 0.0, 0.0, 0.0).round()
        exponent = torch.where(log2 == LOG_ZERO, torch.full_like(log2, LOG_ZERO), drift + exponent)
        return Scaled(tensor * torch.exp2(-drift).to(tensor.dtype), exponent, log2 + (exponent - drift).nan_to_num(0.0))

    @staticmethod
    def add(a: Scaled, b: Scaled) -> Scaled:
        (left, right), top = Device.align((a, b))
        return Scaled(_sum(left, right), top)

    @staticmethod
    def align(parts: Sequence[Scaled]) -> tuple[list[Tensor], Any]:
        if len(parts) == 1:
            return [parts[0].mantissa], parts[0].exponent
        exponents = torch.stack([torch.as_tensor(p.exponent, dtype=torch.float64) for p in parts])
        top = exponents.max()
        top = torch.where(top == LOG_ZERO, torch.zeros_like(top), top)
        scales = torch.exp2(exponents - top)
        return [p.mantissa * s.to(p.mantissa.dtype) for p, s in zip(parts, scales, strict=True)], top

    @staticmethod
    def read(values: Sequence[Any]) -> list[float]:
        return torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values]).tolist() if values else []
