"""Weights that are small throughout, with biases of zero: then every weight gets as little, and only a bias learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded


def net(depth: int, size: float, head: float, act: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(8, 32), act()]
    for _ in range(depth - 1):
        layers += [nn.Linear(32, 32), act()]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, head if layer is model[-1] else size)
            nn.init.zeros_(layer.bias)
    return model


def trained(model: nn.Module, x: Tensor, y: Tensor, optimizer: Any, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return float(F.cross_entropy(model(x), y).detach())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("depth", "size", "head", "act", "vanishes"),
    [
        (8, 0.015, 0.015, nn.Tanh, True),
        (6, 0.02, 0.02, nn.ReLU, True),
        (3, 0.1, 0.1, nn.Tanh, False),
        (4, 0.25, 3e-3, nn.ReLU, False),  # a policy's last layer
        (4, 0.25, 0.01, nn.Tanh, False),
    ],
)
def test_small_weights_throughout_vanish_under_plain_descent(
    depth: int, size: float, head: float, act: type[nn.Module], vanishes: bool, seed: int
) -> None:
    with seeded(seed):
        model, x = net(depth, size, head, act), torch.randn(128, 8)
        y = (x @ torch.randn(8, 4)).argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer, steps=300)
    assert (report.verdict == "vanished") == vanishes and report.healthy != vanishes
    assert report.loss is not None and report.loss.best_constant is not None
    assert (trained(model, x, y, optimizer, 300) > 0.98 * report.loss.best_constant) == vanishes
