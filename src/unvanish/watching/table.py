"""Which layers a watch has a column for, and what each number in it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from unvanish.flow.layers import owners
from unvanish.trace.places import module_path
from unvanish.watching.norms import spread

_requires_grad = attrgetter("requires_grad")

MOST = 64
"""Sets of parameters whose layers are kept: those of each optimizer, and older ones after layers were thawed."""


@dataclass(frozen=True)
class Place:
    """One layer: a module that owns parameters, or a parameter that stands alone (``module`` is None then).

    Its module is the user's to keep. Of a model that is gone the places are empty, without module and parameters.
    """

    at: int
    name: str
    kind: str
    module: weakref.ref[nn.Module] | None
    parameters: tuple[nn.Parameter, ...]
    size: int  # how many numbers its parameters were when it was found

    @cached_property
    def sharded(self) -> bool:
        """Whether a part of it lies in another process (FSDP2)."""
        return any(spread(each) for each in self.parameters)

    def is_of(self, module: nn.Module | None, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether this is the place of this module, with these very parameters."""
        mine = None if self.module is None else self.module()
        return mine is module and [id(each) for each in self.parameters] == [id(each) for each in parameters]

    @property
    def count(self) -> int:
        """How many numbers its parameters are now; lazy ones have none yet."""
        return sum(each.numel() for each in self.parameters if not is_lazy(each))

    @property
    def replaced(self) -> bool:
        """Whether its module has none of these parameters any more."""
        mine = None if self.module is None else self.module()
        return mine is not None and {*map(id, mine.parameters())}.isdisjoint(map(id, self.parameters))

    @property
    def trainable(self) -> tuple[nn.Parameter, ...]:
        return tuple(each for each in self.parameters if each.requires_grad)


class Table:
    """The layers of all watched models, in the order in which they were found; it only ever grows.

    A model lives as long as its owner wants, which tells ``emptied`` the places that it leaves. Where the same model is
    made anew, it comes into them.
    """

    def __init__(self, emptied: Callable[[list[int]], None] = lambda places: None) -> None:
        self.places: list[Place] = []
        self.models: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()
        self.emptied = emptied
        self.empty: set[int] = set()
        self.changes = 0  # how often a place was taken
        self.renewed: set[int] = set()  # places whose module or parameters were replaced by others, until it is taken
        self._known: dict[str, int] = {}
        self._found: dict[tuple[Any, ...], list[Place]] = {}

    def add(self, name: str, model: nn.Module) -> None:
        """Watch one more model; ``name`` is put before the names of its layers, "" before none."""
        self.models[name] = model
        self.look_again()
        mine = [self._known[full] for full, *_ in _layers(name, model)]
        weakref.finalize(model, self._leave, mine, self._known).atexit = False

    def _leave(self, mine: list[int], known: dict[str, int]) -> None:
        """A model is gone; its places are changed one by one, as this may come in the middle of anything."""
        if known is not self._known:  # it had another name
            return
        for at in mine:
            gone = self.places[at]
            self.places[at] = Place(at, gone.name, gone.kind, None, (), gone.size)
        self.empty.update(mine)
        self._found = {}
        self.emptied(mine)

    def fits(self, name: str, model: nn.Module) -> bool:
        """Whether a model can have this name: nobody had it, or one that is gone, of the same layers."""
        if name in self.models:
            return False
        for full, kind, _, owned in _layers(name, model):
            at = self._known.get(full)
            if at is not None and (
                at not in self.empty or (self.places[at].kind, self.places[at].size) != (kind, _size(owned))
            ):
                return False
        return True

    def rename(self, name: str) -> None:
        """Give the one model a name, because it does not stay alone."""
        (model,) = self.models.values()
        self.models.clear()
        self.places, self._known, self._found = [], {}, {}
        self.add(name, model)

    def look_again(self) -> bool:
        """Find the layers that have come since, or have others in their place; whether there are any."""
        found = False
        for prefix, model in list(self.models.items()):
            for full, kind, module, owned in _layers(prefix, model):
                at = self._known.get(full, len(self.places))
                if at < len(self.places) and at not in self.empty:
                    if self.places[at].is_of(module, owned.values()):
                        continue
                    self.renewed.add(at)
                    self._found = {}
                found = True
                home = None if module is None else weakref.ref(module)
                place = Place(at, full, kind, home, tuple(owned.values()), _size(owned))
                self.places[at : at + 1] = [place]
                self.changes += 1
                self._known[full] = at
                self.empty.discard(at)
        return found

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether every one of these parameters is in the table."""
        known = {id(each) for place in self.places for each in place.parameters}
        return known.issuperset(map(id, parameters))

    def of(self, parameters: Sequence[nn.Parameter]) -> list[Place]:
        """The layers with a trainable parameter among these; looked up again only where something is another."""
        key = len(self), *map(id, parameters), *map(_requires_grad, parameters)
        if key not in self._found:
            wanted = {id(each) for each in parameters}
            if len(self._found) > MOST:
                self._found.clear()
            self._found[key] = [place for place in self.places if any(id(each) in wanted for each in place.trainable)]
        return self._found[key]

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def smallest(places: Iterable[Place]) -> nn.Parameter | None:
    """The smaller of the first two parameters."""
    candidates = [p for place in list(places) for p in place.trainable if not is_lazy(p)]
    return min(candidates[:2], key=lambda p: p.numel(), default=None)


def _layers(prefix: str, model: nn.Module) -> Iterator[tuple[str, str, nn.Module | None, dict[str, nn.Parameter]]]:
    """Of each layer its full name, its kind, its module (None for a parameter alone) and its parameters."""
    modules = {module_path(path): module for path, module in model.named_modules()}
    for name, kind, owned in owners(model):
        full = f"{prefix}.{name}" if prefix and name else prefix or name
        yield full, kind, None if kind == "Parameter" else modules.get(name, model), owned


def _size(owned: Mapping[str, nn.Parameter]) -> int:
    return sum(each.numel() for each in owned.values() if not is_lazy(each))
