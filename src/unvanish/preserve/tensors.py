"""One tensor as it was: its values bit for bit, its place in memory, its shape, its gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class KeptTensor:
    """A copy of a tensor, and what is needed to make the tensor itself that again."""

    __slots__ = ("alias", "copy", "gradient", "leaf", "room", "tensor", "trainable")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.leaf, self.trainable = tensor.is_leaf, tensor.requires_grad
        self.gradient = tensor.grad if self.leaf else None
        # The same memory under a name of its own: it keeps its shape when the tensor is resized, and what is written
        # through it leaves the tensor's version as it was, so that a graph the user holds stays valid.
        self.alias = tensor.data
        self.copy = self.alias.clone()
        self.room = _room(tensor)

    @property
    def changed(self) -> bool:
        """Whether the tensor holds other values now, or lies elsewhere."""
        return not (self.in_place and self.room == _room(self.tensor) and _same_bits(self.alias, self.copy))

    @property
    def in_place(self) -> bool:
        now, before = self.tensor, self.alias
        if now.layout is not before.layout or now.dtype is not before.dtype:
            return False
        if now.layout is not torch.strided or now.is_nested:
            return True
        same = now.shape == before.shape and now.stride() == before.stride()
        return same and now.data_ptr() == before.data_ptr()

    def put_back(self) -> None:
        """Write only what has changed. May be run again after it was cut short."""
        tensor, leaf = self.tensor, self.leaf
        if leaf and not tensor.is_leaf:  # changed in place by something with a gradient
            with suppress(RuntimeError):  # a view is not let go, but has its values back
                tensor.detach_()
            leaf = tensor.is_leaf
        kept = not leaf or (tensor.grad is self.gradient and tensor.requires_grad is self.trainable)
        if kept and leaf is self.leaf and not self.changed:
            return
        with torch.no_grad():
            if leaf and tensor.requires_grad != self.trainable:
                tensor.requires_grad_(self.trainable)
            if self.room is not None and _room(self.alias) != self.room:
                self.alias.untyped_storage().resize_(self.room)
            if not self.in_place:
                tensor.data = self.alias
            if not _same_bits(self.alias, self.copy):
                with torch.inference_mode(self.alias.is_inference()):
                    self.alias.copy_(self.copy)
            if leaf and tensor.grad is not self.gradient:
                tensor.grad = self.gradient
        if leaf is not self.leaf:
            raise RuntimeError("its values are back, but it is a view, and the graph that wrote into it holds it")


def _memcmp() -> Callable[[int, int, int], int] | None:
    """The C library's comparison of memory, which is several times as quick as torch's; None where there is none."""
    try:
        found = ctypes.CDLL(None).memcmp
    except (AttributeError, OSError, TypeError):  # Windows has no such handle
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_int
    return found


_MEMCMP = _memcmp()


def kept_tensors(tensors: Iterable[Tensor]) -> dict[int, KeptTensor]:
    """By id; without those that cannot be copied."""
    kept: dict[int, KeptTensor] = {}
    for tensor in tensors:
        # what is sparse in some formats, or of a subclass, may have no copy: the walk does not write into it
        with suppress(NotImplementedError, RuntimeError, TypeError):
            kept[id(tensor)] = KeptTensor(tensor)
    return kept


def _room(tensor: Tensor) -> int | None:
    """The bytes of its memory; None where it has none of its own."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors
        return None


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """NaN equals itself and -0.0 is not 0.0 here."""
    if one.layout is not torch.strided or one.is_nested or one.is_quantized or one.is_meta:
        return _same_values(one, other)
    if _MEMCMP is not None and one.device.type == other.device.type == "cpu" and type(one) is type(other) is Tensor:
        whole = one.is_contiguous() and other.is_contiguous() and one.shape == other.shape and one.dtype is other.dtype
        if whole and not one.is_conj() and not one.is_neg():
            return not _MEMCMP(one.data_ptr(), other.data_ptr(), one.numel() * one.element_size())
    kind: Any = _WHOLE_NUMBERS.get(one.element_size())
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
        kind = _WHOLE_NUMBERS[one.element_size()]
    try:
        return torch.equal(one.view(kind), other.view(kind))
    except (NotImplementedError, RuntimeError, TypeError):  # a subclass with a memory of its own kind
        return _same_values(one, other)


def _same_values(one: Tensor, other: Tensor) -> bool:
    if one.is_meta:
        return True
    if one.is_nested:
        return all(map(_same_bits, one.unbind(), other.unbind()))
    if one.is_sparse:
        return one._nnz() == other._nnz() and torch.equal(one.to_dense(), other.to_dense())
    if one.layout is not torch.strided:  # compressed rows or columns: torch.equal does not know them
        return one.shape == other.shape and torch.equal(one.to_dense(), other.to_dense())
    return torch.equal(one, other)
