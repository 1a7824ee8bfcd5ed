"""What stands between a training and all that is ours: no error of it gets out, and it rests where it should."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._C import (  # pyright: ignore[reportAttributeAccessIssue]
    _get_dispatch_mode,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _TorchDispatchModeKey,
)
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingImports]
from torch.compiler import is_compiling

from unvanish.preserve import checking
from unvanish.records import UnvanishError

LOG = logging.getLogger("unvanish")

_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


SYMBOLIC = (_TorchDispatchModeKey.PROXY, _TorchDispatchModeKey.FAKE)
"""Modes in which a call is written down, or made without numbers (make_fx, FakeTensorMode)."""


def traced() -> bool:
    """Whether what runs is being compiled, exported or traced: a call of ours would become a part of the graph."""
    if is_compiling() or _get_tracing_state() is not None:
        return True
    return _len_torch_dispatch_stack() > 0 and any(_get_dispatch_mode(each) is not None for each in SYMBOLIC)


def transformed() -> bool:
    """Whether it runs inside a transform of torch.func: its tensors are wrapped, and die with the transform."""
    return peek_interpreter_stack() is not None


class Guard:
    """``off``: nothing of ours runs, because the watching is over, or ours is at work, or this is a forked child.

    One word for all of it, as each step of the training asks several times.
    """

    def __init__(self, failing: Callable[[], None]) -> None:
        """``failing()`` is called once, at the first error."""
        self.failing = failing
        self.failed, self.closed, self.forked, self.off = "", False, False, False
        _guards.add(self)

    def around(self, hook: Callable[..., Any]) -> Callable[..., None]:
        """A hook that never raises, and does nothing in a compiled graph (asked first) or while a model is checked."""

        def safe(*args: Any, **kwargs: Any) -> None:
            if is_compiling() or self.off or checking():
                return
            enabled = torch.is_grad_enabled()
            try:
                hook(*args, **kwargs)
            except Exception as error:
                self.fail(error)
            except BaseException:  # Ctrl-C at the very edge of a no_grad of ours, which is then never left
                torch.set_grad_enabled(enabled)
                raise

        return safe

    def fail(self, error: BaseException) -> None:
        """No more of the watching, because of an error of ours; it is said once."""
        if not self.failed:
            kind = "" if isinstance(error, UnvanishError) else f"{type(error).__name__}: "
            self.failed, self.off = f"{kind}{error}", True
            self.failing()
            LOG.debug("where", exc_info=error)

    def close(self) -> None:
        self.closed = self.off = True

    def busy(self, now: bool) -> None:
        """Ours is at work on the model, and no hook of ours is to look at that."""
        self.off = now or self.closed or self.forked or bool(self.failed)


def _in_a_forked_child() -> None:
    for each in list(_guards):
        each.forked = each.off = True


if hasattr(os, "register_at_fork"):  # to be told costs nothing; to ask at each hook whose process this is does
    os.register_at_fork(after_in_child=_in_a_forked_child)
