"""A network without a fault that is raced all the same, because trouble was found to wait for it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unvanish.trials as trials
from unvanish import Problem
from unvanish.records import Finding
from unvanish.trials.ledger import Ledger
from unvanish.trials.search import _cure, late
from unvanish.trials.train import Candidate
from unvanish.trials.trial import Measure


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def learnable(seed: int) -> Problem:
    """Four well separated clouds and a shallow network: every optimizer gets them all right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (320,), generator=generator)
    middles = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]])
    points = middles[labels] + 0.2 * torch.randn(320, 2, generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4))
    return Problem(
        model,
        points[:64],
        labels[:64],
        loss_fn=F.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        train_batches=list(zip(points[:160].split(32), labels[:160].split(32), strict=True)),
        validation=(points[160:], labels[160:]),
        metric=accuracy,
        steps=160,
    )


def found(code: str) -> Finding:
    return Finding(code=code, verdict="lr_too_large", level="note", layers=(), cause="", message="", evidence=())


def test_only_a_signal_that_a_larger_rate_would_lose_puts_a_healthy_network_in_doubt() -> None:
    assert trials.in_doubt([found("UV705"), found("UV704")])
    assert not trials.in_doubt([found("UV705"), found("UV603")])
    assert not trials.in_doubt([])


@pytest.mark.parametrize("seed", range(2))
def test_a_healthy_network_in_doubt_is_raced_and_left_alone_where_nothing_is_better(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = trials.fix(learnable(seed), seed=seed)
    assert quick.verdict == "nothing to repair" and quick.trials == ()
    assert "--anyway" in str(quick)
    monkeypatch.setattr(trials, "in_doubt", lambda findings: True)
    fixes = trials.fix(learnable(seed), seed=seed)
    assert fixes.verdict == "nothing to repair" and fixes.best is None and fixes.model is None
    assert fixes.trials and fixes.spent > quick.spent
    assert "changes were raced, and none is better" in " ".join(str(fixes).split())
    assert "--anyway" not in str(fixes)


def raced(keys: dict[tuple[str, int], float], budget: int = 200) -> Any:
    """A race on a ladder of 10 and 50 steps; ``keys``: what a remedy is worth after so many steps, 0 where unknown."""

    def enter(candidate: Candidate, steps: int) -> Measure:
        measure = Measure(score=keys.get((candidate[0], steps), 0.0), fall=0.0)
        cost = ledger.price(candidate, 0, steps)
        ledger.spent += cost
        ledger.enter((candidate, 0, steps), measure, cost)
        return measure

    ledger, reached = Ledger(budget, 0), list[tuple[Candidate, int]]()

    def reach(candidate: Candidate, _: int, steps: int, doing: str) -> Measure:
        assert "longer try" in doing
        reached.append((candidate, steps))
        return enter(candidate, steps)

    for slug in ("one", "two", "three", "four"):
        enter((slug,), 10)
    plan = SimpleNamespace(rungs=(10, 50))
    return SimpleNamespace(plan=plan, ledger=ledger, seed=0, expect=list, reach=reach, reached=reached, enter=enter)


def test_an_answer_that_was_behind_gets_a_longer_try_with_half_of_what_is_left() -> None:
    race = raced({("two", 50): 0.6, ("one", 50): 0.1})
    # 160 steps are left, and half of them carries two of 40 more
    assert late(race, ["one", "two", "three"]) == [("two",), ("one",)]
    assert race.reached == [(("one",), 50), (("two",), 50)]


def test_an_answer_that_failed_or_was_never_raced_gets_none() -> None:
    race = raced({("one", 10): -math.inf}, budget=1000)
    assert late(race, ["one", "five", "four"]) == [("four",)]
    assert late(race, ["four"]) == []  # it has been there


@pytest.mark.parametrize(("budget", "expected"), [(400, ("batch-first",)), (150, None)])
def test_where_nothing_is_ahead_the_answer_to_a_fault_is_judged_by_what_is_left(budget: int, expected: Any) -> None:
    """It was raced to the last rung and is no better there; the rest carries it and the base twice as far, or not."""
    race = raced({}, budget)
    for slug in ("lr-10", "batch-first"):
        for steps in (10, 50):
            race.enter((slug,), steps)
    assert _cure(race, ["lr-10", "batch-first"]) == expected  # another rate answers a finding, and removes no fault
    assert _cure(race, ["lr-10", "match-shapes"]) is None  # which was never raced


def test_where_no_change_is_better_a_network_that_has_learnt_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data are not to blame then, nor is it said to want a repair."""
    monkeypatch.setattr(trials, "_improving", lambda race: None)  # nothing was seen of it so early
    fixes = trials.fix(learnable(0), budget=300)
    assert fixes.best is None and fixes.verdict == "no remedy found"
    said = " ".join(str(fixes).split())
    assert fixes.learned is not None and fixes.learned > 0.5
    assert "the network as it is has learnt" in said and "can be told from the inputs" not in said
