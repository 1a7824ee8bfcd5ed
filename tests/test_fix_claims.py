"""What a search calls a repair, what it calls an improvement, and what its choice may not leave behind."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_fix import accuracy, blobs, network, repaired
from test_trials_parts import race_of, small
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.records import Finding
from unvanish.report.fix_text import advice, evidence, headline
from unvanish.trials import fix, learned
from unvanish.trials.answer import _verdict
from unvanish.trials.learned import Learned, share_won
from unvanish.trials.outlasting import Ends
from unvanish.trials.search import completed, minimised
from unvanish.trials.train import AS_IS
from unvanish.trials.trial import Measure


def problem(model: Any = None, **changes: Any) -> unvanish.Problem:
    """Eight sigmoid layers on four clouds, unless something is changed."""
    x, y = blobs(256, 1)
    parts: dict[str, Any] = {
        "inputs": x[:64], "targets": y[:64], "loss_fn": F.cross_entropy, "steps": 120, "metric": accuracy,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=5e-3), "validation": blobs(200, 2),
        "train_batches": list(zip(x.split(32), y.split(32), strict=True)),
    }  # fmt: skip
    return unvanish.Problem(network(nn.Sigmoid) if model is None else model, **{**parts, **changes})


def ends(constant: float | None, floor: float | None) -> Ends:
    return Ends(None, None, None, constant=constant, floor=floor)


@pytest.mark.parametrize(
    ("constant", "floor", "loss", "share"),
    [
        (math.log(4), 0.0, math.log(4) / 2, 0.5),
        (2.0, 1.0, 1.25, 0.75),
        (2.0, 1.0, 4.0, -2.0),  # worse than the constant answer
        (2.0, None, 1.0, None),
        (None, 0.0, 1.0, None),
        (1.0, 1.0, 0.5, None),  # nothing to learn on this batch
        (2.0, 1.0, None, None),
    ],
)
def test_the_share_of_what_there_is_to_learn(
    constant: float | None, floor: float | None, loss: float | None, share: float | None
) -> None:
    assert share_won(ends(constant, floor), loss) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("level", "share", "training", "word"),
    [
        (None, 0.9, 0.9, "repaired"),
        (None, None, None, "repaired"),  # how far the loss could fall is not known: the check and the gain decide
        ("note", 0.9, 0.9, "repaired"),
        ("error", 0.9, 0.9, "improved"),
        (None, 0.4, 0.9, "improved"),  # learnt by heart
        (None, 0.9, 0.4, "improved"),
        (None, 0.1, 0.1, "improved"),
    ],
)
def test_a_repair_leaves_no_error_and_has_learnt_half_of_what_there_is(
    level: Any, share: float | None, training: float | None, word: str
) -> None:
    after = repaired().after
    assert after is not None
    finding = Finding(code="UV706", verdict="pairing", level=level or "note")
    after = after.replace(findings=() if level is None else (finding,))
    assert _verdict(after, Learned(share, training, falling=False)) == word


def test_the_word_and_the_reasons_in_the_answer() -> None:
    fixes = repaired()
    assert fixes.learned is not None and fixes.learned > learned.HALF
    assert headline(fixes)[0] == "Repaired" and not list(advice(fixes))
    assert any(f"{round(100 * fixes.learned)}% of the way" in line for line in evidence(fixes))
    half = replace(fixes, verdict="improved", learned=0.3, learned_in_training=0.31, still_falling=True)
    assert headline(half)[0] == "Better, but not repaired"
    facts = list(evidence(half))
    assert any("30% of the way from the best constant answer to the lowest loss on the data" in each for each in facts)
    assert any("still falling" in line for line in facts)
    (said,) = advice(half)
    assert "less than half" in said and f"--budget {2 * fixes.budget}" in said
    (said,) = advice(replace(half, learned_in_training=0.9))
    assert "unseen data" in said
    worse = replace(half, learned=-0.2, learned_in_training=-0.1)
    assert any(line.startswith("no lower a loss than the best constant answer's yet") for line in evidence(worse))


class Convolutional(nn.Sequential):
    """Six convolutions and a softmax before the cross-entropy, as it was reported."""

    def __init__(self) -> None:
        parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        for a, b in ((1, 8), (8, 8), (8, 16), (16, 16)):
            parts += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.Softmax(dim=1))


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


@pytest.mark.parametrize("seed", range(2))
def test_a_training_too_short_to_learn_is_not_called_repaired(seed: int) -> None:
    """The network of the report, with 60 steps planned: its known cure reaches chance in them."""
    x, y = digits()
    batches = list(zip(x[:640].split(32), y[:640].split(32), strict=True))
    fixes = fix(
        problem(
            Convolutional, inputs=x[:32], targets=y[:32], train_batches=batches, steps=60,
            validation=(x[1000:1400], y[1000:1400]),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        ),
        seed=seed,
    )  # fmt: skip
    assert fixes.verdict in ("improved", "no remedy found"), fixes
    if fixes.best is not None:
        assert fixes.learned is not None and fixes.learned < 0.5


def test_the_loss_on_the_data_that_judges_is_the_copys_own() -> None:
    race = race_of(problem())
    measure = race.reach(AS_IS, 0, 20, "")
    copy = race.copy(AS_IS, 0)
    inputs, targets = race.copies.scale.judging
    copy.model.eval()
    assert measure.judged_loss == pytest.approx(F.cross_entropy(copy.model(inputs), targets).item(), rel=1e-6)
    assert measure.loss == pytest.approx(sum(copy.losses[-5:]) / 5)  # a quarter of 20 steps


@pytest.mark.parametrize(("slope", "least", "most"), [(0.0, 0, 6), (-0.05, 60, 60), (0.05, 0, 0)])
def test_whether_a_loss_still_falls(slope: float, least: int, most: int) -> None:
    """By two standard errors: of 60 losses that stand still chance makes one or two fall."""
    copy = race_of(small()).copies.fresh(AS_IS, 0)
    falls = 0
    for seed in range(60):
        noise = torch.randn(80, generator=torch.Generator().manual_seed(seed))
        copy.losses = [5.0 + slope * step + 0.1 * float(noise[step]) for step in range(80)]
        falls += copy.falling
    assert least <= falls <= most


def test_steps_to_a_shorter_training_and_of_one_that_failed() -> None:
    ledger = race_of(small()).ledger
    fine = Measure(score=0.5, fall=0.0)
    for steps in (10, 40):
        ledger.enter((("lr-10",), 0, steps), fine, 0)
    assert [ledger.price(("lr-10",), 0, steps) for steps in (10, 25, 40, 60)] == [0, 25, 0, 20]
    ledger.enter((("lr-10",), 0, 25), fine, 25)
    assert ledger.price(("lr-10",), 0, 30) == 5  # the copy that went further has given way
    ledger.enter((AS_IS, 0, 10), Measure(score=-math.inf, fall=0.0, failure="the loss was nan at step 3"), 3)
    assert ledger.price(AS_IS, 0, 60) == 0 and ledger.price(AS_IS, 1, 60) == 60


def test_a_shorter_training_is_that_of_a_new_copy_and_costs_what_it_takes() -> None:
    race = race_of(small())
    other = race_of(small())
    race.reach(("lr-10",), 0, 30, "")
    again = race.reach(("lr-10",), 0, 12, "")
    assert again == other.reach(("lr-10",), 0, 12, "")
    assert race.ledger.spent == race.copies.taken == 42
    assert race.copy(("lr-10",), 0).steps == 12


def scored(race: Any, scores: dict[tuple[str, ...], float], faulty: set[tuple[str, ...]]) -> Any:
    """A race with these scores and faults left, without training."""

    def reach(candidate: tuple[str, ...], seed: int, steps: int, doing: str) -> Measure:
        found = Measure(score=scores[candidate], fall=0.0)
        race.ledger.enter((candidate, seed, steps), found, 0)
        return found

    race.reach = reach
    race.leaves_a_fault = lambda candidate: candidate in faulty
    race.applies = lambda candidate: True
    return race


def test_no_edit_is_left_out_that_keeps_a_fault_away() -> None:
    both = ("batchnorm", "output-layer")
    scores = {both: 0.9, ("batchnorm",): 0.9, ("output-layer",): 0.6}
    for faulty, kept in ((set(), ("batchnorm",)), ({("batchnorm",)}, both), ({both, ("batchnorm",)}, ("batchnorm",))):
        race = scored(race_of(small()), scores, faulty)
        race.reach(both, 0, 40, "")
        assert minimised(race, both) == kept, faulty


@pytest.mark.parametrize(
    ("whole", "learnt", "taken"),
    [
        (0.89, (0.9, 0.9), True),
        (0.7, (0.9, 0.9), False),
        (0.7, (0.2, 0.3), True),  # neither has learnt half yet, and the one without a fault has learnt as much
        (0.7, (0.2, 0.1), False),
        (0.7, (-0.1, -0.1), False),  # nothing at all
        (0.7, (None, None), False),
    ],
)
def test_a_choice_that_leaves_a_fault_gets_the_answer_to_it(
    whole: float, learnt: tuple[float | None, float | None], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, both = ("batchnorm",), ("batchnorm", "output-layer")
    shares = dict(zip((alone, both), learnt, strict=True))
    monkeypatch.setattr(sys.modules["unvanish.trials.search"], "share_so_far", lambda _, candidate: shares[candidate])
    race = scored(race_of(small()), {alone: 0.9, both: whole}, {alone})
    race.reach(alone, 0, race.plan.rungs[-1], "")
    assert completed(race, alone, ("output-layer",)) == (both if taken else alone)
    clean = scored(race_of(small()), {alone: 0.9}, set())
    clean.reach(alone, 0, clean.plan.rungs[-1], "")
    assert completed(clean, alone, ("output-layer",)) == alone


@pytest.mark.parametrize(
    ("later", "falling", "as_is", "asked", "kept"),
    [
        (0.9, False, 0.3, False, False),
        (0.8, False, 0.3, False, True),
        (0.8, True, 0.3, False, True),  # 0.7, 0.8: half of that more is 0.85, and 0.88 is asked for
        (0.83, False, 0.3, False, True),
        (0.83, True, 0.3, False, False),  # 0.7, 0.83: 0.895
        (0.9, True, 0.3, True, True),
        (0.9, True, 0.69, False, True),  # beside 0.7 after a quarter no judgement would see that it helps
        (0.9, True, 0.67, False, False),
    ],
)
def test_a_higher_rate_that_only_gets_there_sooner_is_left_out(
    later: float, falling: bool, as_is: float, asked: bool, kept: bool
) -> None:
    """Unless a finding asks for it, or what is left does not catch up within half a training, nor is about to."""
    both = ("batchnorm", "lr-10")
    race: Any = race_of(small(steps=640), 3 * 640)
    rung = race.plan.rungs[-1]
    race = scored(race, {both: 0.9, ("batchnorm",): 0.7, ("lr-10",): 0.1, AS_IS: as_is}, set())
    race.reach(AS_IS, 0, rung, "")
    usual = race.reach

    def reach(candidate: tuple[str, ...], seed: int, steps: int, doing: str) -> Measure:
        if steps <= rung:
            return usual(candidate, seed, steps, doing)
        assert candidate == ("batchnorm",) and steps == 320
        found = Measure(score=later, fall=0.0, falling=falling)
        race.ledger.enter((candidate, seed, steps), found, 0)
        return found

    race.reach = reach
    race.reach(both, 0, rung, "")
    assert minimised(race, both, ("lr-10",) if asked else ()) == (both if kept else ("batchnorm",))


def test_what_has_learnt_little_of_a_broken_start_gives_the_answers_a_longer_try() -> None:
    """A table in units of its own: batch normalisation beats the broken network, standard inputs repair it."""
    generator = torch.Generator().manual_seed(1002)
    x = torch.randn(1000, 6, generator=generator)
    y = (torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 1.0).unsqueeze(1)
    raw = (x + 5.0) * torch.tensor([1e4, 1e3, 1.0, 1e-1, 1e-3, 1e2])

    def r2(outputs: Tensor, targets: Tensor) -> float:
        return max(-1.0, 1.0 - float((outputs - targets).square().mean() / targets.var()))

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))

    fixes = fix(
        problem(
            make, inputs=raw[:64], targets=y[:64], loss_fn=nn.MSELoss(), steps=400,
            optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
            train_batches=list(zip(raw[:800].split(64), y[:800].split(64), strict=True)),
            validation=(raw[800:], y[800:]), metric=r2,
        ),
        seed=2,
    )  # fmt: skip
    assert fixes.verdict == "repaired" and fixes.best is not None and "standardise-inputs" in fixes.best.edits, fixes


def test_a_batch_of_two_is_no_measure_of_the_constant_answer() -> None:
    """Two samples of one class need no more than a constant; the first training batches together say more."""
    x, y = blobs(256, 1)
    with seeded(0):
        model = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 4))
    race: Any = race_of(
        replace(
            problem(model, train_batches=list(zip(x.split(2), y.split(2), strict=True))), inputs=x[:2], targets=y[:2]
        )
    )
    found = learned.ends_of(race, AS_IS)
    assert found is not None and found.constant is not None
    sample = race.copies.fresh(AS_IS, 0).draft.sample_targets[: learned.FEWEST]
    shares = sample.bincount(minlength=4).double() / len(sample)
    entropy = -float((shares * shares.log()).nan_to_num().sum())
    assert found.constant == pytest.approx(entropy, rel=1e-3)
