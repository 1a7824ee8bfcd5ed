"""What the user's own autograd.Functions are given, so that each can be called alone once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unvanish.preserve.signals import finish
from unvanish.trace.calls import Capture, is_custom
from unvanish.trace.structure import arguments

Function = type[torch.autograd.Function]
MOST = 8  # calls of one Function that are kept: further ones are the same code on other numbers
LARGE = 2**24  # numbers in the arguments of one Function that are kept: in float64 an eighth of a gigabyte


def own_functions(capture: Capture) -> dict[Function, list[int]]:
    """The calls of each Function written in Python that made a node of this graph; torch's own are left out."""
    found: dict[Function, set[int]] = {}
    for node, index in capture.owner.items():
        if index >= 0 and is_custom(node):
            function = getattr(type(node), "_forward_cls", None)
            if isinstance(function, type) and not function.__module__.startswith("torch."):
                found.setdefault(function, set()).add(index)
    return {function: sorted(calls) for function, calls in found.items()}


@contextmanager
def recorded(functions: Sequence[Function]) -> Iterator[dict[Function, list[tuple[Any, ...] | None]]]:
    """Inside, the arguments of each call of these; None for one that cannot be made again from them alone, or is large.

    ``apply`` may be bound to a name long before, and looks ``forward`` up at every call: so it is there that one can
    listen. A Function that is called by another one's forward makes no node and is not listed.
    """
    seen: dict[Function, list[tuple[Any, ...] | None]] = {function: [] for function in functions}
    room = dict.fromkeys(functions, LARGE)
    before = {function: function.__dict__.get("forward") for function in functions}
    depth, here = [0], threading.get_ident()

    def listening(function: Function, forward: Callable[..., Any]) -> Callable[..., Any]:
        given = 1 if function.setup_context == torch.autograd.Function.setup_context else 0  # the context comes first

        def listen(*args: Any) -> Any:
            if threading.get_ident() != here:
                return forward(*args)
            if not depth[0]:
                calls, own = seen[function], args[given:]
                room[function] -= sum(t.numel() for t in arguments(own))
                fits = len(calls) < MOST and room[function] >= 0 and all(map(_plain, own))
                calls.append(tuple(map(_kept, own)) if fits else None)
            depth[0] += 1
            try:
                return forward(*args)
            finally:
                depth[0] -= 1

        return listen

    def put_back() -> None:
        for function, own in before.items():
            if own is not None:
                function.forward = own
            elif "forward" in function.__dict__:
                del function.forward

    listeners = {function: listening(function, function.forward) for function in functions}
    try:
        for function, listener in listeners.items():
            function.forward = staticmethod(listener)  # type: ignore[assignment]
        yield seen
    finally:
        finish(put_back)


def _plain(given: Any) -> bool:
    """Whether it is numbers and words throughout: a module or a function has a state, and a backward, of its own."""
    if isinstance(given, Tensor):
        return given.layout is torch.strided and not given.is_nested
    if isinstance(given, (tuple, list)):
        return all(map(_plain, given))
    return given is None or isinstance(given, (bool, int, float, complex, str, torch.dtype, torch.device))


def _kept(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.detach().clone().requires_grad_(given.requires_grad)
    return type(given)(map(_kept, given)) if type(given) in (tuple, list) else given
