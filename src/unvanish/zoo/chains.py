"""One neuron a layer: the vanishing gradient that can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unvanish.problem import Problem


def chain(depth: int, weight: float = 0.17) -> Problem:
    """σ(w σ(w … σ(w x))) with x = 1 and ½ (y − 0)² as loss: each step back multiplies by w σ′(z) < w / 4."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(1, 1, bias=False)
        nn.init.constant_(linear.weight, weight)
        layers += [linear, nn.Sigmoid()]
    return Problem(
        model=nn.Sequential(*layers), inputs=torch.ones(1, 1), targets=torch.zeros(1, 1), loss_fn=half_squared_error
    )


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ Σ (y − t)², averaged over samples."""
    return 0.5 * (outputs - targets).square().sum() / len(outputs)
