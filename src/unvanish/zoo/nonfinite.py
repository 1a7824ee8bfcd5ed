"""Numbers that leave the range: not a number, infinite, or too small for the type."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits
from unvanish.zoo.mlps import stack


class Log(nn.Module):
    """The logarithm, of whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Exp(nn.Module):
    """The exponential as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Distance(nn.Module):
    """The Euclidean distance of an embedding to itself: a square root at exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        here = self.embed(x)
        return (here - here.flip(0).flip(0)).square().sum(dim=1).sqrt()


def log_of_negative() -> Problem:
    """The logarithm of a linear layer's output, about half of which is negative."""
    model = nn.Sequential(nn.Linear(8, 16), Log(), nn.Linear(16, 1))
    return Problem(
        model=model, inputs=torch.randn(32, 8), targets=torch.zeros(32, 1), loss_fn=F.mse_loss, optimizer=adam(model)
    )


def root_of_zero() -> Problem:
    """The forward pass is finite; the slope of the square root at 0 is not."""
    model = Distance()
    return Problem(
        model=model, inputs=torch.randn(32, 8), targets=torch.ones(32), loss_fn=F.mse_loss, optimizer=adam(model)
    )


def overflowing_exp() -> Problem:
    """Three exponentials on top of each other."""
    model = nn.Sequential(nn.Linear(8, 16), Exp(), nn.Linear(16, 16), Exp(), nn.Linear(16, 16), Exp(), nn.Linear(16, 1))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.ones_(layer.weight)
    return Problem(
        model=model, inputs=torch.rand(32, 8), targets=torch.zeros(32, 1), loss_fn=F.mse_loss, optimizer=adam(model)
    )


def scaled_loss(scale: float, half: bool = False, optimizer: str = "") -> Problem:
    """A healthy network whose loss is multiplied by a number, in float32 or in float16."""
    dtype = torch.float16 if half else torch.float32
    model = stack(4, 64, "ReLU", "he").to(dtype)
    problem = digits(model, lr=None)
    trained_by = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3) if optimizer else None
    loss_fn = partial(scaled_cross_entropy, scale)
    return replace(problem, inputs=problem.inputs.to(dtype), loss_fn=loss_fn, optimizer=trained_by)


def scaled_cross_entropy(scale: float, outputs: Tensor, targets: Tensor) -> Tensor:
    """scale · cross-entropy."""
    return scale * F.cross_entropy(outputs, targets)
