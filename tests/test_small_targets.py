"""Targets that are nothing beside the outputs and the steps: named, as far as real steps bear it out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem

SEEDS = range(3)


def parts(seed: int, scale: float, level: float = 0.0) -> tuple[nn.Sequential, Tensor, Tensor]:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
        x = torch.randn(64, 4)
        return model, x, level + scale * torch.sin(x @ torch.randn(4, 1))


def step_on(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """How far the loss then is, in units of that of the best constant output."""
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return float(F.mse_loss(model(x), y).detach() / y.var(correction=0))


def report_of(given: tuple[nn.Sequential, Tensor, Tensor], optimizer: Any) -> Any:
    return diagnose(Problem(*given, F.mse_loss, optimizer))


def said(report: Any) -> list[str]:
    return [f.level for f in report.findings if f.code == "UV702"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("before", [0, 300])
def test_targets_of_a_billionth_are_an_error_at_the_start_and_later(seed: int, before: int) -> None:
    given = parts(seed, 1e-9)
    adam = torch.optim.Adam(given[0].parameters(), 1e-3)
    step_on(*given, adam, before)
    report = report_of(given, adam)
    assert said(report) == ["error"] and report.verdict == "output_scale"
    assert "UV705" not in {f.code for f in report.findings}
    assert "The targets are on a far smaller scale than the outputs" in str(report).replace("\n", " ")
    assert step_on(*given, adam, 300) > 1e8


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_standardised_and_at_any_ordinary_scale_are_not(seed: int) -> None:
    for scale in (1e-2, 1.0):
        assert said(report_of(parts(seed, scale), lambda p: torch.optim.Adam(p, 1e-3))) == []
    given = parts(seed, 1.0)
    assert step_on(*given, torch.optim.Adam(given[0].parameters(), 1e-2), 300) < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_what_may_be_made_good_for_within_a_training_is_a_note(seed: int) -> None:
    assert said(report_of(parts(seed, 1e-4), lambda p: torch.optim.Adam(p, 1e-3))) == ["note"]
    assert said(report_of(parts(seed, 1e-9), lambda p: torch.optim.SGD(p, 0.1))) == ["note"]


@pytest.mark.parametrize("seed", SEEDS)
def test_nearly_constant_targets_of_ordinary_size_are_on_no_small_scale(seed: int) -> None:
    assert said(report_of(parts(seed, 1e-9, level=1.0), lambda p: torch.optim.Adam(p, 1e-3))) == []


@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_the_scale_of_the_loss_changes_nothing(factor: float) -> None:
    model, x, y = parts(0, 1e-9)
    this = Problem(model, x, y, lambda o, t: factor * F.mse_loss(o, t), lambda p: torch.optim.Adam(p, 1e-3))
    assert said(diagnose(this)) == ["error"]
