"""The two things of a training loop that no hook of torch tells: where a backward starts, and what a GradScaler does.

While at least one listener is there, three methods of torch's classes are wrapped; each calls the original with exactly
what it was given. They are put back when the last listener goes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Listener(Protocol):
    """What is told of the training loop."""

    def backward_starts(self, loss: Tensor) -> None: ...
    def backward_ends(self) -> None: ...
    def loss_is_scaled(self, scaler: Any, outputs: Any) -> None: ...
    def scaler_updates(self, scaler: Any) -> None: ...


_listeners: list[Listener] = []
_originals: list[tuple[type, str, Any]] = []
_lock = threading.Lock()


def listen(listener: Listener) -> None:
    """Tell ``listener`` of every backward from now on."""
    with _lock:
        if not _listeners:
            _wrap(Tensor, "backward", _backward)
            _wrap(torch.amp.GradScaler, "scale", _scale)
            _wrap(torch.amp.GradScaler, "update", _update)
        _listeners.append(listener)


def stop_listening(listener: Listener) -> None:
    """Tell it no more; the last one to go leaves torch as it was."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if not _listeners:
            while _originals:
                owner, name, original = _originals.pop()
                setattr(owner, name, original)


def _wrap(owner: type, name: str, made: Callable[[Any], Any]) -> None:
    original = owner.__dict__[name]
    _originals.append((owner, name, original))
    setattr(owner, name, functools.wraps(original)(made(original)))


def _backward(original: Any) -> Any:
    def backward(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        told = tuple(_listeners)
        for each in told:
            each.backward_starts(self)
        try:
            return original(self, *args, **kwargs)
        finally:
            for each in told:
                each.backward_ends()

    return backward


def _scale(original: Any) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        for each in tuple(_listeners):
            each.loss_is_scaled(self, outputs)
        return scaled

    return scale


def _update(original: Any) -> Any:
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        for each in tuple(_listeners):
            each.scaler_updates(self)
        return original(self, *args, **kwargs)

    return update
