"""What a program holds in Python: attributes, containers, generators, and tensors in them, however nested."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from operator import eq, is_
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.preserve.tensors import KeptTensor

MOST = 20_000  # objects looked into: what holds more is a data set, which a forward pass does not change
MOST_BYTES = 2**28  # of tensors outside of the modules and the batch: caches and states of the user's own
_OPEN = ("collections", "types")  # of the standard library; its other objects (queues, loggers) live lives of their own
_ATOMS = (str, bytes, int, float, complex, type, ModuleType, FunctionType, torch.dtype, torch.device, range, slice)
BARE = (dict, OrderedDict, defaultdict, list, deque, set)  # they hold nothing beside their items
PutBack = Callable[[], None]


class Belongings:
    """Everything reachable from some roots, as it is now."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.tensors: dict[int, KeptTensor] = {}
        self.watched: list[tuple[str, Tensor, int]] = []  # too large to copy: what, and its version
        self.lost: list[str] = []
        self.spaces: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.mappings: list[tuple[dict[Any, Any], list[tuple[Any, Any]]]] = []
        self.empty: list[dict[Any, Any]] = []  # mappings that held nothing: most tables of hooks do
        self.sequences: list[tuple[Any, list[Any]]] = []
        self.others: list[PutBack] = []
        self.comparable: list[Callable[[], bool]] = []
        self.opaque = False  # whether something among the others has a state that cannot be compared
        self.seen: dict[int, Any] = {}  # the objects themselves: their ids must stay theirs
        self.room, self.count = MOST_BYTES, 0
        waiting: list[tuple[Any, bool, str]] = [(root, True, "the batch") for root in roots]
        while waiting:
            value, belongs, where = waiting.pop()
            if value is None or isinstance(value, _ATOMS) or id(value) in self.seen:
                continue
            self.seen[id(value)] = value
            if isinstance(value, Tensor):
                self.tensor(value, belongs, where)
            elif isinstance(value, nn.Module):
                waiting.extend(self.module(value))
            elif self.count < MOST:
                self.count += 1
                waiting.extend((each, belongs and where == "the batch", where) for each in self.parts(value))

    def put_back(self) -> None:
        """May be run again after it was cut short. What cannot be put back is named in ``lost``."""
        self.put_objects_back()
        for kept in self.tensors.values():
            try:
                kept.put_back()
            except Exception as error:  # a tensor of another library: the others are still put back
                self.lose(f"a tensor of shape {tuple(kept.copy.shape)} ({type(error).__name__}: {error})")
        for where, tensor, version in self.watched:
            if tensor._version != version:
                self.lose(f"a tensor of shape {tuple(tensor.shape)} in {where}, which is too large to keep a copy of")

    def put_objects_back(self) -> None:
        for namespace, before in self.spaces:
            if _same_names(namespace, before):
                continue
            for name in namespace.keys() - before.keys():
                del namespace[name]
            for name, value in before.items():
                if namespace.get(name, self) is not value:
                    namespace[name] = value
        for value in self.empty:
            if value:
                _kind(value).clear(value)
        for value, items in self.mappings:
            if len(value) != len(items) or (items and not _same_items(value, items)):
                write = _kind(value)
                write.clear(value)
                for key, each in items:
                    write.__setitem__(value, key, each)
        for value, members in self.sequences:
            if len(value) != len(members) or not all(map(is_, value, members)):
                value.clear()
                (value.update if isinstance(value, set) else value.extend)(members)
        for back in self.others:
            back()

    def unchanged(self, but: Collection[int]) -> bool:
        """Whether everything still is as it was, but for tensors with these ids; not where that cannot be told."""
        return (
            not (self.opaque or self.lost or any(self.empty))
            and all(_same_names(now, before) for now, before in self.spaces)
            and all(len(now) == len(items) and _same_items(now, items) for now, items in self.mappings)
            and all(len(now) == len(each) and all(map(is_, now, each)) for now, each in self.sequences)
            and all(same() for same in self.comparable)
            and all(tensor._version == version for _, tensor, version in self.watched)
            and not any(kept.changed for key, kept in self.tensors.items() if key not in but)
        )

    def lose(self, what: str) -> None:
        if (note := f"the forward pass changes {what}; it could not be put back") not in self.lost:
            self.lost.append(note)

    def tensor(self, value: Tensor, belongs: bool, where: str) -> None:
        size = 0 if belongs else value.numel() * value.element_size()
        if size > self.room:
            self.watched.append((where, value, value._version))
            return
        self.room -= size
        try:
            self.tensors[id(value)] = KeptTensor(value)
        except Exception as error:  # a subclass that cannot be copied
            self.lost.append(f"a tensor in {where} could not be kept ({type(error).__name__}: {error})")

    def module(self, module: nn.Module) -> list[tuple[Any, bool, str]]:
        where = type(module).__name__
        namespace = vars(module)
        self.spaces.append((namespace, dict(namespace)))
        parts: list[tuple[Any, bool, str]] = []
        for name, value in namespace.items():
            kind = type(value)
            if (kind is dict or kind is OrderedDict) and not value:
                self.empty.append(value)
            elif name in ("_parameters", "_buffers"):
                self.mappings.append((value, list(value.items())))
                self.seen[id(value)] = value
                parts.extend((each, True, where) for each in value.values())
            elif kind is not bool and kind is not int and value is not None:
                parts.append((value, isinstance(value, Tensor), where))
        kind = type(module)
        if kind.__module__.partition(".")[0] != "torch" and id(kind) not in self.seen:
            self.seen[id(kind)] = kind
            parts.extend((each, False, where) for each in self.class_attributes(kind))
        return parts

    def class_attributes(self, kind: type) -> list[Any]:
        """Counters and caches that stand on the class; not its functions and descriptors."""

        def now() -> dict[str, Any]:
            namespace = {k: v for k, v in vars(kind).items() if not (k.startswith("__") and k.endswith("__"))}
            return {k: v for k, v in namespace.items() if not callable(v) and not hasattr(type(v), "__get__")}

        before = now()

        def back() -> None:
            after = now()
            for name in after.keys() - before.keys():
                delattr(kind, name)
            for name, value in before.items():
                if after.get(name, back) is not value:
                    setattr(kind, name, value)

        self.others.append(back)
        self.comparable.append(lambda: _same_names(now(), before))
        return list(before.values())

    def parts(self, value: Any) -> list[Any]:
        """Keep one object as it is, and say what it holds."""
        if isinstance(value, dict):
            self.mappings.append((value, list(_items(value))))
            return [*dict.values(value), *(() if type(value) in BARE else self.attributes(value))]
        if isinstance(value, (list, deque, set)):
            self.sequences.append((value, list(value)))
            return [*value, *(() if type(value) in BARE else self.attributes(value))]
        if isinstance(value, (tuple, frozenset)):
            return [part for part in value]  # noqa: C416 - list() asks for a length, which some tuples refuse
        if isinstance(value, torch.Generator):
            self.state(value.get_state, value.set_state)
        elif isinstance(value, random.Random):
            self.state(value.getstate, value.setstate)
        elif type(value).__module__.partition(".")[0] == "numpy":
            self.of_numpy(value)
        else:
            return self.attributes(value)
        return []

    def attributes(self, value: Any) -> list[Any]:
        kind = type(value)
        home = kind.__module__.partition(".")[0]
        if home in sys.stdlib_module_names and home not in (*_OPEN, "__main__"):
            return []
        try:
            namespace = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return []
        if type(namespace) is not dict:
            return []
        self.spaces.append((namespace, dict(namespace)))
        return list(namespace.values())

    def state(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        before = read()
        self.opaque = True
        self.others.append(lambda: write(before))

    def of_numpy(self, value: Any) -> None:
        if isinstance(value, (numpy := sys.modules["numpy"]).ndarray):
            if value.nbytes <= self.room and value.flags.writeable and not value.dtype.hasobject:
                self.room -= value.nbytes
                self.opaque = True
                before = value.copy()
                self.others.append(lambda: numpy.copyto(value, before))
        elif isinstance(value, numpy.random.Generator):
            bits = value.bit_generator
            self.state(lambda: bits.state, lambda state: setattr(bits, "state", state))
        elif isinstance(value, numpy.random.RandomState):
            self.state(value.get_state, value.set_state)


def _same_names(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the same names stand for the same objects, in the same order: as a rule, and quick to see."""
    return len(now) == len(before) and all(map(is_, now.values(), before.values())) and all(map(eq, now, before))


def _same_items(value: dict[Any, Any], items: list[tuple[Any, Any]]) -> bool:
    return all(a is c and b is d for (a, b), (c, d) in zip(_items(value), items, strict=True))


def _kind(value: dict[Any, Any]) -> Any:
    """Whose own functions read and write it: an OrderedDict keeps an order beside its items."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def _items(value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return _kind(value).items(value)
