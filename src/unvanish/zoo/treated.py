"""Networks with one fault that one particular change removes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam


def broadcast_loss() -> Problem:
    """Outputs of shape (N, 1) for targets of shape (N,): the squared error compares each with each."""
    inputs = torch.randn(64, 6)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    targets = torch.sin(inputs[:, 0]) + 0.5 * inputs[:, 1]
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=_square, optimizer=adam(model, 1e-2))


def _square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean()


def decayed_adam(decay: float = 0.3) -> Problem:
    """The sine of a sum, under an Adam whose weight decay is added to the gradient."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=decay)
    targets = torch.sin(inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=optimizer)
