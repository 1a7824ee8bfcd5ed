"""Autoencoders that sample their code, one of which does not use it, and losses that stay that of a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import unvanish
from unvanish.preserve import seeded

SEEDS = range(3)


class Sampled(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.read, self.kind = nn.Sequential(nn.Linear(16, 32), nn.ReLU()), kind
        self.mean, self.spread = nn.Linear(32, 4), nn.Linear(32, 4)
        self.write = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Any:
        h = self.read(x)
        if self.kind == "distribution":
            mean, scale = self.mean(h), F.softplus(self.spread(h)) + 1e-4
            return self.write(Normal(mean, scale).rsample()), mean, scale
        mean, log_variance = self.mean(h), self.spread(h)
        code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.write(code), mean, torch.exp(0.5 * log_variance)


def weighed(beta: float) -> Callable[[Any, Tensor], Tensor]:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        made, mean, scale = outputs
        prior = Normal(torch.zeros_like(mean), torch.ones_like(scale))
        return F.mse_loss(made, targets) + beta * kl_divergence(Normal(mean, scale), prior).sum(1).mean()

    return loss


def train(model: nn.Module, x: Tensor, y: Tensor, loss: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()


def said(report: Any) -> list[Any]:
    return [finding for finding in report.findings if finding.code == "UV402"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["by hand", "distribution"])
@pytest.mark.parametrize("beta", [0.005, 2.0])
def test_a_code_that_says_nothing_about_its_input_is_named(seed: int, kind: str, beta: float) -> None:
    with seeded(seed):
        model, x = Sampled(kind), torch.randn(128, 3) @ torch.randn(3, 16)
        x = x / x.std()
        optimizer, loss = torch.optim.Adam(model.parameters(), 3e-3), weighed(beta)
        assert not said(unvanish.diagnose(model, x, x, loss, optimizer=optimizer))
        train(model, x, x, loss, optimizer, 500)
        report = unvanish.diagnose(model, x, x, loss, optimizer=optimizer, steps=500)
        _, mean, _ = model(x)
    assert (mean.std(0).max() < 0.1) == (beta > 1.0)  # of noise of size 1
    assert [(f.level, f.cause) for f in said(report)] == ([("note", "collapsed code")] if beta > 1.0 else [])
    assert report.healthy and ("collapsed onto the prior" in " ".join(str(report).split())) == (beta > 1.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learns", [False, True])
def test_a_loss_that_stays_that_of_a_constant_is_noted_and_no_code_made_up(seed: int, learns: bool) -> None:
    """With new dropout every step nothing is stationary; targets that have nothing to do with the inputs stay so."""
    with seeded(seed):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1))
        x = torch.randn(4096, 8)
        y = x[:, :1] if learns else torch.randn(4096, 1)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        train(model, x, y, F.mse_loss, optimizer, 150)
        report = unvanish.diagnose(model, x, y, F.mse_loss, optimizer=optimizer, steps=150)
    found = said(report)
    assert bool(found) == (not learns)
    assert all(finding.cause != "collapsed code" for finding in found)
