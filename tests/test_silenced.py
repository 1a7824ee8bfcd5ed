"""Steps so long that they throw a network's units onto their flat side: the loss falls, to that of a constant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem

SEEDS = range(3)


def pixels(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.rand(256, 1, 12, 12)
    y = (x[:, 0, :6].mean((1, 2)) * 40).long() % 4
    return scale * x, y


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(),
        nn.Linear(32, 4),
    )  # fmt: skip


def after(model: nn.Module, x: Tensor, y: Tensor, rate: float, steps: int) -> tuple[float, list[bool]]:
    """The loss, and for each convolution whether any of its gradient is left."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    weights = [p for p in model.parameters() if p.ndim == 4]
    return float(loss.detach()), [bool(p.grad is not None and p.grad.any()) for p in weights]


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_that_silence_a_network_are_too_long(seed: int) -> None:
    x, y = pixels(seed, 255.0)
    report = diagnose(Problem(network(seed), x, y, F.cross_entropy, lambda p: torch.optim.SGD(p, 0.1), steps=300))
    finding = next(f for f in report.findings if f.code == "UV704")
    assert finding.level == "error"
    loss, heard = after(network(seed), x, y, 0.1, 100)
    assert not loss < 0.98 * F.cross_entropy(torch.zeros(256, 4).add(torch.bincount(y, minlength=4).log()), y)
    step = report.step
    assert step is not None and step.walked is not None
    if step.walked < step.loss:  # it has fallen, and says nothing more about the inputs
        assert not heard[0] and "0" in step.silenced
        assert "no better than a constant, and no gradient at all reaches" in finding.message


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_network_on_scaled_inputs_is_left_alone(seed: int) -> None:
    x, y = pixels(seed, 1.0)
    report = diagnose(Problem(network(seed), x, y, F.cross_entropy, lambda p: torch.optim.SGD(p, 0.1), steps=300))
    assert "UV704" not in {f.code for f in report.findings}
    assert report.step is not None and not report.step.silenced
