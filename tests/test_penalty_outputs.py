"""Penalties that a model works out and gives beside its outputs: single numbers that do not fall below zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


class Penalised(nn.Module):
    def __init__(self, penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.head, self.penalty = nn.Linear(5, 24), nn.Linear(24, 3), penalty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.hidden(x))
        outputs = self.head(hidden)
        return outputs, self.penalty(hidden, outputs)


def off(hidden: Tensor, outputs: Tensor) -> Tensor:
    return F.relu(hidden.pow(2).mean() - 10.0)


def weights_of_few(hidden: Tensor, outputs: Tensor) -> Tensor:
    return hidden.pow(2).mean().view(1)


def entropy(hidden: Tensor, outputs: Tensor) -> Tensor:
    return -(F.softmax(outputs, -1) * F.log_softmax(outputs, -1)).sum(-1).mean()


def added(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], targets) + 0.1 * outputs[1].squeeze()


def rewarded(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], targets) - 0.1 * outputs[1].squeeze()


def report_of(penalty: Any, loss: Any, seed: int, steps: int = 0) -> Report:
    torch.manual_seed(seed)
    model, x = Penalised(penalty), torch.randn(45, 5)
    targets = x[:, :3].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), targets).backward()
        optimizer.step()
    return diagnose(Problem(model, x, targets, loss, optimizer))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("penalty", [off, weights_of_few])
def test_a_penalty_leaves_the_loss_its_scale(penalty: Any, seed: int) -> None:
    report = report_of(penalty, added, seed)
    assert report.verdict == "healthy" and not report.undecided
    assert report.loss is not None and report.loss.best_constant is not None
    torch.manual_seed(seed)
    Penalised(penalty)
    shares = torch.randn(45, 5)[:, :3].argmax(1).bincount(minlength=3).double() / 45
    assert report.loss.best_constant == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_has_learned_its_task_has_converged_beside_a_penalty_that_is_off(seed: int) -> None:
    assert report_of(off, added, seed, steps=1500).verdict == "converged"


def test_what_has_learned_its_task_and_still_pays_a_penalty_has_not_converged() -> None:
    report = report_of(weights_of_few, added, 0, steps=1500)
    assert report.loss is not None and report.loss.relative_gap is not None and report.loss.relative_gap > 1e-3
    assert report.verdict != "converged"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_number_that_the_loss_rewards_has_no_bound(seed: int) -> None:
    report = report_of(entropy, rewarded, seed)
    assert report.loss is not None and report.loss.relative_gap is None
    assert not [finding for finding in report.findings if finding.level == "error"]
