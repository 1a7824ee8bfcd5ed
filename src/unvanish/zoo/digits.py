"""Most networks of the zoo classify MNIST digits: one place turns a model into such a problem."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unvanish.problem import Problem
from unvanish.zoo import mnist


def digits(
    model: nn.Module, *, count: int = 128, shape: tuple[int, ...] = (784,), lr: float | None = 1e-3, **more: Any
) -> Problem:
    """Cross-entropy over the ten digits, with Adam at ``lr`` (None: no optimizer). Each image is given as ``shape``."""
    images, labels = mnist.sample(count)
    return Problem(
        model=model,
        inputs=images.reshape(count, *shape),
        targets=labels,
        loss_fn=F.cross_entropy,
        optimizer=None if lr is None else adam(model, lr),
        **more,
    )


def adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Adam over the parameters that are trained."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)


def train(problem: Problem, steps: int) -> float:
    """Train the problem's own model on its batch; the loss before the last step."""
    model, optimizer = problem.build()
    assert optimizer is not None, "only a problem with an optimizer can be trained"
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(problem.outputs(model))
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
