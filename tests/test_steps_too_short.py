"""A rate so small that rounding hides what real steps win: the whole plan is too short to change anything."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Problem, diagnose


def classifier(seed: int, optimizer: Any, depth: int, steps: int = 500, **kind: Any) -> Problem:
    torch.manual_seed(seed)
    x = torch.randn(64, 10, **kind)
    sizes = [10, *[32] * depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(32, 2)).to(**kind)
    targets = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
    return Problem(model, x, targets, F.cross_entropy, optimizer(model.parameters()), steps=steps)


def trained(problem: Problem) -> float:
    """The loss of the batch after the planned steps, really taken."""
    model, optimizer = problem.build()
    assert optimizer is not None
    for _ in range(problem.steps or 0):
        optimizer.zero_grad()
        problem.loss(model(problem.inputs)).backward()
        optimizer.step()
    return problem.loss(model(problem.inputs)).item()


def sgd(lr: float, momentum: float = 0.0) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr, momentum=momentum)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("optimizer", "depth", "kind"),
    [
        (sgd(1e-8), 2, {}),
        (sgd(1e-8), 5, {}),
        (sgd(1e-9, 0.9), 2, {}),
        (sgd(1e-12), 2, {}),
        (sgd(1e-9), 2, {"dtype": torch.float64}),
        (lambda parameters: torch.optim.Adam(parameters, 1e-11), 2, {}),
    ],
)
def test_a_plan_that_moves_nothing_is_an_error(seed: int, optimizer: Any, depth: int, kind: dict[str, Any]) -> None:
    problem = classifier(seed, optimizer, depth, **kind)
    report = diagnose(problem)
    found = next(f for f in report.findings if f.code == "UV705")
    assert found.level == "error"
    assert trained(problem) == pytest.approx(report.loss.value, rel=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("depth", "steps", "lr"), [(2, 500, 0.1), (5, 1500, 0.1)])
def test_slow_starts_that_train_are_none(seed: int, depth: int, steps: int, lr: float) -> None:
    """Five layers stand for hundreds of steps where a constant would, and then learn."""
    problem = classifier(seed, sgd(lr), depth, steps)
    assert not [f for f in diagnose(problem).findings if f.code == "UV705" and f.level == "error"]
    assert trained(problem) < 0.3


def test_the_message_says_what_was_tried() -> None:
    problem = classifier(0, sgd(1e-9), 2)
    message = next(f.message for f in diagnose(problem).findings if f.code == "UV705")
    assert "All the planned steps together change no layer by more than 10^-7" in message
    assert "10,000 of the next one, tried in one go, lower the loss by 10^-" in message
    assert "was not shown" not in message
