"""Which axes of its tensors a program goes along step by step: the sign that they hold sequences.

A loop takes one entry after the other; a convolution over one dimension, a cumulative sum and a Fourier transform go
along an axis in a single call. Attention reaches every step at once, so that nothing is lost on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

LEAST = 8
"""Steps: along fewer nothing is lost that depth alone would not show."""


class Axis(NamedTuple):
    """An axis of a tensor of this shape that is gone along, and the call that does it."""

    shape: tuple[int, ...]
    axis: int
    call: str

    @property
    def steps(self) -> int:
        return self.shape[self.axis]


class Walks:
    """The axes that the calls of one forward pass go along."""

    def __init__(self) -> None:
        self.taken: dict[Axis, set[int]] = {}
        self.beside: list[Axis] = []  # what convolutions are given before it is padded, or mixed at each step alone
        self.written: set[tuple[int, ...]] = set()  # shapes of tensors that are filled entry by entry
        self.attends = False

    def note(self, name: str, args: Any, kwargs: Any) -> None:
        """Look at one call before it is made."""
        read = _READERS.get(name)
        if read is None or not args or not isinstance(args[0], Tensor):
            return
        if read is _attention:
            self.attends |= _attention(name, args, kwargs)
            return
        if name == "__setitem__":
            self.written.add(tuple(args[0].shape))
            return
        if name == "pad" or (name == "conv1d" and _convolution(args, kwargs) is None):
            self.beside.append(Axis(tuple(args[0].shape), args[0].ndim - 1, "conv1d"))
            return
        try:
            found = read(args, kwargs)
        except (IndexError, TypeError, ValueError, RuntimeError):  # the call itself will say what is wrong with it
            return
        if found is not None and not args[0].is_nested:  # its parts have lengths of their own
            axis, entry = found
            shape = tuple(args[0].shape)
            if shape and -len(shape) <= axis < len(shape):
                axis %= len(shape)
                known = self.taken.setdefault(Axis(shape, axis, name), set())
                known.update(range(shape[axis]) if entry is None else [entry % max(1, shape[axis])])

    def axes(self) -> list[Axis]:
        """The axes of at least LEAST steps, most of them taken, in the order in which they were begun."""
        found = [
            each
            for each, entries in self.taken.items()
            if len(entries) >= max(LEAST, each.steps // 2) and each.shape not in self.written
        ]
        convolves = any(each.call == "conv1d" for each in found)
        return [each for each in self.beside if each.steps >= LEAST] * convolves + found


Found = tuple[int, int | None]
"""An axis, and the entry of it that is taken; None for all of them."""


def _every(axis: int) -> Found:
    return axis, None


def _item(args: Any, kwargs: Any) -> Found | None:
    """``x[:, t]``, ``x[t]`` or ``x[:, t : t + 1]``."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    if any(isinstance(each, (Tensor, list)) for each in index):
        return None
    whole = [each for each in index if each is not None and each is not Ellipsis]
    chosen = [(place, entry) for place, each in enumerate(whole) if (entry := _single(each)) is not None]
    if len(chosen) != 1:
        return None
    place, entry = chosen[0]
    behind = Ellipsis in index and index.index(Ellipsis) < index.index(whole[place])
    return place - len(whole) if behind else place, entry


def _single(index: Any) -> int | None:
    if isinstance(index, bool):
        return None
    if isinstance(index, int):
        return index
    if isinstance(index, slice) and isinstance(index.start, int) and index.stop == index.start + 1:
        return index.start
    return None


def _select(args: Any, kwargs: Any) -> Found:
    axis, index = (*args[1:], *kwargs.values())[:2]
    return axis, index


def _unbind(args: Any, kwargs: Any) -> Found:
    return _every(args[1] if len(args) > 1 else kwargs.get("dim", 0))


def _split(args: Any, kwargs: Any) -> Found | None:
    size = args[1] if len(args) > 1 else next(iter(kwargs.values()))
    axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    return _every(axis) if size == 1 else None


def _chunk(args: Any, kwargs: Any) -> Found | None:
    count = args[1] if len(args) > 1 else kwargs["chunks"]
    axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    return _every(axis) if count == args[0].shape[axis] else None


def _cumulative(args: Any, kwargs: Any) -> Found:
    return _every(args[1] if len(args) > 1 else kwargs["dim"])


def _fourier(args: Any, kwargs: Any) -> Found:
    return _every(args[2] if len(args) > 2 else kwargs.get("dim", -1))


def _convolution(args: Any, kwargs: Any) -> Found | None:
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    return _every(-1) if weight.shape[-1] > 1 else None


def _written(args: Any, kwargs: Any) -> None:
    return None


def _attention(name: str, args: Any, kwargs: Any) -> bool:
    shape = tuple(args[0].shape)
    return "softmax" not in name or (len(shape) > 2 and shape[-1] == shape[-2] >= LEAST)


_READERS: dict[str, Any] = {
    "__getitem__": _item, "select": _select, "unbind": _unbind, "__iter__": _unbind, "split": _split, "chunk": _chunk,
    "cumsum": _cumulative, "cumprod": _cumulative, "logcumsumexp": _cumulative, "cummax": _cumulative,
    "fft_fft": _fourier, "fft_rfft": _fourier, "conv1d": _convolution, "pad": _written, "__setitem__": _written,
    "scaled_dot_product_attention": _attention, "multi_head_attention_forward": _attention, "softmax": _attention,
    "_softmax": _attention,
}  # fmt: skip
