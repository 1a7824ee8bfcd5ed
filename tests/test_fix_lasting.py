"""A training that begins well and ends badly: nothing is called healthy that was not seen to the end."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
import unvanish.trials as trials
from unvanish.preserve import seeded
from unvanish.records import LossFacts
from unvanish.trials.lasting import failed_late, lasts, survives
from unvanish.trials.ledger import Ledger
from unvanish.trials.train import AS_IS
from unvanish.trials.trial import Measure

RATE, LATE_STEPS = 0.05, 200


def steep(seed: int) -> unvanish.Problem:
    """Two weights on orthogonal inputs: one is learnt at once; the error of the other, ~1e-6, grows 1.35-fold a step.

    H = 2 E[x xᵀ] is diagonal, (2, 47.05) times RATE = (0.1, 2.35): 1 − 2.35 = −1.35.
    """
    draw = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(64, 2, generator=draw, dtype=torch.float64))
    x = (8.0 * q * torch.tensor([1.0, 4.85], dtype=torch.float64)).float()
    y = x @ torch.tensor([[1.5], [0.3]])
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.5, 0.3 + 1e-6 * (1 + seed)]]))
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    return unvanish.Problem(model, x, y, F.mse_loss, optimizer, [(x, y)], steps=LATE_STEPS)


def with_a_bad_sample(seed: int, bad: bool) -> unvanish.Problem:
    """Forty batches, of which one holds a number that is none, or not."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(32 * 40, 2, generator=draw)
    y = 1.5 * x[:, :1]
    if bad:
        x[32 * 35] = math.nan
    with seeded(seed):
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    batches: list[Any] = list(zip(x.split(32), y.split(32), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return unvanish.Problem(model, x[:32], y[:32], F.mse_loss, optimizer, batches, steps=80)


@pytest.mark.parametrize("seed", range(3))
def test_a_training_that_explodes_late_is_repaired_and_not_called_healthy(seed: int) -> None:
    problem = steep(seed)
    assert not unvanish.diagnose(problem).findings
    fixes = unvanish.fix(problem, seed=seed)
    assert fixes.verdict == "repaired", fixes
    assert fixes.best is not None and fixes.model is not None
    failed = [remark for remark in fixes.remarks if "first 12 steps show nothing: the loss was" in remark]
    assert len(failed) == 1
    # judged where the training as it is has failed, not before
    assert fixes.best.steps >= int(failed[0].split("at step ")[1].split(";")[0]) > LATE_STEPS // 4
    assert fixes.best.baseline == pytest.approx(0.0, abs=1e-6)  # before any step: nothing was won
    assert fixes.spent <= fixes.budget
    x: Tensor = problem.inputs
    with torch.no_grad():
        rest = F.mse_loss(fixes.model(x), problem.targets) / problem.targets.square().mean()
    assert rest < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_what_no_change_can_repair_is_said_with_the_step_and_is_not_called_healthy(seed: int) -> None:
    fixes = unvanish.fix(with_a_bad_sample(seed, bad=True), seed=seed)
    assert fixes.verdict == "no remedy found" and fixes.best is None
    assert any("the loss was nan at step" in remark for remark in fixes.remarks)
    sound = unvanish.fix(with_a_bad_sample(seed, bad=False), seed=seed)
    assert sound.verdict == "nothing to repair" and sound.as_is.steps == sound.spent == 80


def test_a_budget_that_does_not_reach_to_the_end_is_said() -> None:
    fixes = unvanish.fix(with_a_bad_sample(0, bad=False), budget=40)
    assert fixes.verdict == "nothing to repair" and fixes.as_is.steps == fixes.spent == 40
    assert "after 40 of 80 steps, and later ones were not looked at" in " ".join(str(fixes).split())


def test_after_a_race_too_nothing_is_called_healthy_before_the_end_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "search", lambda *_: None)
    for bad, verdict in ((True, "no remedy found"), (False, "nothing to repair")):
        fixes = unvanish.fix(with_a_bad_sample(0, bad), anyway=True)
        assert fixes.verdict == verdict
        assert any("the loss was nan at step" in remark for remark in fixes.remarks) == bad


def race(loss: LossFacts | None, end: Measure, *, budget: int = 200) -> Any:
    """A race whose network as it is is worth ``end`` after the whole training of 100 steps; its last rung is at 25."""
    ledger = Ledger(budget, 0)
    ledger.enter((AS_IS, 0, 10), Measure(score=0.0, fall=0.0, loss=1.0), 10)

    def reach(candidate: Any, seed: int, steps: int, doing: str) -> Measure:
        ledger.spent += ledger.price(candidate, seed, steps)
        ledger.enter((candidate, seed, steps), end if steps == 100 else Measure(score=0.0, fall=0.5, loss=0.5), 0)
        return ledger.measures[candidate, seed, steps]

    report = SimpleNamespace(loss=loss)
    plan = SimpleNamespace(steps=100, rungs=(10, 25))
    return SimpleNamespace(plan=plan, ledger=ledger, seed=0, reach=reach, report=report)


@pytest.mark.parametrize(
    ("constant", "last", "fall", "failure", "well"),
    [
        (1.0, 0.2, 0.8, "", True),
        (1.0, 0.96, 0.04, "", True),  # 4% of the reduction of 1
        (1.0, 0.98, 0.5, "", False),  # back at the constant answer, whatever it fell from
        (1.0, 0.2, 0.8, "the loss was nan at step 90", False),
        (None, 0.2, 0.8, "", True),
        (None, 3.0, -0.6, "", False),
    ],
)
def test_what_counts_as_a_bad_end(constant: float | None, last: float, fall: float, failure: str, well: bool) -> None:
    loss = LossFacts(value=1.0, best_constant=constant, reference=1.0, relative_gap=1.0)
    assert lasts(race(loss, Measure(score=0.0, fall=fall, loss=last, failure=failure))) == well


@pytest.mark.parametrize(
    ("as_is", "end", "budget", "stands"),
    [
        ("fine", "failed", 300, True),  # nothing has failed: it is not asked
        ("failed", "fine", 300, True),
        ("failed", "failed", 300, False),
        ("failed", "fine", 130, False),  # it cannot be paid for, so nothing is claimed
        ("risen", "fine", 300, True),
        ("risen", "risen", 300, False),
    ],
)
def test_a_candidate_has_to_stand_where_the_network_as_it_is_ended_badly(
    as_is: str, end: str, budget: int, stands: bool
) -> None:
    known = {
        "fine": Measure(score=0.9, fall=0.5, loss=0.1),
        "failed": Measure(score=-math.inf, fall=0.0, failure="nan"),
        "risen": Measure(score=0.2, fall=-0.5, loss=1.5),
    }
    this = race(LossFacts(value=1.0, best_constant=1.0, reference=1.0, relative_gap=1.0), known[end], budget=budget)
    this.ledger.spent = 60
    this.ledger.enter((AS_IS, 0, 25), Measure(score=0.5, fall=0.5, loss=0.5), 0)
    this.ledger.enter((AS_IS, 0, 100), known[as_is], 0)
    this.ledger.enter((("lr-0.1",), 0, 25), Measure(score=0.5, fall=0.5, loss=0.5), 0)
    assert failed_late(this) == (0 if as_is == "fine" else 100)
    assert survives(this, ("lr-0.1",)) == stands


@pytest.mark.slow
def test_a_late_failure_gives_the_same_answer_by_several_processes_and_from_a_file(tmp_path: Path) -> None:
    alone = unvanish.fix(steep(0))
    assert unvanish.fix(steep(0), workers=2).to_json() == alone.to_json()
    path, stop = tmp_path / "search", 3 * LATE_STEPS // 2
    assert alone.spent > stop

    def interrupt(standing: Any) -> None:
        if standing.spent > stop:
            raise KeyboardInterrupt

    assert unvanish.fix(steep(0), progress=interrupt, resume=path).interrupted
    assert unvanish.fix(steep(0), resume=path).to_json() == alone.to_json()
