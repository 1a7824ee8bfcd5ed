"""Trying other parameters: the loss at a moved point, and everything back in its place afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.capture import autocast
from unvanish.problem import Problem


@contextmanager
def put_back(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Yields copies of the parameters; whatever happens inside, their values are back bit for bit afterwards."""
    kept = [p.detach().clone() for p in parameters]
    try:
        yield kept
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)


def outputs_again(problem: Problem, model: nn.Module, seed: int) -> Any:
    """One more forward pass with the same random numbers (the same dropout masks)."""
    torch.manual_seed(seed)
    with autocast(problem, model):
        return problem.outputs(model)


def loss_again(problem: Problem, model: nn.Module, seed: int) -> Tensor:
    """The loss of one more forward pass with the same random numbers."""
    torch.manual_seed(seed)
    with autocast(problem, model):
        return problem.loss(problem.outputs(model))
