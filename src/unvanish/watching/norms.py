"""Norms and shares of tensors of any type, right where float32 underflows or overflows, and cheap where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

ENTRIES = 32_768
"""At most so many entries of a tensor are looked at where a share is estimated."""

_REAL = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

_USUAL = frozenset((Tensor, torch.nn.Parameter))
_kind = attrgetter("__class__", "dtype", "is_cpu", "layout")
_AT_ONCE = tuple(
    frozenset((each, dtype, True, torch.strided) for each in _USUAL) for dtype in (torch.float32, torch.float64)
)
"""The kinds of tensors of which one call makes all norms; they are asked for in every sampled step."""

BLOCK = 64
"""Neighbouring entries that are drawn together: single ones cost a cache line each."""


def norm(tensor: Tensor) -> float | Tensor:
    """The Euclidean norm. On the CPU a number, elsewhere a tensor of float64, so that nobody has to wait for it."""
    if tensor.requires_grad or not _is_plain(tensor):
        tensor = _plain(tensor)
    if not tensor.is_cpu:
        return torch.linalg.vector_norm(tensor, dtype=_widest(tensor))
    found = torch.linalg.vector_norm(tensor, dtype=_accumulator(tensor)).item()
    if found == 0.0 or not math.isfinite(found):  # underflow or overflow of the squares: rare, and worth 20 times
        found = _wide(tensor)
    return found


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """The Euclidean norms of many tensors in few passes, and in one wait for a device."""
    kinds = {*map(_kind, tensors)}
    if kinds <= _AT_ONCE[0] or kinds <= _AT_ONCE[1]:
        return _at_once(tensors) if tensors else []
    found: list[float] = [0.0] * len(tensors)
    groups: dict[Any, list[int]] = {}
    plain = [each if _is_plain(each) else _plain(each) for each in tensors]
    for at, each in enumerate(plain):
        groups.setdefault(each.dtype if each.is_cpu else (each.dtype, each.device), []).append(at)
    for places in groups.values():
        these = plain if len(groups) == 1 else [plain[at] for at in places]
        for at, value in zip(places, _at_once(these), strict=True):
            found[at] = value
    return found


def _at_once(tensors: Sequence[Tensor]) -> list[float]:
    """The norms of plain tensors of one type on one device."""
    with torch.no_grad():
        if tensors[0].dtype in (torch.float32, torch.float64):
            values = torch._foreach_norm([*tensors])  # pyright: ignore[reportPrivateImportUsage]
        else:
            values = [torch.linalg.vector_norm(each, dtype=_accumulator(each)) for each in tensors]
    found: list[float] = [*map(Tensor.item, values)] if tensors[0].is_cpu else torch.stack(list(values)).tolist()
    if 0.0 in found or not math.isfinite(sum(found)):
        for at, value in enumerate(found):
            if value == 0.0 or not math.isfinite(value):
                found[at] = _wide(tensors[at].detach())
    return found


def _wide(tensor: Tensor) -> float:
    """The norm where the squares left the range of float32, or of float64: then of what is left by its largest."""
    found = torch.linalg.vector_norm(tensor, dtype=_widest(tensor)).item()
    if tensor.dtype is not torch.float64 or (found != 0.0 and math.isfinite(found)) or not tensor.numel():
        return found
    largest = tensor.abs().max()
    if not 0.0 < largest.item() < math.inf:
        return found
    return (largest * torch.linalg.vector_norm(tensor / largest)).item()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _USUAL and tensor.layout is torch.strided and tensor.dtype in _REAL


def spread(tensor: object) -> bool:
    """Whether only a part of a tensor lies in this process."""
    return type(tensor) not in _USUAL and hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """What of a tensor lies in this process (FSDP2 spreads it); asking for the whole would wait for the others."""
    return tensor.to_local() if spread(tensor) else tensor


def _plain(tensor: Tensor) -> Tensor:
    tensor = local(tensor).detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor if tensor.dtype in _REAL else tensor.float()  # torch has no norm of eight bits


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def _widest(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


@lru_cache(maxsize=1024)
def drawn(count: int, wanted: int, device: torch.device) -> Tensor:
    """So many of ``count`` places, drawn by chance, for one size always the same; whoever asks must not change them."""
    return torch.randint(count, (wanted,), generator=torch.Generator().manual_seed(count)).to(device)


@lru_cache(maxsize=64)
def _smallest_normal(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).smallest_normal


def below_normal(tensor: Tensor, size: float) -> float | None:
    """The share of the non-zero entries below the smallest normal number; ``size``: their root mean square.

    Counted only where the size leaves that open: entries a million times smaller than their root mean square are no
    share worth counting.
    """
    limit = _smallest_normal(tensor.dtype)
    if not size < 1e6 * limit:
        return 0.0 if size > 0.0 else None
    entries = _plain(tensor).reshape(-1)
    if entries.numel() > ENTRIES:
        rows = entries.numel() // BLOCK
        entries = entries[: rows * BLOCK].view(rows, BLOCK)[drawn(rows, ENTRIES // BLOCK, entries.device)]
    sizes = entries.abs().double()
    there = int((sizes > 0.0).sum())
    return int(((sizes > 0.0) & (sizes < limit)).sum()) / there if there else None


def is_there(tensor: Tensor) -> bool:
    """Whether it has numbers of floating point to look at: none on the device "meta", or where storage was given back.

    Sparse ones are left out: not every function takes them.
    """
    if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return False
    return bool(hasattr(tensor, "to_local") or tensor.untyped_storage().size())


def has_nan(tensor: Tensor) -> bool:
    """Whether a plain tensor of floating point holds nan; its sum tells most that do not."""
    if not is_there(tensor):
        return False
    plain = local(tensor.detach())
    total = plain.sum()
    return bool(total != total) and bool(plain.isnan().any())
