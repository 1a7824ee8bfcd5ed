"""What of a training no hook of torch tells: where a backward starts, what a GradScaler does, that a module is copied.

While at least one listener is there, ``torch.autograd.backward``, through which ``Tensor.backward`` goes, two methods
of the GradScaler, three of ``nn.Module`` (``__reduce_ex__``, ``__setstate__``, ``load_state_dict``) and what
torch.jit.script makes of a module are wrapped; each calls the original with exactly what it was given.
They are put back when the last listener goes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.jit import _recursive

from unvanish.watching.copied import reduced, scripted


class Listener(Protocol):
    """What is told of the training loop, and ``resting`` of models that were made of others."""

    resting: Any

    def backward_starts(self, loss: Tensor) -> None: ...
    def backward_ends(self, whole: bool) -> None: ...
    def loss_is_scaled(self, scaler: Any, outputs: Any) -> None: ...
    def scaler_updates(self, scaler: Any) -> None: ...


_listeners: list[Listener] = []
_originals: list[tuple[Any, str, Any]] = []
_lock = threading.Lock()
_inside = [0]  # a checkpoint calls a backward of its own inside a backward


def listen(listener: Listener) -> None:
    """Tell ``listener`` of every backward from now on."""
    with _lock:
        if not _listeners:
            _wrap(torch.autograd, "backward", _backward)
            _wrap(torch.amp.GradScaler, "scale", _scale)
            _wrap(torch.amp.GradScaler, "update", _update)
            _wrap(torch.nn.Module, "__reduce_ex__", reduced)
            _wrap(torch.nn.Module, "__setstate__", _made)
            _wrap(torch.nn.Module, "load_state_dict", _made)
            _wrap(_recursive, "create_script_module", scripted)
        _listeners.append(listener)


def stop_listening(listener: Listener) -> None:
    """Tell it no more; the last one to go leaves torch as it was."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if not _listeners:
            while _originals:
                owner, name, original = _originals.pop()
                if original is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)


def _wrap(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    _originals.append((owner, name, owner.__dict__.get(name)))  # or it is that of a class above, and stays there
    setattr(owner, name, functools.wraps(original)(made(original)))


def _backward(original: Any) -> Any:
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        told, loss = tuple(_listeners), _loss(tensors)
        if _inside[0] or loss is None:
            return original(tensors, *args, **kwargs)
        for each in told:
            each.backward_starts(loss)
        _inside[0] += 1
        whole = False
        try:
            result = original(tensors, *args, **kwargs)
            whole = True
            return result
        finally:
            _inside[0] -= 1
            for each in told:
                each.backward_ends(whole)

    return backward


def _loss(tensors: Any) -> Tensor | None:
    """What a backward starts from; of several, their sum, which is what its gradient is of."""
    if isinstance(tensors, Tensor):
        return tensors
    several = [each for each in tensors if isinstance(each, Tensor)] if isinstance(tensors, (list, tuple)) else []
    if len(several) < 2:
        return several[0] if several else None
    with torch.no_grad():
        return torch.stack([each.sum() for each in several]).sum()


def _scale(original: Any) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        for each in tuple(_listeners):
            each.loss_is_scaled(self, outputs)
        return scaled

    return scale


def _made(original: Any) -> Any:
    """A module was copied, or has got the weights of another."""

    def made(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        for each in tuple(_listeners):
            each.resting.made(self)
        return result

    return made


def _update(original: Any) -> Any:
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        for each in tuple(_listeners):
            each.scaler_updates(self)
        return original(self, *args, **kwargs)

    return update
