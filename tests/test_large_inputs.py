"""Inputs in raw units: an error where real steps fail on them and learn on standardised ones, else a note at most."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, diagnose

SIZES = torch.tensor([2e4, 1e5, 12.0, 400.0, 9e4, 3.0])
MEANS = 3.0 * SIZES


def columns(seed: int, size: Tensor | float, mean: Tensor | float = 0.0, task: str = "classes", **more: Any) -> Problem:
    """Sixteen batches of six columns; the targets depend on the first three."""
    torch.manual_seed(seed)
    x = torch.randn(1024, 6)
    value = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    act, ends = more.get("act", nn.ReLU), 2 if task == "classes" else 1
    targets = (value[:, 0] > 0.0).long() if task == "classes" else value
    model = nn.Sequential(nn.Linear(6, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, ends))
    batches = list(zip((x * size + mean).split(64), targets.split(64), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss = F.cross_entropy if task == "classes" else F.mse_loss
    return Problem(model, *batches[0], loss, optimizer, train_batches=batches, steps=more.get("steps", 300))


def level(problem: Problem) -> str | None:
    return next((f.level for f in diagnose(problem).findings if f.code == "UV707"), None)


def ends_at(problem: Problem, batches: Any) -> float:
    """The mean loss of these batches after the planned steps on them."""
    model, optimizer = problem.build()
    assert optimizer is not None and problem.loss_fn is not None
    for step in range(problem.steps or 0):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        problem.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        return sum(problem.loss_fn(model(a), b).item() for a, b in batches) / len(batches)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_raw_columns_that_do_not_train_are_an_error(seed: int, task: str) -> None:
    assert level(columns(seed, SIZES, MEANS, task)) == "error"


@pytest.mark.parametrize("seed", range(2))
def test_what_raw_columns_and_standardised_ones_come_to(seed: int) -> None:
    raw, standard = columns(seed, SIZES, MEANS), columns(seed, 1.0)
    assert ends_at(raw, raw.train_batches) > 5.0
    assert ends_at(standard, standard.train_batches) < 0.25
    assert level(columns(seed, 1.0)) is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_inputs_a_hundred_times_too_large_that_train_are_none(seed: int, task: str) -> None:
    problem = columns(seed, 100.0, task=task)
    assert level(problem) != "error"
    assert ends_at(problem, problem.train_batches) < 0.6, "that of one constant output is 0.69 and 0.75"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_flat_ends_that_are_left_in_time_are_a_note(seed: int, act: Any) -> None:
    """At a hundred times the size they end where standardised ones do: 0.2 to 0.35."""
    problem = columns(seed, 100.0, task="numbers", act=act)
    report = diagnose(problem)
    found = next(f for f in report.findings if f.code == "UV707")
    assert found.level == "note" and "But it learns: " in found.message
    assert ends_at(problem, problem.train_batches) < 0.45


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_flat_ends_that_are_not_left_stay_an_error(act: Any) -> None:
    assert level(columns(1, SIZES, MEANS, act=act)) == "error"


def test_a_long_plan_in_which_the_loss_would_come_down_is_a_note() -> None:
    """A thousand times: after 3,000 steps the loss is down at that of a constant, after 300 at thirty times that."""
    assert level(columns(2, 1000.0, task="numbers", steps=300)) == "error"
    assert level(columns(2, 1000.0, task="numbers", steps=10_000)) == "note"


def test_without_training_batches_no_steps_tell() -> None:
    problem = columns(0, 100.0, task="numbers", act=nn.Tanh)
    alone = dataclasses.replace(problem, train_batches=None)
    assert (level(problem), level(alone)) == ("note", "error")


def test_everything_is_put_back_and_said() -> None:
    problem = columns(1, SIZES, MEANS)
    model = problem.model
    assert isinstance(model, nn.Module)
    before = [p.detach().clone() for p in model.parameters()]
    report = diagnose(problem)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    found, inputs = next(f for f in report.findings if f.code == "UV707"), report.flow.inputs
    assert inputs is not None and inputs.after is not None and inputs.after_standardised is not None
    assert inputs.after > 1.0 > inputs.after_standardised
    assert f"{inputs.steps} real steps of Adam, taken back, leave the loss at" in found.message
    assert f"{inputs.steps_standardised} on standardised inputs bring it to" in found.message
    assert any("whether standardised inputs are learned from" in note for note in report.flow.notes)
