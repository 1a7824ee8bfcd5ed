"""How a budget of optimizer steps is laid out over a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

QUARTER = 4
FEWEST = 16
"""Candidates of a heat, unless the budget is too small even for short rungs."""


@dataclass(frozen=True)
class Plan:
    """The planned length T of a training and the budget of the search, in steps, and how many seeds judge."""

    steps: int
    budget: int
    seeds: int

    @property
    def probe(self) -> int:
        """For how long the network is trained as it is before anything is decided: T/16 steps, ten at least."""
        return max(10, self.steps // 16)

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """max(10, T/64), T/16 and T/4 steps; the last one shorter where too few candidates could be raced so far."""
        last = next((s for s in (4, 8) if self._start(self._rungs(s)) >= FEWEST), 16)
        return self._rungs(last)

    @property
    def least(self) -> int:
        """The least budget that makes sense: the network as it is and two remedies on the shortest ladder."""
        return 3 * self._rungs(16)[-1]

    @property
    def reserve(self) -> int:
        """What is kept back for the steps after the race, 60% of the budget at most, or what two remedies leave."""
        return self._reserve(self.rungs)

    @property
    def start(self) -> int:
        """How many candidates the first heat begins with."""
        return self._start(self.rungs)

    def heat(self, steps: int) -> int:
        """The most candidates that can be raced with so many steps."""
        return _most(self.rungs, steps)

    def _rungs(self, last: int) -> tuple[int, ...]:
        return tuple(sorted({max(10, self.steps // share) for share in (64, 16, last)}))

    def _reserve(self, rungs: tuple[int, ...]) -> int:
        two = max(rungs[-1], self.probe) + rungs[-1] + rungs[0]  # the network as it is, and a race of two remedies
        return min((2 * self.seeds + 2) * rungs[-1], 6 * self.budget // 10, max(0, self.budget - two))

    def _start(self, rungs: tuple[int, ...]) -> int:
        return _most(rungs, self.budget - self._reserve(rungs) - max(rungs[-1], self.probe))


def _most(rungs: Sequence[int], steps: int) -> int:
    """The most candidates whose race over these rungs, a quarter of them kept each time, takes at most ``steps``."""

    def cost(count: int) -> int:
        total, before = 0, 0
        for rung in rungs:
            total += count * (rung - before)
            count, before = -(-count // QUARTER), rung
        return total

    low, high = 0, max(0, steps) // rungs[0]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= steps else (low, middle - 1)
    return low
