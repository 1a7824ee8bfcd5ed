"""The gradient flows and training fails all the same: the targets, the outputs or the learning rate do not fit."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits
from unvanish.zoo.mlps import stack

SGD = torch.optim.SGD


def sgd_digits(lr: float, steps: int) -> Problem:
    """A healthy network with SGD at the given rate."""
    model = stack(3, 64, "ReLU", "he")
    return replace(digits(model, lr=None), optimizer=SGD(model.parameters(), lr=lr), steps=steps)


def ill_conditioned() -> Problem:
    """Two weights, curvatures 1 and 10⁻⁵, and all of the error left in the flat direction: SGD is near its limit."""
    model = nn.Linear(2, 1, bias=False)
    inputs = torch.randn(256, 2)
    inputs = torch.linalg.qr(inputs)[0] * 16.0  # columns are orthogonal with mean square 1
    inputs = inputs * torch.tensor([1.0, 10**-2.5])
    wanted = torch.tensor([[1.0, 1000.0]])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.9999, 0.0]]))
    return Problem(
        model=model,
        inputs=inputs,
        targets=inputs @ wanted.T,
        loss_fn=F.mse_loss,
        optimizer=SGD(model.parameters(), lr=0.9),
    )


def plateau() -> Problem:
    """Least squares on targets that have nothing to do with the inputs: as good as it gets is the mean."""
    model = nn.Linear(3, 1)
    inputs, targets = torch.randn(512, 3), torch.randn(512, 1)
    extended = torch.cat([inputs, torch.ones(512, 1)], dim=1).double()  # float32 would depend on memory alignment
    best = torch.linalg.lstsq(extended, targets.double()).solution
    with torch.no_grad():
        model.weight.copy_(best[:3].T)
        model.bias.copy_(best[3])
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model))


def output_range() -> Problem:
    """Targets of 15 to 35 for a sigmoid, which ends at 1."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    inputs = torch.randn(128, 4)
    targets = 25.0 + 10.0 * torch.tanh(inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model))


def output_scale() -> Problem:
    """Targets around 1,000 for a network that starts near 0 and moves by 0.001 a step."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    inputs = torch.randn(128, 4)
    targets = 1e3 * (1.0 + torch.tanh(inputs.sum(1, keepdim=True)))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model), steps=1000)
