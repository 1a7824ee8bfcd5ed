"""Weight decay that takes weights faster than they can learn: its share of a step, and what real steps make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(2)
Make = Callable[[Iterable[nn.Parameter]], Any]


def signs(make: Make, seed: int, norm: bool = False) -> Problem:
    torch.manual_seed(seed)
    between: list[nn.Module] = [nn.BatchNorm1d(32)] if norm else []
    model = nn.Sequential(nn.Linear(8, 32), *between, nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.randn(64, 8)
    targets = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    return Problem(model, inputs, targets, F.cross_entropy, make(model.parameters()))


def level(report: Report) -> str | None:
    return next((f.level for f in report.findings if f.code == "UV406"), None)


def trained(problem: Problem, steps: int) -> float:
    model, optimizer = problem.build()
    assert optimizer is not None
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    return float(problem.loss(problem.outputs(model)).detach())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "norm"),
    [
        (lambda p: optim.AdamW(p, 1e-3, weight_decay=100.0), False),
        (lambda p: optim.AdamW(p, 1e-3, weight_decay=100.0), True),
        (lambda p: optim.SGD(p, 0.01, momentum=0.9, weight_decay=1.0), False),
        (lambda p: optim.Adam(p, 1e-3, weight_decay=100.0), False),
    ],
)
def test_decay_that_holds_the_loss_at_its_constant_is_an_error_before_any_step(
    make: Make, norm: bool, seed: int
) -> None:
    report = diagnose(signs(make, seed, norm))
    assert level(report) == "error" and report.verdict == "decay"
    assert trained(signs(make, seed, norm), 200) > 1.3  # ln 4 is 1.386


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "norm"),
    [
        (lambda p: optim.AdamW(p, 1e-2, weight_decay=0.1), False),
        (lambda p: optim.AdamW(p, 1e-2, weight_decay=0.1), True),
        (lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3), False),
        (lambda p: optim.Adam(p, 1e-3, weight_decay=1e-4), False),
    ],
)
def test_ordinary_decay_is_passed_over(make: Make, norm: bool, seed: int) -> None:
    report = diagnose(signs(make, seed, norm))
    assert level(report) is None and report.step is not None and report.step.decayed is None


@pytest.mark.parametrize("seed", SEEDS)
def test_decay_that_costs_a_part_is_a_note_and_fast_decay_of_normalised_weights_is_nothing(seed: int) -> None:
    report = diagnose(signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=10.0), seed))
    assert level(report) == "note" and report.healthy

    def but_for_the_scales(parameters: Iterable[nn.Parameter]) -> Any:
        first, bias, *rest = parameters  # those before the normaliser, whose size means nothing
        return optim.SGD([{"params": [first, bias], "weight_decay": 0.2}, {"params": rest}], 0.1)

    problem = signs(but_for_the_scales, seed, norm=True)
    assert level(diagnose(problem)) is None and trained(problem, 200) < 0.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "share"),
    [
        (lambda p: optim.AdamW(p, 1e-3, weight_decay=3.0), 3e-3),
        (lambda p: optim.SGD(p, 0.1, weight_decay=0.05), 5e-3),
        (lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.005), 5e-3),
        (lambda p: optim.Adam(p, 1e-3, weight_decay=1e-4), 0.0),  # the gradient decides the step
    ],
)
def test_the_share_is_that_of_the_decay_alone(make: Make, share: float, seed: int) -> None:
    step = look(signs(make, seed)).next_step
    assert step is not None and step.decay_share == pytest.approx(share, rel=1e-6)


def test_without_decay_there_is_no_share_and_in_groups_it_is_that_of_all_weights() -> None:
    assert (step := look(signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=0.0), 0)).next_step) is None or (
        step.decay_share is None
    )

    def groups(parameters: Iterable[nn.Parameter]) -> Any:
        first, *rest = parameters
        return optim.SGD([{"params": [first], "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.01}], 0.1)

    problem = signs(groups, 1)
    step = look(problem).next_step
    assert isinstance(problem.model, nn.Module)
    sizes = [float(p.detach().double().norm()) for p in problem.model.parameters()]
    taken = math.hypot(2e-3 * sizes[0], *(1e-3 * size for size in sizes[1:]))
    assert step is not None and step.decay_share == pytest.approx(taken / math.hypot(*sizes), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_losses_are_those_of_a_training_with_and_without_decay(seed: int) -> None:
    facts = look(signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=100.0), seed)).step
    assert facts is not None and facts.decayed_after == 100
    with_it = trained(signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=100.0), seed), 100)
    without = trained(signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=0.0), seed), 100)
    assert facts.decayed == pytest.approx(with_it, rel=1e-4) and facts.undecayed == pytest.approx(without, rel=1e-4)


def test_a_short_training_is_tried_for_as_long_as_it_is_planned() -> None:
    problem = signs(lambda p: optim.AdamW(p, 1e-3, weight_decay=100.0), 0)
    object.__setattr__(problem, "steps", 20)
    facts = look(problem).step
    assert facts is not None and facts.decayed_after == 20
