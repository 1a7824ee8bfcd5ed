"""A training that is over at the loss of the best constant output, without a stationary point that would show it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS, STEPS = range(3), 500


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6))
        self.decode = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, -1)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp()), mean, log_variance


def looked(seed: int, beta: float, steps: int) -> tuple[Report, float]:
    """The report after so many of STEPS planned steps, and what is left of the variance of the inputs."""
    torch.manual_seed(seed)
    x, model = torch.randn(128, 3) @ torch.randn(3, 12), Autoencoder()

    def loss_fn(outputs: Any, targets: Tensor) -> Tensor:
        made, mean, log_variance = outputs
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
        return F.mse_loss(made, targets) + beta * divergence

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(model(x), x).backward()
        optimizer.step()
    left = float((F.mse_loss(model(x)[0], x) / x.var(0, unbiased=False).mean()).detach())
    return diagnose(Problem(model, x, x, loss_fn, optimizer, steps=STEPS)), left


def levels(report: Report) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_posterior_that_has_collapsed_is_noted_at_the_end(seed: int) -> None:
    report, left = looked(seed, 1000.0, STEPS)
    assert left > 0.95
    assert levels(report).get("UV402") == "note" and "500 planned steps have been taken" in str(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_before_the_end_it_is_not(seed: int) -> None:
    report, _ = looked(seed, 1000.0, STEPS // 2)
    assert "UV402" not in levels(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_uses_its_latent_numbers_is_left_alone(seed: int) -> None:
    report, left = looked(seed, 0.01, STEPS)
    assert left < 0.05
    assert "UV402" not in levels(report) and "error" not in levels(report).values()
