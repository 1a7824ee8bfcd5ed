"""Layers that a clamp in the loss leaves without any gradient, where moving what it is given would win; and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Report, diagnose

SEEDS = range(3)
Loss = Callable[[Any, Tensor], Tensor]


class Gaussian(nn.Module):
    """A mean and a log-variance; ``joined``: as two columns of one output."""

    def __init__(self, seed: int, start: float, joined: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 1)
        nn.init.constant_(self.spread.bias, start)
        self.joined = joined

    def forward(self, x: Tensor) -> Any:
        h = self.body(x).tanh()
        found = self.mean(h), self.spread(h)
        return torch.cat(found, 1) if self.joined else found


def likelihood(low: float, high: float) -> Loss:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        mean, spread = outputs.chunk(2, 1) if isinstance(outputs, Tensor) else outputs
        spread = spread.clamp(low, high)
        return 0.5 * (spread + (targets - mean).square() / spread.exp()).mean()

    return loss


def check(model: nn.Module, loss: Loss, scale: float = 1.0) -> Report:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(7))
    return diagnose(model, x, scale * x.sum(1, keepdim=True).sin(), loss)


def dead(report: Report, code: str = "UV301") -> tuple[str, ...]:
    return next((f.layers for f in report.findings if f.code == code and f.level == "error"), ())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("start", "low", "high"), [(-12.0, -10.0, 10.0), (-7.0, -5.0, 2.0), (6.0, -5.0, 2.0)])
def test_a_log_variance_outside_of_its_clamp_is_dead(
    start: float, low: float, high: float, joined: bool, seed: int
) -> None:
    """By hand: at a bound b the loss falls with it where the mean square of the rest is not exp(b)."""
    model = Gaussian(seed, start, joined)
    report = check(model, likelihood(low, high))
    assert dead(report) == ("spread",)
    (finding,) = (f for f in report.findings if f.code == "UV301")
    assert "clamp in the loss at" in finding.message and not finding.remedies
    x, adam = torch.randn(64, 6), torch.optim.Adam(model.parameters(), 1e-3)
    before = model.spread.weight.detach().clone()
    for _ in range(30):  # and a training does not bring it back
        adam.zero_grad()
        likelihood(low, high)(model(x), x.sum(1, keepdim=True).sin()).backward()
        adam.step()
    assert torch.equal(model.spread.weight, before)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("joined", [False, True])
def test_one_within_it_is_healthy(joined: bool, seed: int) -> None:
    assert not dead(check(Gaussian(seed, 0.0, joined), likelihood(-10.0, 10.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bound_that_the_loss_itself_asks_for_is_no_fault(seed: int) -> None:
    """Beyond the upper bound, with targets so large that the best variance lies beyond it: nothing is to be won."""
    report = check(Gaussian(seed, 6.0, False), likelihood(-5.0, 2.0), scale=100.0)
    assert not dead(report)


class Two(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).tanh()
        return self.first(h), self.second(h)


NOTHING_TO_WIN: dict[str, Loss] = {
    "a hinge that is kept": lambda o, t: F.mse_loss(o[0], t) + F.relu(o[1] - 9.0).mean(),
    "a weight of zero": lambda o, t: F.mse_loss(o[0], t) + 0.0 * F.mse_loss(o[1], t),
    "masked": lambda o, t: F.mse_loss(o[0], t) + (F.mse_loss(o[1], t, reduction="none") * torch.zeros(64, 1)).mean(),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", NOTHING_TO_WIN)
def test_what_the_loss_does_not_ask_for_is_not_dead(how: str, seed: int) -> None:
    report = check(Two(seed), NOTHING_TO_WIN[how])
    assert not dead(report) and not dead(report, "UV302")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_second_output_that_is_rounded_in_the_loss_can_never_learn(seed: int) -> None:
    report = check(Two(seed), lambda o, t: F.mse_loss(o[0], t) + F.mse_loss((4.0 * o[1]).round(), 4.0 * t))
    assert dead(report, "UV302") == ("second",) and not dead(report)
    (finding,) = (f for f in report.findings if f.code == "UV302")
    assert "round in the loss" in finding.message
    assert [(e.name, e.value) for e in finding.evidence] == [("log10_grad_norm", -math.inf)]
