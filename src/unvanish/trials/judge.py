"""The last word: the chosen remedy against the network as it is, on data not used to choose and over several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unvanish.trials.lasting import failed_late
from unvanish.trials.ledger import BudgetSpentError
from unvanish.trials.race import Race
from unvanish.trials.score import standard_error
from unvanish.trials.search import CLOSE
from unvanish.trials.train import AS_IS, Candidate, title


@dataclass(frozen=True)
class Judgement:
    """Scores of one candidate and of the network as it is, after ``steps`` steps, a pair for each seed.

    ``needed``: the gain that is asked for, max(0.02, 2 standard errors). Its mean gain decides.
    """

    steps: int
    scores: tuple[float, ...]
    baselines: tuple[float, ...]
    needed: float

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def baseline(self) -> float:
        return sum(self.baselines) / len(self.baselines)

    @property
    def accepted(self) -> bool:
        return self.score - self.baseline > self.needed


def confirm(race: Race, chosen: Candidate) -> Judgement | None:
    """Train the chosen one and the network as it is with every seed, as long as the budget allows, and compare them.

    First every seed to the last rung, or to where the network as it is failed after it, then as far beyond, up to the
    planned number of steps, as the rest of the budget carries both of them. None where not even one seed could be
    compared.
    """
    rung = max(race.plan.rungs[-1], failed_late(race))
    seeds: list[int] = []
    every = range(race.seed, race.seed + race.plan.seeds)
    race.expect((each, seed, rung) for seed in every for each in (AS_IS, chosen))
    further = _affordable(race, chosen, every)  # as far as it goes if none of these trainings ends early
    for seed in every:
        if further > rung:
            pairs = ((each, another) for another in every for each in (AS_IS, chosen))
            race.foresee_further((p for p in pairs if p != (chosen, race.seed)), chosen, further)
        try:
            _both(race, chosen, seed, rung)
        except BudgetSpentError:
            break
        seeds.append(seed)
    if not seeds:
        return None
    steps = _affordable(race, chosen, seeds)
    if steps > rung:
        race.expect(((each, seed, steps) for seed in seeds for each in (AS_IS, chosen)), own=chosen)
        for seed in seeds:
            _both(race, chosen, seed, steps)
    return judge(race, chosen, seeds, max(steps, rung))


def _both(race: Race, chosen: Candidate, seed: int, steps: int) -> None:
    if race.ledger.price(AS_IS, seed, steps) + race.ledger.price(chosen, seed, steps) > race.ledger.left:
        raise BudgetSpentError
    for candidate in (AS_IS, chosen):
        race.reach(candidate, seed, steps, f"judging, seed {seed}: {title(candidate)}")


def _affordable(race: Race, chosen: Candidate, seeds: Sequence[int]) -> int:
    """The most steps, up to the planned number, to which both can be taken with all seeds."""

    def price(steps: int) -> int:
        return sum(race.ledger.price(c, seed, steps) for c in (AS_IS, chosen) for seed in seeds)

    low, high = 0, race.plan.steps
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if price(middle) <= race.ledger.left else (low, middle - 1)
    return low


def judge(race: Race, chosen: Candidate, seeds: list[int], steps: int) -> Judgement | None:
    """The judgement on measures that are there; None where one of them is not.

    What is compared with is the network as it is after as many steps or before any, whichever is better; where it gives
    no finite number at all, the repaired one before any step.
    """
    scores: list[tuple[float, ...]] = []
    baselines: list[tuple[float, ...]] = []
    for seed in seeds:
        mine, as_is = race.judged(chosen, seed, steps), race.judged(AS_IS, seed, steps)
        if not mine or not as_is:
            return None
        scores.append(mine)
        baselines.append(_floor(race, chosen, seed, as_is))
    if any(not math.isfinite(each[0]) for each in (*scores, *baselines)):
        differences = []
    else:
        differences = [tuple(a - b for a, b in zip(x, y, strict=False)) for x, y in zip(scores, baselines, strict=True)]
    needed = max(CLOSE, 2.0 * standard_error(differences)) if differences else CLOSE
    return Judgement(steps, tuple(each[0] for each in scores), tuple(each[0] for each in baselines), needed)


def _floor(race: Race, chosen: Candidate, seed: int, as_is: tuple[float, ...]) -> tuple[float, ...]:
    untrained = race.untrained(AS_IS, seed)
    best = max(as_is, untrained, key=lambda each: each[0])
    return best if math.isfinite(best[0]) else race.untrained(chosen, seed)
