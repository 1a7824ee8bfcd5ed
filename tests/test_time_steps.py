"""Recurrences that begin with next to nothing of what early steps say: real steps tell those that come to hear it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.decide.reach import OUT_OF_REACH, depends_beyond

SEEDS = range(2)
UNITS, SAMPLES = 16, 64


class Reader(nn.Module):
    def __init__(self, kind: str, features: int, classes: int) -> None:
        super().__init__()
        self.read = getattr(nn, kind)(features, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def batch(length: int) -> tuple[Tensor, Tensor]:
    """One of four classes is shown at the first step, nothing after it, and asked for at the end."""
    x, classes = torch.zeros(SAMPLES, length, 4), torch.randint(0, 4, (SAMPLES,))
    x[torch.arange(SAMPLES), 0, classes] = 1.0
    return x, classes


def marked(kind: str, length: int, seed: int, rate: float = 0.01, batches: int = 10, **more: Any) -> Any:
    torch.manual_seed(seed)
    model = Reader(kind, 4, 4)
    x, classes = batch(length)
    more["train_batches"] = [batch(length) for _ in range(batches)] or None
    return unvanish.Problem(model, x, classes, F.cross_entropy, torch.optim.Adam(model.parameters(), rate), **more)


def trained(problem: Any, steps: int) -> float:
    """The loss after so many real steps on the training batches."""
    loss = torch.tensor(0.0)
    for step in range(steps):
        problem.optimizer.zero_grad()
        x, classes = problem.train_batches[step % len(problem.train_batches)]
        loss = F.cross_entropy(problem.model(x), classes)
        loss.backward()
        problem.optimizer.step()
    return float(loss.detach())


def levels(report: unvanish.Report) -> list[str]:
    return [finding.level for finding in report.findings if finding.code == "UV102"]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_training_brings_within_reach_is_a_note(seed: int) -> None:
    problem = marked("GRU", 30, seed)
    report = unvanish.diagnose(problem)
    (facts,) = report.time
    assert facts.log10_signal[0] is not None and facts.log10_signal[0] < OUT_OF_REACH and depends_beyond(facts)
    assert levels(report) == ["note"] and facts.in_reach and 0 < facts.tried <= 400
    (said,) = [finding.message for finding in report.findings if finding.code == "UV102"]
    assert f"{facts.tried} real steps of Adam, tried and taken back, bring it within reach" in said
    assert [layer.verdict for layer in report.layers] == ["healthy", "healthy"]
    assert any(f"{facts.tried} steps of the optimizer" in note for note in report.notes)
    assert trained(problem, 200) < 0.2  # of log 4 = 1.39: what is said is what training does


@pytest.mark.parametrize("seed", SEEDS)
def test_what_training_leaves_out_of_reach_is_an_error(seed: int) -> None:
    problem = marked("RNN", 40, seed, rate=0.003)
    report = unvanish.diagnose(problem)
    (facts,) = report.time
    assert levels(report) == ["error"] and facts.tried >= 100 and not facts.in_reach and not facts.rising
    (said,) = [finding.message for finding in report.findings if finding.code == "UV102"]
    assert "do not bring it within reach" in said
    assert trained(problem, 300) > 1.2


@pytest.mark.parametrize("steps", [20, None])
def test_no_more_steps_are_tried_than_are_planned(steps: int | None) -> None:
    (facts,) = unvanish.diagnose(marked("GRU", 30, 0, steps=steps)).time
    assert facts.tried == 20 if steps else facts.tried > 20


def test_the_model_stays_as_it_was() -> None:
    problem = marked("GRU", 30, 0)
    before = [p.detach().clone() for p in problem.model.parameters()]
    unvanish.diagnose(problem)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.model.parameters(), strict=True))
    assert not problem.optimizer.state and all(p.grad is None for p in problem.model.parameters())


@pytest.mark.parametrize("how", ["no optimizer", "quick"])
def test_without_an_optimizer_and_in_a_quick_look_no_steps_are_tried(how: str) -> None:
    problem = marked("GRU", 30, 0)
    optimizer = None if how == "no optimizer" else problem.optimizer
    report = unvanish.diagnose(replace(problem, optimizer=optimizer), effort="quick" if how == "quick" else "auto")
    (facts,) = report.time
    assert facts.tried == 0 and levels(report) == (["error"] if how == "no optimizer" else [])


class Gone:
    def __iter__(self) -> Any:
        raise OSError("the disk is gone")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("batches", [None, Gone(), [(torch.zeros(4, 30, 5), torch.zeros(4).long())]])
def test_on_one_batch_which_can_be_learned_by_heart_no_steps_are_tried(seed: int, batches: Any) -> None:
    """Nor where the training batches cannot be had, or are none that the model takes."""
    problem = marked("GRU", 30, seed, batches=0)
    report = unvanish.diagnose(replace(problem, train_batches=batches))
    assert report.time[0].tried == 0 and levels(report) == ["error"]


class Windowed(nn.Module):
    """Convolutions that do not see the first steps at all."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, UNITS, 5), nn.Tanh(), nn.Conv1d(UNITS, UNITS, 5), nn.Tanh())
        self.head = nn.Linear(UNITS, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2))[..., -1])


def test_of_steps_that_nothing_reaches_none_are_tried() -> None:
    problem = marked("GRU", 30, 0)
    torch.manual_seed(0)
    model, x = Windowed(), torch.randn(SAMPLES, 40, 4)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    batches = [(x, x[:, 0].argmax(1))]
    report = unvanish.diagnose(replace(problem, model=model, inputs=x, targets=batches[0][1], optimizer=optimizer,
                                       train_batches=batches))  # fmt: skip
    assert levels(report) == ["error"] and report.time[0].tried == 0
