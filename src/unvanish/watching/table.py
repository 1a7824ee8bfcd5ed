"""Which layers a watch has a column for, and what each number in it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from unvanish.flow.layers import owners
from unvanish.trace.places import module_path

MOST = 64
"""Sets of parameters whose layers are kept: those of each optimizer, and older ones after layers were thawed."""


@dataclass(frozen=True)
class Place:
    """One layer: a module that owns parameters, or a parameter that stands alone (``module`` is None then)."""

    at: int
    name: str
    kind: str
    module: nn.Module | None
    parameters: tuple[nn.Parameter, ...]

    @property
    def sharded(self) -> bool:
        """Whether a part of it lies in another process (FSDP2)."""
        return any(spread(each) for each in self.parameters)

    @property
    def trainable(self) -> tuple[nn.Parameter, ...]:
        return tuple(each for each in self.parameters if each.requires_grad)


def spread(tensor: object) -> bool:
    """Whether only a part of a tensor lies in this process."""
    return hasattr(tensor, "to_local")


class Table:
    """The layers of all watched models, in the order in which they were found; it only ever grows."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.models: dict[str, nn.Module] = {}
        self._known: set[str] = set()
        self._found: dict[tuple[Any, ...], list[Place]] = {}

    def add(self, name: str, model: nn.Module) -> None:
        """Watch one more model; ``name`` is put before the names of its layers, "" before none."""
        self.models[name] = model
        self.look_again()

    def rename(self, name: str) -> None:
        """Give the one model a name, because it does not stay alone."""
        (model,) = self.models.values()
        self.models, self.places, self._known = {}, [], set()
        self.add(name, model)

    def look_again(self) -> bool:
        """Find the layers that have come since; whether there are any."""
        before = len(self.places)
        for prefix, model in self.models.items():
            modules = {module_path(path): module for path, module in model.named_modules()}
            for name, kind, owned in owners(model):
                full = f"{prefix}.{name}" if prefix and name else prefix or name
                if full not in self._known:
                    self._known.add(full)
                    found = None if kind == "Parameter" else modules.get(name, model)
                    self.places.append(Place(len(self.places), full, kind, found, tuple(owned.values())))
        return len(self.places) > before

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether every one of these parameters is in the table."""
        known = {id(each) for place in self.places for each in place.parameters}
        return all(id(each) in known for each in parameters)

    def of(self, parameters: Sequence[nn.Parameter]) -> list[Place]:
        """The layers with a trainable parameter among these; looked up again only where something is another."""
        key = len(self), *((id(each), each.requires_grad) for each in parameters)
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
