"""Two trainings that differ in their activation alone. In both, the gradient of the first layer ends at the same size.

unvanish check examples/two_runs.py:vanished
unvanish check examples/two_runs.py:converged

Behind five layers of sigmoids it got lost on its way. Behind five of ReLUs nothing is left to learn.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

import unvanish

STEPS = 1200


def task() -> tuple[Tensor, Tensor]:
    """64 points of the plane, and half the sum and half the difference of their coordinates; shapes (64, 2)."""
    points = 2 * torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) - 1
    return points, torch.stack([points.sum(dim=1), points[:, 0] - points[:, 1]], dim=1) / 2


def network(activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [2, 32, 32, 32, 32, 32]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers, nn.Linear(32, 2))


def train(model: nn.Sequential) -> list[float]:
    """Gradient descent on all points; log10 of the norm of the first layer's weight gradient before each step."""
    points, wanted = task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = next(model.parameters())
    norms: list[float] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(points), wanted).backward()
        assert first.grad is not None
        norms.append(math.log10(float(first.grad.norm())))
        optimizer.step()
    return norms


def vanished() -> unvanish.Problem:
    return trained(nn.Sigmoid)


def converged() -> unvanish.Problem:
    return trained(nn.ReLU)


def trained(activation: type[nn.Module]) -> unvanish.Problem:
    model = network(activation)
    train(model)
    return unvanish.Problem(model, *task(), nn.functional.mse_loss)
