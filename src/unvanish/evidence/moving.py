"""Trying other parameters: the loss at a moved point, and everything back in its place afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.trace.capture import autocast
from unvanish.trace.structure import rebuild

Result = TypeVar("Result")


@contextmanager
def put_back(
    parameters: Sequence[nn.Parameter], copy_of: Callable[[Tensor], Tensor | None] = lambda _: None
) -> Iterator[list[Tensor]]:
    """Yields copies of the parameters; whatever happens inside, values and gradients are as before afterwards.

    ``copy_of``: gives a copy that is there already, which is then not made once more.
    """
    kept = [p.detach().clone() if (there := copy_of(p)) is None else there for p in parameters]
    gradients = [p.grad for p in parameters]
    try:
        yield kept
    finally:
        for parameter, before, gradient in zip(parameters, kept, gradients, strict=True):
            parameter.data.copy_(before)  # a graph that the user holds does not see what goes through .data
            parameter.grad = gradient


@contextmanager
def without_chance(model: nn.Module) -> Iterator[None]:
    """In eval mode, where dropout draws nothing and a batch normalisation mixes no samples."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def outputs_again(problem: Problem, model: nn.Module, seed: int) -> Any:
    """One more forward pass with the same random numbers (the same dropout masks); their generators stay put."""
    with seeded(seed), autocast(problem, model):
        return fresh(problem).outputs(model)


def loss_again(problem: Problem, model: nn.Module, seed: int) -> Tensor:
    """The loss of one more forward pass with the same random numbers."""
    with seeded(seed), autocast(problem, model):
        again = fresh(problem)
        return again.loss(again.outputs(model))


def pass_again(problem: Problem, model: nn.Module, seed: int) -> tuple[Any, float]:
    """The outputs with their graph, and the loss, of one more forward pass with the same random numbers."""
    with seeded(seed), autocast(problem, model):
        again = fresh(problem)
        outputs = again.outputs(model)
        with torch.no_grad():  # a loss may change its arguments in place
            return outputs, float(again.loss(rebuild(outputs, lambda t: t.detach().clone())))


def fresh(problem: Problem) -> Problem:
    """The problem on a copy of its batch: a forward pass that changes its inputs in place changes nothing after it."""
    again = copy.copy(problem)
    for name in ("inputs", "targets"):
        object.__setattr__(again, name, rebuild(getattr(problem, name), lambda t: t if t.requires_grad else t.clone()))
    return again


def or_none(run: Callable[[], Result]) -> Result | None:
    """What ``run`` gives; None where the pass cannot be made in that way, by which nothing is claimed."""
    try:
        return run()
    except torch.cuda.OutOfMemoryError:  # says nothing about the program
        raise
    except Exception:
        return None


def or_nan(run: Callable[[], Tensor | float]) -> float:
    """The number that ``run`` gives; nan where the moved weights make the pass itself fail (a loss may refuse nan)."""
    value = or_none(lambda: float(run()))
    return math.nan if value is None else value
