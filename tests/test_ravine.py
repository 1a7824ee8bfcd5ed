"""The ravine of the documents, f = 0.001 w1² + w2², as a torch model whose output is its parameter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Problem
from unvanish.pipeline import diagnose
from unvanish.zoo.doubtful import ravine


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("start", [(1.0, 0.0), (30.0, 0.0), (-5.0, 0.0), (1.0, 1e-4), (-2.0, 1e-4)])
def test_along_its_floor_it_is_slow(scale: float, start: tuple[float, float]) -> None:
    """At a rate of 0.5 a step takes w1 to 0.999 w1: 1,150 steps for nine tenths of the loss."""
    report = diagnose(ravine(*start, scale))
    assert report.verdict == "slow" and report.step is not None
    assert [(f.code, f.level) for f in report.findings if f.code == "UV404"] == [("UV404", "error")]
    assert report.step.needed == pytest.approx(1150, rel=0.05)
    assert report.step.lr_limit == pytest.approx(1.0 / scale, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_where_one_step_wins_nearly_all_it_is_not(scale: float) -> None:
    """From (1, 1) the first step takes w2 to 0, and with it 99.9% of the loss."""
    report = diagnose(ravine(1.0, 1.0, scale))
    assert report.healthy and {layer.verdict for layer in report.layers} == {"healthy"}


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("start", [(1.0, 3e-4), (1.0, 3e-3), (-10.0, 0.1)])
def test_off_its_floor_it_is_slow_once_the_way_across_is_done(scale: float, start: tuple[float, float]) -> None:
    """The first step takes w2 to 0; of what is left then, w1 loses 0.2% a step."""
    report = diagnose(ravine(*start, scale))
    along, across = 1e-3 * start[0] ** 2, start[1] ** 2
    left = along * 0.999**12 / (along + across)
    assert report.verdict == "slow" and report.step is not None and report.step.after == 6
    assert report.step.needed == pytest.approx(6 + math.log(left / 0.1) / -math.log(0.999**2), rel=0.01)
    assert [(f.code, f.level) for f in report.findings if f.code == "UV404"] == [("UV404", "note")]
    assert "Once 6 steps, tried and taken back" in " ".join(str(report).split())


def test_the_weights_stand_where_they_stood() -> None:
    problem = ravine(1.0, 3e-3)
    before = [p.detach().clone() for p in problem.model.parameters()]  # type: ignore[union-attr]
    diagnose(problem)
    for parameter, start in zip(problem.model.parameters(), before, strict=True):  # type: ignore[union-attr]
        assert torch.equal(parameter, start) and parameter.grad is None


@pytest.mark.parametrize("rate", [0.3, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_plain_descent_that_gets_on_is_not_slow(seed: int, rate: float) -> None:
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(64, 6)
    targets = (x @ torch.randn(6, 3)).argmax(1)
    report = diagnose(Problem(model, x, targets, F.cross_entropy, torch.optim.SGD(model.parameters(), rate)))
    assert report.healthy and report.step is not None and report.step.after == 0
