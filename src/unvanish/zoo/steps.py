"""Healthy networks whose optimizer's step does not arrive or goes astray: lost to rounding or decay, or uphill."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import digits, train
from unvanish.zoo.mlps import stack


def wide_entropy(scale: float, outputs: Tensor, targets: Tensor) -> Tensor:
    """scale · cross-entropy in float32, whatever the outputs' type."""
    return scale * F.cross_entropy(outputs.float(), targets)


def sixteen_bits(dtype: str, optimizer: str, lr: float, scale: float = 1.0, **options: float) -> Problem:
    """Weights held in a type of 16 bits, without a copy in float32; the loss times ``scale``."""
    kind = getattr(torch, dtype)
    model = stack(3, 64, "ReLU", "he").to(kind)
    problem = digits(model, lr=None)
    stepped_by = getattr(torch.optim, optimizer)(model.parameters(), lr=lr, **options)
    return replace(problem, inputs=problem.inputs.to(kind), loss_fn=partial(wide_entropy, scale), optimizer=stepped_by)


def signs(decoupled: bool | None = None, decay: float = 0.3, lr: float = 0.1, steps: int = 1000) -> Problem:
    """The sign of the sum of four inputs; trained for so many steps with the given weight decay."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    kind = torch.optim.AdamW if decoupled else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=lr, weight_decay=decay)
    problem = Problem(
        model=model, inputs=inputs, targets=(inputs.sum(1) > 0).long(), loss_fn=F.cross_entropy, optimizer=optimizer
    )
    train(problem, steps)
    return problem


def left_out(held: int) -> Problem:
    """An optimizer that holds one layer of two."""
    problem = signs(decay=0.0, steps=0)
    assert isinstance(problem.model, nn.Sequential)
    return replace(problem, optimizer=torch.optim.Adam(problem.model[held].parameters(), 1e-3))


class Ascent(torch.optim.Optimizer):
    """Plain descent with the minus forgotten."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=group["lr"])


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:  # type: ignore[override]
        return -signal


class Turned(nn.Module):
    """The identity, with a backward pass of the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        return _Turned.apply(x)  # type: ignore[return-value]


def ascent(lr: float = 0.1) -> Problem:
    """A healthy network whose optimizer adds the gradient."""
    problem = digits(stack(3, 64, "ReLU", "he"), lr=None)
    assert isinstance(problem.model, nn.Module)
    return replace(problem, optimizer=Ascent(problem.model.parameters(), lr))


def turned(lr: float = 0.1) -> Problem:
    """A healthy network behind which a custom function turns the gradient around."""
    model = nn.Sequential(*stack(3, 64, "ReLU", "he"), Turned())
    return replace(digits(model, lr=None), optimizer=torch.optim.SGD(model.parameters(), lr))
