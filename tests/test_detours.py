"""A start far above the best constant output: a note where real steps make good for it, else an error."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import zoo
from unvanish.evidence.regained import TRIED
from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


class Block(nn.Module):
    def __init__(self, width: int, gain: float, activation: type[nn.Module]) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width, width), activation(), nn.Linear(width, width))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.f(x)


def residual(seed: int, depth: int, gain: float, width: int, activation: type[nn.Module]) -> nn.Module:
    torch.manual_seed(seed)
    blocks = (Block(width, gain, activation) for _ in range(depth))
    return nn.Sequential(nn.Linear(10, width), *blocks, nn.Linear(width, 4))


def classes(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed + 100)
    x = torch.randn(128, 10)
    return x, (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)


def level_of(report: Report, code: str) -> str:
    return next((finding.level for finding in report.findings if finding.code == code), "")


def trained(model: nn.Module, x: Tensor, y: Tensor, rate: float, steps: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return float(F.cross_entropy(model(x), y).detach())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_residual_network_without_normalisation_that_trains_is_no_error(seed: int) -> None:
    x, y = classes(seed)
    model = residual(seed, 24, 5.0, 32, nn.ReLU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = diagnose(Problem(model, x, y, F.cross_entropy, lambda p: torch.optim.Adam(p, 1e-3), steps=300))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert level_of(report, "UV202") == "note" and not [f for f in report.findings if f.level == "error"]
    loss, step = report.loss, report.step
    assert loss is not None and loss.best_constant is not None and loss.value > 100 * loss.best_constant
    assert step is not None and step.regained_after in TRIED and step.regained is not None
    assert max(step.regained, trained(model, x, y, 1e-3, step.regained_after)) < loss.best_constant
    assert f"{step.regained_after} real steps of Adam" in str(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_does_not_come_back_is_one(seed: int) -> None:
    x, y = classes(seed)
    model = residual(seed, 40, 10.0, 32, nn.LeakyReLU)
    report = diagnose(Problem(model, x, y, F.cross_entropy, lambda p: torch.optim.Adam(p, 1e-2), steps=300))
    assert level_of(report, "UV202") == "error"
    assert report.loss is not None and report.loss.best_constant is not None
    assert trained(model, x, y, 1e-2, 300) > report.loss.best_constant


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_of_exactly_zero_shows_nothing(seed: int) -> None:
    """N(0, 1) weights: the batch is told apart by outputs of 10^10, of which the softmax sees the largest alone."""
    report = diagnose(zoo.get("exploding-relu-12").build(seed))
    assert level_of(report, "UV202") == "error" and report.step is not None and report.step.regained == 0.0
    assert "a loss of exactly 0" in str(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_an_optimizer_the_growth_is_an_error(seed: int) -> None:
    x, y = classes(seed)
    report = diagnose(Problem(residual(seed, 24, 5.0, 32, nn.ReLU), x, y, F.cross_entropy))
    assert level_of(report, "UV202") == "error" and "tried on this batch" not in str(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_descent_that_leaves_the_finite_numbers(seed: int) -> None:
    x, y = classes(seed)
    model = residual(seed, 24, 5.0, 32, nn.ReLU)
    report = diagnose(Problem(model, x, y, F.cross_entropy, lambda p: torch.optim.SGD(p, 1e-2)))
    assert level_of(report, "UV202") == level_of(report, "UV704") == "error"
    assert report.step is not None and report.step.regained == math.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_first_steps_too_far_that_later_ones_make_good(seed: int) -> None:
    """Linear blocks: the loss rises fivefold within six steps of Adam and is below the best constant after tens."""
    x, y = classes(seed)
    model = residual(seed, 6, 5.0, 64, nn.Identity)
    report = diagnose(Problem(model, x, y, F.cross_entropy, lambda p: torch.optim.Adam(p, 1e-2), steps=1000))
    assert level_of(report, "UV704") == "note" and report.loss is not None and report.loss.best_constant is not None
    assert trained(model, x, y, 1e-2, 200) < report.loss.best_constant


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.softplus(self.mix(x))


def softplus_chain(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Thirteen blocks whose first steps of Adam throw the loss up, on most seeds."""
    torch.manual_seed(seed)
    x = torch.randn(64, 6)
    y = (torch.tanh(x @ torch.randn(6, 8)) @ torch.randn(8, 4))[:, :1]
    return nn.Sequential(nn.Linear(6, 64), *(Beside() for _ in range(13)), nn.Linear(64, 1)), x, y


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_that_overshoot_and_then_learn_are_no_error(seed: int) -> None:
    model, x, y = softplus_chain(seed)
    report = diagnose(Problem(model, x, y, F.mse_loss, lambda p: torch.optim.Adam(p, 2e-3), steps=1000))
    assert not [f for f in report.findings if f.level == "error"]
    step = report.step
    assert step is not None and report.loss is not None
    if step.walked is not None and step.walked > step.loss:
        assert level_of(report, "UV704") == "note"
        assert step.regained is not None and step.regained < step.loss


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_that_overshoot_and_go_on_doing_so_are_one(seed: int) -> None:
    model, x, y = softplus_chain(seed)
    report = diagnose(Problem(model, x, y, F.mse_loss, lambda p: torch.optim.Adam(p, 0.5), steps=1000))
    assert "error" in {f.level for f in report.findings if f.code in ("UV704", "UV505")}
