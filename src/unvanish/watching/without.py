"""What no step moves: steps in which an optimizer has nothing to move, and layers that no optimizer holds."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from typing import Any

from torch import nn

from unvanish.watching.gradients import held
from unvanish.watching.history import HELD, WARM_UP
from unvanish.watching.table import Place, Table


class Without:
    """The sampled steps in which no parameter that an optimizer holds had a gradient."""

    def __init__(self) -> None:
        self.first = self.last = self.count = 0
        self.note = ""
        self.apart = False

    def add(self, step: int, notes: list[str]) -> None:
        """One more of them; its note comes into ``notes``, in the place of the one before."""
        if not self.count:
            self.first = step
        self.last, self.count = step, self.count + 1
        more = f" and in {self.count - 1} of the later samples, the last at step {self.last}" if self.count > 1 else ""
        if self.note in notes:
            notes.remove(self.note)
        self.note = f"at step {self.first}{more}, no parameter in the optimizer had a gradient: nothing was read"
        notes.append(self.note)

    def of_others(self, models: Iterable[nn.Module], optimizers: Iterable[Any]) -> bool:
        """Whether nothing of what the optimizers hold is the models' any more, for the first time."""
        here = {id(p) for model in models for p in model.parameters()}
        was, self.apart = self.apart, bool(here) and here.isdisjoint(id(p) for each in optimizers for p in held(each))
        return self.apart and not was

    def ends(self) -> bool:
        """Something of theirs was moved; whether that is news."""
        was, self.apart = self.apart, False
        return was


class Idle:
    """Layers that an optimizer is about to move and that have no gradient, in several of its samples in a row.

    HELD of them where a layer never had one. One that had is known by its past: some are left out now and then, as in
    a mixture of experts or where blocks are dropped at random, and their gaps have to become far longer than they were.
    Then the steps up to the next sample are looked at, too: tasks in turn have each its own steps.
    """

    def __init__(self) -> None:
        self.gaps: dict[int, int] = {}  # of each layer the one that is open
        self.longest: dict[int, int] = {}  # of those that were used once, the longest so far
        self.told: set[int] = set()
        self.near: set[int] = set()  # told of at the next sample, if they have no gradient in the steps between

    def seen(self, places: Collection[Place], read: Collection[int]) -> str:
        """One more sample, in which those of ``read`` had one; "idle" or "used", where that is news of some."""
        if not self.gaps and len(places) == len(read) and len(self.longest) >= len(read):
            return ""
        back = [at for at in read if at in self.gaps]
        for at in read:
            self.longest[at] = max(self.longest.get(at, 0), self.gaps.pop(at, 0))
        mine = [place.at for place in places if place.at not in read and not place.replaced]
        for at in mine:
            self.gaps[at] = self.gaps.get(at, 0) + 1
        new = {at for at in mine if self.gaps[at] > self._limit(at)} - self.told
        self.near = {at for at in mine if self.gaps[at] == self._limit(at)}
        over = self.told.intersection(back)
        self.told = (self.told | new) - over
        return "idle" if new else "used" if over else ""

    def glance(self, places: Iterable[Place]) -> None:
        """A step that is not sampled; these are what its optimizer moves."""
        for place in places:
            if place.at in self.near and any(p.grad is not None for p in place.parameters):
                self.near.discard(place.at)
                self.longest[place.at] = max(self.longest.get(place.at, 0), self.gaps.pop(place.at, 0))

    def _limit(self, at: int) -> int:
        longest = self.longest.get(at)
        if longest is None:
            return HELD
        return max(2 * WARM_UP, 4 * longest) if longest else WARM_UP

    @property
    def layers(self) -> list[int]:
        """Those that have been idle for so long."""
        return sorted(self.told)


class Out:
    """Layers that a gradient reaches and that no step moves, in how many samples in a row; ``news`` when it is time."""

    def __init__(self) -> None:
        self.layers: list[int] = []
        self.held = 0

    def are(self, layers: list[int]) -> None:
        """In one more sample."""
        self.held = self.held + 1 if layers and layers == self.layers else 1
        self.layers = layers

    @property
    def news(self) -> list[int]:
        """Those that are to be told of now."""
        return self.layers if self.held == HELD else []


def waiting(table: Table, read: Container[int], optimizers: Iterable[Any], stepped: Container[int]) -> list[int]:
    """The layers to which a gradient came, and which only optimizers hold that have made no step so far."""
    idle = [each for each in optimizers if id(each) not in stepped]
    if not idle:
        return []
    mine = {id(p) for each in idle for p in held(each)}
    return [place.at for place in _reached(table, read) if not mine.isdisjoint(id(p) for p in place.parameters)]


def _reached(table: Table, read: Container[int]) -> list[Place]:
    missing = [place for place in list(table) if place.at not in read and place.parameters]
    return [place for place in missing if any(p.grad is not None for p in place.trainable)]


def left_out(table: Table, read: Container[int], optimizers: Iterable[Any]) -> list[int]:
    """The layers to which a gradient came, and which none of these optimizers holds; ``read``: those that moved."""
    reached = _reached(table, read)
    mine = {id(p) for each in optimizers for p in held(each)} if reached else set[int]()
    return [place.at for place in reached if mine.isdisjoint(id(p) for p in place.parameters)]
