"""A schedule that has taken the rate to nothing, under an optimizer that keeps no count of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, OneCycleLR

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)
Schedule = Callable[[torch.optim.Optimizer], Any]


def looked(seed: int, schedule: Schedule | None, steps: int, momentum: float = 0.0) -> tuple[Report, float]:
    torch.manual_seed(seed)
    x = torch.randn(128, 10)
    y = (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum)
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    report = diagnose(Problem(model, x, y, F.cross_entropy, optimizer, steps=300))
    return report, optimizer.param_groups[0]["lr"]


def said(report: Report) -> list[str]:
    return [f.level for f in report.findings if f.code == "UV705" and "counts no steps" in f.message]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "schedule", [lambda o: ExponentialLR(o, 0.5), lambda o: LambdaLR(o, lambda step: float(step == 0))]
)
def test_a_rate_that_has_faded_is_noted(schedule: Schedule, momentum: float, seed: int) -> None:
    report, rate = looked(seed, schedule, 30, momentum)
    assert rate < 0.1 * 1e-6 and said(report) == ["note"] and report.verdict == "lr_too_small"
    assert report.step is not None and report.step.faded is not None and report.step.faded > 1e6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [0, 1, 30])
@pytest.mark.parametrize(
    "schedule",
    [
        None, lambda o: LambdaLR(o, lambda step: min(1.0, step / 10_000)),
        lambda o: LinearLR(o, 1e-6, total_iters=2_000),
        lambda o: CosineAnnealingLR(o, 300), lambda o: OneCycleLR(o, 0.1, total_steps=300),
        lambda o: ExponentialLR(o, 0.99),
    ],
)  # fmt: skip
def test_a_warm_up_and_a_slow_decay_are_not(schedule: Schedule | None, steps: int, seed: int) -> None:
    assert not said(looked(seed, schedule, steps)[0])
