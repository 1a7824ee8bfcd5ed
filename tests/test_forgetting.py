"""Adam's steps lengthen as its second moment forgets a start far off: foretold, and counted before a rate is blamed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from unvanish import zoo
from unvanish.evidence.schedule import forgetting
from unvanish.pipeline import diagnose
from unvanish.problem import Problem

SEEDS = range(2)


def stepped(optimizer: Any, parameter: nn.Parameter, gradient: Tensor, steps: int) -> float:
    """The length of the last of so many steps under one gradient."""
    length = 0.0
    for _ in range(steps):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        length = float((parameter.detach() - before).norm())
    return length


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
@pytest.mark.parametrize(("large", "beta", "planned"), [(100.0, 0.999, 1200), (30.0, 0.99, 400), (10.0, 0.999, 5000)])
def test_it_is_the_factor_by_which_the_steps_really_grow(kind: Any, large: float, beta: float, planned: int) -> None:
    torch.manual_seed(0)
    parameter, gradient = nn.Parameter(torch.randn(40, dtype=torch.float64)), torch.randn(40, dtype=torch.float64)
    optimizer = kind([parameter], 1e-3, betas=(0.9, beta), weight_decay=0.0)
    stepped(optimizer, parameter, large * gradient, 20)
    now = stepped(optimizer, parameter, gradient, 180)
    told = forgetting(optimizer, {id(parameter): gradient}, planned)
    then = stepped(optimizer, parameter, gradient, (planned - 200) // 2)
    assert told == pytest.approx(then / now, rel=1e-3) and told > 1.3


def test_of_equal_gradients_and_of_other_optimizers_nothing_is_forgotten() -> None:
    parameter, gradient = nn.Parameter(torch.ones(4)), torch.ones(4)
    kept_largest, plain = optim.Adam([parameter], amsgrad=True), optim.SGD([parameter], 1e-3, momentum=0.9)
    for optimizer in (optim.Adam([parameter], 1e-3), plain, kept_largest):
        assert forgetting(optimizer, {id(parameter): gradient}, 1000) == 1.0  # before the first step
        stepped(optimizer, parameter, gradient, 50)
        assert forgetting(optimizer, {id(parameter): gradient}, 1000) == pytest.approx(1.0)
        assert forgetting(optimizer, {id(parameter): 10.0 * gradient}, 1000) == 1.0  # a larger one shortens them


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rate_that_is_too_small_is_named_after_steps_at_it_too(seed: int) -> None:
    problem: Problem = zoo.get("lr-too-small-adam").build(seed)
    model, optimizer = problem.build()
    assert optimizer is not None
    for _ in range(50):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    report = diagnose(problem)
    assert [f.level for f in report.findings if f.code == "UV705"] == ["error"]
    assert report.step is not None and report.step.forgetting == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_forgotten_is_counted_before_the_rate_is_blamed(seed: int) -> None:
    problem: Problem = zoo.get("lr-too-small-adam").build(seed)
    model, optimizer = problem.build()
    assert optimizer is not None
    problem.loss(problem.outputs(model)).backward()
    optimizer.step()
    for state in optimizer.state.values():  # as a start far off leaves it
        state["exp_avg_sq"] *= 1e4
    report = diagnose(problem)
    found = next(f for f in report.findings if f.code == "UV705")
    assert report.step is not None and (report.step.forgetting or 0.0) > 10.0
    assert "to which they grow" in found.message
