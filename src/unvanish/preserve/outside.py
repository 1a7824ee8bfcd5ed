"""What forward passes read and write outside of their modules: names of their file, of functions around, of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from unvanish.preserve.objects import BARE
from unvanish.preserve.signals import finish

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
MOST = 200
"""So many functions that a forward calls by the names of its file are looked into."""


class OuterNames:
    """Inside, names may be bound to other plain values; afterwards they are as before.

    ``containers``: what else these names stand for that a forward may write into; whoever puts objects back has to
    know of them. Found are names in the code of the forwards and of the functions of the same file that they call, in
    the functions around these, and in the classes of the modules. What is torch's own is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.containers: list[Any] = []
        self.kept: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = []
        kinds = dict.fromkeys(map(type, model.modules()))
        for function in _functions(kinds):
            for name in _names(function.__code__):
                if name in function.__globals__:
                    names = function.__globals__
                    self._keep(partial(names.get, name), _binder(names, name))
            for cell in function.__closure__ or ():
                try:
                    self._keep(partial(getattr, cell, "cell_contents"), _filler(cell))
                except ValueError:  # not bound yet
                    continue
        for base in {base for kind in kinds for base in kind.__mro__ if _own(base.__module__)}:
            for name in list(vars(base)):
                if not name.startswith("__"):
                    self._keep(partial(vars(base).get, name), _setter(base, name))

    def _keep(self, read: Callable[[], Any], put: Callable[[Any], None]) -> None:
        value = read()
        if type(value) in BARE:
            self.containers.append(value)
        if isinstance(value, _PLAIN) or type(value) in BARE:
            self.kept.append((read, put, value))

    def unmoved(self) -> bool:
        """Whether the names still stand for what they did."""
        try:
            return all(_same(read(), value) for read, _, value in self.kept)
        except ValueError:  # one is bound to nothing any more
            return False

    def __enter__(self) -> OuterNames:
        return self

    def __exit__(self, *_: object) -> None:
        def work() -> None:
            for _read, put, value in self.kept:
                put(value)

        finish(work)


def _same(now: Any, before: Any) -> bool:
    return now is before or (type(now) is type(before) and isinstance(now, _PLAIN) and now == before)


def _functions(kinds: Iterable[type]) -> Iterator[FunctionType]:
    forwards = [kind.forward for kind in kinds if _own(kind.__module__)]
    waiting = [each for each in forwards if isinstance(each, FunctionType)]
    seen: set[int] = set()
    while waiting and len(seen) < MOST:
        function = waiting.pop()
        if id(function.__code__) in seen:
            continue
        seen.add(id(function.__code__))
        yield function
        here = function.__globals__
        called = [here[name] for name in _names(function.__code__) if name in here]
        waiting += [each for each in called if isinstance(each, FunctionType) and each.__globals__ is here]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _own(module: str) -> bool:
    return module.partition(".")[0] not in ("torch", "builtins", "typing", "abc", "unvanish")


def _binder(names: dict[str, Any], name: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        names[name] = value

    return put


def _filler(cell: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        cell.cell_contents = value

    return put


def _setter(kind: type, name: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)

    return put
