"""What a search has measured, what that took of its budget, and how the candidates rank by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from unvanish.trials.train import Candidate, title
from unvanish.trials.trial import Measure

Key = tuple[Candidate, int, int]
"""Candidate, seed, and the number of steps it has been trained for."""


@dataclass(frozen=True)
class Standing:
    """How far a search is: steps spent of the budget, what was done last, and the ranking so far, best first.

    ``ranking``: (title, score on the data that chooses, steps) of each candidate that still counts.
    """

    spent: int
    budget: int
    doing: str
    unit: str
    ranking: tuple[tuple[str, float, int], ...]


class BudgetSpentError(Exception):
    """The next measure would cost more steps than are left."""


@dataclass
class Ledger:
    """One budget of optimizer steps and every measure paid from it, in the order they were taken.

    ``costs``: the steps taken for a measure, since the same copy was measured before. ``reached``: how far the copy of
    a candidate and seed has come; a longer training goes on from there, a shorter one starts again. ``seed``: the one
    that candidates rank by.
    """

    budget: int
    seed: int
    spent: int = 0
    measures: dict[Key, Measure] = field(default_factory=dict)
    costs: dict[Key, int] = field(default_factory=dict)
    reached: dict[tuple[Candidate, int], int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.budget - self.spent

    def price(self, candidate: Candidate, seed: int, steps: int) -> int:
        """Steps still to be taken to have this candidate measured after so many; all of them where it went further.

        A training that has failed takes no further step.
        """
        reached = self.reached.get((candidate, seed), 0)
        last = self.measures.get((candidate, seed, reached))
        if (candidate, seed, steps) in self.measures or (last is not None and last.failure and reached <= steps):
            return 0
        return steps - reached if reached <= steps else steps

    def enter(self, key: Key, measure: Measure, cost: int) -> None:
        """Write down a measure. Its cost is not added to ``spent``: steps count when they are taken."""
        candidate, seed, steps = key
        self.measures[key], self.costs[key] = measure, cost
        self.reached[candidate, seed] = steps

    def standings(self) -> list[tuple[int, float, Candidate]]:
        """(steps, key, candidate) with the first seed: those that got furthest first, the best of them ahead."""
        last: dict[Candidate, int] = {}
        for candidate, seed, steps in self.measures:
            if seed == self.seed:
                last[candidate] = max(steps, last.get(candidate, 0))
        rows = [(steps, self.measures[c, self.seed, steps].key, c) for c, steps in last.items()]
        return sorted(rows, key=lambda row: row[:2], reverse=True)

    def ranking(self) -> tuple[tuple[str, float, int], ...]:
        """Title, score and steps of every candidate measured, best first."""
        return tuple((title(c), self.measures[c, self.seed, steps].score, steps) for steps, _, c in self.standings())

    def key(self, candidate: Candidate) -> float:
        """The key of its last measure with the first seed."""
        return next((key for _, key, c in self.standings() if c == candidate), -math.inf)
