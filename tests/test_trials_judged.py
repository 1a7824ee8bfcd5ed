"""What a search makes of measures that are given to it: the gain it asks for, what it costs, what ends badly."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from unvanish.records import LossFacts
from unvanish.remedies import Refused
from unvanish.trials.judge import judge
from unvanish.trials.lasting import failed_late, survives
from unvanish.trials.ledger import Ledger
from unvanish.trials.race import Race
from unvanish.trials.search import CLOSE, LOWER_RATE, guarded
from unvanish.trials.train import AS_IS, Copy
from unvanish.trials.trial import Measure

BETTER = ("better",)
Scores = dict[tuple[tuple[str, ...], int], tuple[float, ...]]


def judged_by(at_end: Scores, before: Scores) -> Any:
    """A race that holds these scores on the data that judges, after 100 steps and before any."""
    return SimpleNamespace(
        judged=lambda candidate, seed, steps: at_end.get((candidate, seed), ()) if steps == 100 else (),
        untrained=lambda candidate, seed: before[candidate, seed],
    )


def test_the_gain_that_is_asked_for_is_two_standard_errors_and_two_hundredths_at_least() -> None:
    """Gains of 0.1 and 0.3: a mean of 0.2 with a standard error of √(0.02 / 2) = 0.1, so that 0.2 is asked for."""
    start: Scores = {(each, seed): (0.0,) for each in (AS_IS, BETTER) for seed in (0, 1)}
    end: Scores = {(AS_IS, 0): (0.5,), (AS_IS, 1): (0.5,), (BETTER, 0): (0.6,), (BETTER, 1): (0.8,)}
    found = judge(judged_by(end, start), BETTER, [0, 1], 100)
    assert found is not None and found.needed == pytest.approx(0.2)
    assert found.score - found.baseline == pytest.approx(0.2) and not found.score - found.baseline > 0.2 + 1e-9
    alike = judge(judged_by({**end, (BETTER, 0): (0.7,), (BETTER, 1): (0.7,)}, start), BETTER, [0, 1], 100)
    assert alike is not None and alike.needed == CLOSE and alike.accepted
    assert judge(judged_by(end, start), BETTER, [0, 1, 2], 100) is None


def test_a_change_is_held_against_the_network_as_it_is_at_its_best() -> None:
    """Training that makes it worse gives nobody a gain; where it never gives a number, the changed one stands in."""
    end: Scores = {(AS_IS, 0): (0.1,), (BETTER, 0): (0.4,)}
    spoiled = judge(judged_by(end, {(AS_IS, 0): (0.5,), (BETTER, 0): (0.0,)}), BETTER, [0], 100)
    assert spoiled is not None and spoiled.baselines == (0.5,) and not spoiled.accepted
    nowhere: Scores = {(AS_IS, 0): (-math.inf,), (BETTER, 0): (0.4,)}
    repaired = judge(judged_by(nowhere, {(AS_IS, 0): (-math.inf,), (BETTER, 0): (0.3,)}), BETTER, [0], 100)
    assert repaired is not None and repaired.baselines == (0.3,) and repaired.accepted


def test_what_a_training_still_costs() -> None:
    ledger = Ledger(1_000, 0)
    ledger.enter((AS_IS, 0, 40), Measure(score=0.1, fall=0.0), 40)
    assert [ledger.price(AS_IS, 0, steps) for steps in (40, 100, 30)] == [0, 60, 30]  # a copy does not go back
    ledger.enter((BETTER, 0, 40), Measure(score=-math.inf, fall=0.0, failure="the loss was nan"), 12)
    assert [ledger.price(BETTER, 0, steps) for steps in (40, 100, 30)] == [0, 0, 30]


def copy_of(losses: list[float]) -> Copy:
    nothing: Any = None
    return Copy(AS_IS, 0, nothing, nothing, (), iter(()), losses=losses)


def test_how_far_a_training_loss_has_fallen() -> None:
    """(L₀ − L) / max(|L₀|, |L|), of means over a quarter of eight losses, that is two of them."""
    assert copy_of([4.0, 2.0, 9.0, 9.0, 9.0, 9.0, 1.0, 2.0]).loss_fall == pytest.approx((3.0 - 1.5) / 3.0)
    assert copy_of([1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 4.0, 4.0]).loss_fall == pytest.approx((1.0 - 4.0) / 4.0)
    assert copy_of([-1.0] * 4 + [1e6] * 4).loss_fall == -1.0
    assert copy_of([1.0] * 4 + [-1.0] * 4).loss_fall == 2.0  # a loss that may be negative has no floor at 0
    assert copy_of([]).loss_fall == copy_of([0.0] * 8).loss_fall == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_only_jumps_about_does_not_fall(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(400, generator=draw)
    assert copy_of((1.0 - 0.01 * torch.arange(400) + noise).tolist()).falling
    # the last quarter is 0.005 lower, of losses whose mean has an error of √(2 · 0.15² / 100) = 0.021
    even = copy_of([*[1.0, 1.3] * 150, *[1.0, 1.29] * 50])
    assert not even.falling and not copy_of([3.0, 2.0, 1.0]).falling


def lasting_race(*measures: tuple[int, Measure]) -> Any:
    """A race to a last rung of 40 steps, of a loss between 2 for the best constant answer and 1 for a floor of 1."""
    ledger = Ledger(1_000, 0)
    for steps, each in measures:
        ledger.enter((AS_IS, 0, steps), each, steps)
    facts = LossFacts(value=2.5, best_constant=2.0, reference=1.0)
    return SimpleNamespace(
        ledger=ledger, seed=0, plan=SimpleNamespace(rungs=(10, 40), steps=160), report=SimpleNamespace(loss=facts)
    )


def ends_at(loss: float | None, failure: str = "") -> Measure:
    return Measure(score=0.5, fall=0.2, loss=loss, failure=failure)


@pytest.mark.parametrize(
    ("began", "ended", "late"),
    [
        (1.5, 1.9, 0),  # 0.1 below the constant answer, of which 0.03 is asked for
        (1.5, 1.98, 160),  # as good as back at it
        (1.5, 2.4, 160),
        (1.98, 2.4, 0),  # it never stood: a race sees that
    ],
)
def test_a_training_ends_badly_where_it_has_gone_back_to_the_constant_answer(
    began: float, ended: float, late: int
) -> None:
    race = lasting_race((40, ends_at(began)), (160, ends_at(ended)))
    assert failed_late(race) == late
    if not late:
        assert survives(race, BETTER)  # there is nothing that it would have to survive


def test_a_candidate_survives_where_it_does_not_fall_back() -> None:
    race = lasting_race((40, ends_at(1.5)), (160, ends_at(None, "the loss was nan at step 150")))
    assert failed_late(race) == 160
    race.ledger.enter((BETTER, 0, 40), Measure(score=0.8, fall=0.2), 40)
    for score, survived in ((0.75, True), (0.65, False)):  # a tenth may be chance
        race.reach = lambda *_, score=score: Measure(score=score, fall=0.2)
        assert survives(race, BETTER) == survived
    race.reach = lambda *_: Measure(score=0.9, fall=0.2, failure="step 60 raised an error")
    assert not survives(race, BETTER)
    race.ledger.spent = 1_000
    assert not survives(race, BETTER)  # nothing is left to see whether it does


def guard_race(scores: dict[tuple[tuple[str, ...], int], float]) -> Any:
    """A race whose candidates have these keys by seed; what is missing refuses to be made."""
    reached: list[tuple[tuple[str, ...], int]] = []

    def reach(candidate: tuple[str, ...], seed: int, steps: int, doing: str) -> Measure:
        reached.append((candidate, seed))
        if (candidate, seed) not in scores:
            raise Refused("it does not apply")
        return Measure(score=scores[candidate, seed], fall=0.0)

    return SimpleNamespace(
        ledger=SimpleNamespace(key=lambda candidate: scores[candidate, 0], measures={}, reached={}),
        seed=0, plan=SimpleNamespace(rungs=(10, 40), seeds=3), reach=reach, reached=reached,
        expect=lambda *_: None, foresee=lambda *_, **__: None,
    )  # fmt: skip


def test_the_worse_of_two_seeds_decides() -> None:
    lower, rival = (*BETTER, LOWER_RATE), ("rival",)
    scores = {(BETTER, 0): 0.9, (BETTER, 1): 0.2, (rival, 0): 0.6, (rival, 1): 0.5}
    assert guarded(guard_race(scores), BETTER, rival) == rival  # 0.5 against 0.2
    assert guarded(guard_race({**scores, (rival, 1): 0.1}), BETTER, rival) == BETTER  # 0.1: luck of its own
    assert guarded(guard_race({**scores, (BETTER, 1): 0.9}), BETTER, rival) == BETTER
    assert guarded(guard_race({**scores, (lower, 0): 0.8, (lower, 1): 0.7}), BETTER, rival) == lower
    close = {**scores, (BETTER, 1): 0.9, (lower, 0): 0.95, (lower, 1): 0.91}
    assert guarded(guard_race(close), BETTER, rival) == BETTER  # better by less than two hundredths
    assert (rival, 0) not in (race := guard_race(close)).reached and guarded(race, BETTER, None) == BETTER


def race_with(copies: Any) -> Race:
    nothing: Any = None
    return Race(nothing, copies, Ledger(100, 0), nothing, lambda _: None)


def test_steps_that_an_interrupt_cuts_short_are_paid() -> None:
    class Copies:
        taken = 7
        trained: dict[Any, Any] = {}  # noqa: RUF012

        def copy(self, candidate: Any, seed: int) -> Any:
            return nn.Identity()

        def train(self, copy: Any, to: int) -> None:
            pass

        def measured(self, candidate: Any, seed: int, steps: int) -> Measure:
            self.taken += 5
            raise KeyboardInterrupt

    race = race_with(Copies())
    with pytest.raises(KeyboardInterrupt):
        race.reach(AS_IS, 0, 20, "")
    assert race.ledger.spent == 5 and not race.ledger.measures


def test_a_copy_that_was_let_go_is_to_be_trained_from_its_start() -> None:
    copies = SimpleNamespace(fits_in_memory=False, trained={(BETTER, 0): 1, (("kept",), 0): 2, (BETTER, 1): 3})
    race = race_with(copies)
    for candidate, seed in copies.trained:
        race.ledger.enter((candidate, seed, 40), Measure(score=0.0, fall=0.0), 40)
    race.forget([("kept",)])
    assert set(copies.trained) == {(("kept",), 0), (BETTER, 1)}  # the second seed is judged, and stays
    assert race.ledger.price(BETTER, 0, 100) == 100 and race.ledger.price(("kept",), 0, 100) == 60
