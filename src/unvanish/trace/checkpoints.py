"""Activation checkpointing during a check: each segment is recomputed once, and nobody's ``.grad`` is written.

The reentrant kind runs a backward of its own inside the backward pass (it would write ``.grad`` and hide its calls), so
it is run as the other kind. The non-reentrant kind recomputes a segment for each pass over its saved tensors, and
refuses to hand one out twice; here a tensor is kept from its first use until its node is released.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import checkpoint


@contextmanager
def recompute_once(cutting: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
    """Checkpoints made inside are replayed at most once each; a no-op where torch has changed these details.

    ``cutting``: what a checkpoint runs under that takes its result out of the graph.
    """
    names = ("CheckpointFunction", "_checkpoint_hook")
    kept = {name: getattr(checkpoint, name) for name in names if hasattr(checkpoint, name)}
    mine = threading.get_ident()  # what other threads train meanwhile stays as it is
    try:
        if len(kept) == len(names):
            checkpoint.CheckpointFunction = _as_non_reentrant(kept["CheckpointFunction"], mine, cutting)  # type: ignore[misc]
            checkpoint._checkpoint_hook = _unpacking_once(kept["_checkpoint_hook"], mine)  # type: ignore[misc]
        yield
    finally:
        for name, original in kept.items():
            setattr(checkpoint, name, original)


@contextmanager
def one_backward() -> Iterator[None]:
    """Everything unpacked inside counts as one backward pass to the checkpoints."""
    group = getattr(checkpoint, "GraphExecGroup", None)
    with _one_number() if group is None else group():
        yield


@contextmanager
def _one_number() -> Iterator[None]:
    """Torch before 2.10 draws a number for each tensor unpacked outside a backward pass: here it draws one for all."""
    original = getattr(checkpoint, "uuid", None)
    if original is None:
        yield
        return
    mine, number = threading.get_ident(), original.uuid4()

    def uuid4() -> Any:
        return number if threading.get_ident() == mine else original.uuid4()

    checkpoint.uuid = SimpleNamespace(uuid4=uuid4)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        checkpoint.uuid = original  # type: ignore[attr-defined]


def _as_non_reentrant(original: Any, mine: int, cutting: Callable[[], AbstractContextManager[None]]) -> Any:
    class Replacement:
        @staticmethod
        def apply(function: Any, preserve: bool, *args: Any) -> Any:
            # Without a differentiable input the reentrant kind cuts the graph: its parameters get no gradient.
            if threading.get_ident() != mine:
                return original.apply(function, preserve, *args)
            if not any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
                with torch.no_grad(), cutting():
                    return function(*args)
            return checkpoint.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    return Replacement


def _unpacking_once(original: Any, mine: int) -> Any:
    class Once(original):
        def __init__(self, frame: Any) -> None:
            super().__init__(frame)
            if threading.get_ident() != mine:
                return
            unpack = self.unpack_hook

            def once(holder: Any) -> Any:
                kept = getattr(holder, "kept", None)
                if kept is None:
                    kept = holder.kept = unpack(holder)
                return kept

            self.unpack_hook = once

    return Once
