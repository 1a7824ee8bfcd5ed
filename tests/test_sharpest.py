"""The sharpest direction of the loss, against the eigenvalues of dense Hessians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_curvature import CLASSES, LOSSES, SEEDS, Attention, _Once, doubly, draw, float64, once_inside
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from unvanish import Problem
from unvanish.evidence.curvature import sharpest

__all__ = ["float64"]  # the fixture, for every test here too


def hessian(problem: Problem) -> Tensor:
    model: Any = problem.model
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [math.prod(s) for s in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = [v.reshape(s) for v, s in zip(flat.split(sizes), shapes, strict=True)]
        outputs = functional_call(model, dict(zip(names, parts, strict=True)), (problem.inputs,))
        assert problem.loss_fn is not None
        return problem.loss_fn(outputs, problem.targets)

    matrix = torch.autograd.functional.hessian(loss, torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert isinstance(matrix, Tensor)
    return matrix


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_the_sharpest_direction_is_the_largest_eigenvalue(
    make: Callable[[int], Problem], seed: int, scale: float
) -> None:
    problem = make(seed)
    loss_fn: Any = problem.loss_fn
    scaled = Problem(problem.model, problem.inputs, problem.targets, lambda o, t: loss_fn(o, t) * scale)
    exact = float(torch.linalg.eigvalsh(hessian(scaled))[-1])
    assert sharpest(scaled, scaled.model, seed) == pytest.approx(exact, rel=1e-2)  # type: ignore[arg-type]


class Weights(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1.0, 2.0, count))

    def forward(self, x: Tensor) -> Tensor:
        return self.w


@pytest.mark.parametrize(
    ("curvatures", "top"),
    [
        ((3.0, 2.0, -50.0), 3.0),  # |λ| is largest where the loss bends down: that limits no learning rate
        ((-50.0, -1.0, 0.5), 0.5),
        ((1.0, 1.0, 1.0), 1.0),
        ((7.0,), 7.0),
        ((1.0, 1e-8, 0.0), 1.0),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_directions_that_bend_down_do_not_count(curvatures: tuple[float, ...], top: float, seed: int) -> None:
    h = torch.tensor(curvatures)
    problem = Problem(Weights(len(h)), draw(4, 1), None, lambda w, _: 0.5 * (h * w**2).sum())
    assert sharpest(problem, problem.model, seed) == pytest.approx(top, rel=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "loss_fn", [lambda w, _: -w.pow(2).sum(), lambda w, _: w.sum(), lambda w, _: _Once.apply(w).sum()]
)
def test_without_a_direction_that_bends_up_there_is_no_limit(loss_fn: Any) -> None:
    problem = Problem(Weights(3), draw(4, 1), None, loss_fn)
    assert sharpest(problem, problem.model, 0) is None  # type: ignore[arg-type]


def test_attention() -> None:
    """The fused kernels have no second derivative; the plain one is taken instead."""
    problem = Problem(Attention(), draw(10, 5, 8), CLASSES, F.cross_entropy)
    with sdpa_kernel(SDPBackend.MATH):
        exact = float(torch.linalg.eigvalsh(hessian(problem))[-1])
    assert sharpest(problem, problem.model, 0) == pytest.approx(exact, rel=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [once_inside, doubly])
def test_a_hessian_of_which_a_part_is_missing_sets_no_limit(make: Callable[[], nn.Module]) -> None:
    problem = Problem(make(), draw(10, 2), draw(10, 1), F.mse_loss)
    assert sharpest(problem, problem.model, 0) is None  # type: ignore[arg-type]


def test_many_directions_of_nearly_the_same_curvature() -> None:
    h = torch.linspace(0.9, 1.0, 300)
    problem = Problem(Weights(300), draw(4, 1), None, lambda w, _: 0.5 * (h * w**2).sum())
    assert sharpest(problem, problem.model, 0) == pytest.approx(1.0, rel=1e-2)  # type: ignore[arg-type]
