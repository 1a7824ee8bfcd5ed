"""What the user's own autograd.Functions are given, so that each can be called alone once more."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unvanish.preserve.signals import finish
from unvanish.trace.calls import Capture, is_custom
from unvanish.trace.places import place
from unvanish.trace.structure import arguments

Function = type[torch.autograd.Function]
MOST = 8  # calls of one Function that are kept
ALIKE = 2  # of those with arguments of the same shapes and the same words: further ones are one code on other numbers
MANY = 4  # Functions beyond which one of those is kept, so that a check costs a few steps of the training
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


@dataclass(frozen=True)
class Given:
    """One call: where it was made, and its arguments; None where it cannot be made again from them, or is left out."""

    source: str
    args: tuple[Any, ...] | None


@contextmanager
def recorded(functions: Sequence[Function]) -> Iterator[dict[Function, list[Given]]]:
    """Inside, each call of these.

    ``apply`` may be bound to a name long before, and looks ``forward`` up at every call: so it is there that one can
    listen. A Function that is called by another one's forward makes no node and is not listed.
    """
    seen: dict[Function, list[Given]] = {function: [] for function in functions}
    alike = ALIKE if len(functions) <= MANY else 1
    forms: dict[Function, Counter[str]] = {function: Counter() for function in functions}
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
                plain = all(map(_plain, own))
                form = repr(tuple(map(_form, own))) if plain else ""
                forms[function][form] += 1
                fits = plain and forms[function][form] <= alike and sum(each.args is not None for each in calls) < MOST
                if fits:
                    room[function] -= sum(t.numel() for t in arguments(own))
                    fits = room[function] >= 0
                calls.append(Given(place(), tuple(map(_kept, own)) if fits else None))
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


def _form(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.shape, given.dtype, given.requires_grad
    return list(map(_form, given)) if isinstance(given, (tuple, list)) else given


def _kept(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.detach().clone().requires_grad_(given.requires_grad)
    return type(given)(map(_kept, given)) if type(given) in (tuple, list) else given
