"""J v through layer and batch norms, against torch's own second derivative and the dense Jacobian in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.evidence.gauss_newton import GaussNewton
from unvanish.evidence.normalisers import PushedNorms
from unvanish.evidence.output_loss import OutputLoss, loss_of_outputs
from unvanish.flow.look import looking

SEEDS = range(3)


def drawn(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like)


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer": (lambda: nn.LayerNorm(6), (5, 6)),
    "layer over two axes": (lambda: nn.LayerNorm([4, 6]), (3, 4, 6)),
    "layer without weights": (lambda: nn.LayerNorm(6, elementwise_affine=False), (2, 5, 6)),
    "layer without a bias": (lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "batch": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch of images": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 5)),
    "batch without weights": (lambda: nn.BatchNorm1d(6, affine=False), (5, 6, 4)),
    "batch without a past": (lambda: nn.BatchNorm1d(6, track_running_stats=False), (5, 6)),
    "batch in eval mode": (lambda: nn.BatchNorm1d(6).eval(), (5, 6)),
}


def products(norm: nn.Module, x: Tensor, seed: int) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Of tanh(x W) normalised: the result, Jᵀu, J v one parameter at a time, and J of all of them at once."""
    weight = drawn(x.new_empty(x.shape[-1], x.shape[-1]), seed).requires_grad_()
    given = [weight, *norm.parameters()]
    made = norm(torch.tanh(x @ weight))
    dual = torch.zeros_like(made, requires_grad=True)
    pulled = torch.autograd.grad(made, given, dual, create_graph=True)
    with torch.no_grad():
        u = drawn(made, seed + 1)
    back = torch.autograd.grad(made, given, u, retain_graph=True)
    moves = [drawn(p, seed + 2 + k) for k, p in enumerate(given)]
    one = [torch.autograd.grad(j, dual, v, retain_graph=True)[0] for j, v in zip(pulled, moves, strict=True)]
    return made, [g.detach() for g in back], one, torch.autograd.grad(pulled, dual, moves)[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NORMS)
def test_they_give_what_torchs_own_second_derivative_does(name: str, seed: int) -> None:
    make, shape = NORMS[name]
    norm = make().double()
    with torch.no_grad():
        for k, parameter in enumerate(norm.parameters()):
            parameter.copy_(drawn(parameter, seed + 20 + k) + 1.0)
    other, x = copy.deepcopy(norm), drawn(torch.empty(shape, dtype=torch.float64), seed + 10)
    right = products(norm, x, seed)
    with PushedNorms():
        found = products(other, x, seed)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(other.state_dict(), norm.state_dict(), rtol=0.0, atol=0.0)


def network(seed: int) -> Problem:
    torch.manual_seed(seed)
    parts = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)
    x = torch.randn(8, 4, dtype=torch.float64)
    return Problem(nn.Sequential(*parts).double(), x, torch.arange(8) % 3, F.cross_entropy)


def product(problem: Problem) -> tuple[GaussNewton, list[nn.Parameter]]:
    model: Any = problem.model
    with looking(problem, model) as look:
        loss = loss_of_outputs(problem, look.capture)
        assert isinstance(loss, OutputLoss)
        return GaussNewton(look, loss, list(model.parameters())), list(model.parameters())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_is_pushed_as_its_dense_jacobian_says(seed: int) -> None:
    problem = network(seed)
    model: Any = problem.model
    made, parameters = product(problem)
    v = [drawn(p, seed + k) for k, p in enumerate(parameters)]
    names = [name for name, _ in model.named_parameters()]

    def outputs(*given: Tensor) -> Tensor:
        return torch.func.functional_call(copy.deepcopy(model), dict(zip(names, given, strict=True)), problem.inputs)

    dense = torch.autograd.functional.jacobian(outputs, tuple(p.detach() for p in parameters))
    right = sum((j.flatten(2) @ t.flatten() for j, t in zip(dense, v, strict=True)), torch.zeros(8, 3).double())
    torch.testing.assert_close(made.jvp(v), [right], rtol=1e-9, atol=1e-11)
    assert made.is_whole(v, [right])


@pytest.mark.parametrize("power", [0, 40])
def test_the_pass_back_that_gives_the_gradient_gives_the_pushes_too(power: int) -> None:
    """Asked for first, the gradient is that of autograd, and J v what it is without it."""
    problem = network(0)
    first, parameters = product(problem)
    other, _ = product(problem)
    v = [drawn(p, k) for k, p in enumerate(parameters)]
    right = torch.autograd.grad(problem.loss(problem.outputs(problem.model)), parameters)  # type: ignore[arg-type]
    found = first.gradient(power)
    pushed = other.jvp(v)
    torch.testing.assert_close(found, [2.0**power * g for g in right], rtol=1e-9, atol=2.0**power * 1e-12)
    torch.testing.assert_close(first.jvp(v), pushed, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other.gradient(power), found, rtol=1e-9, atol=2.0**power * 1e-12)


def test_several_directions_at_once_give_what_each_gives_alone() -> None:
    made, parameters = product(network(0))
    sides = [[drawn(p, 9 * k + n) for n, p in enumerate(parameters)] for k in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no rule to batch some kernels
        together = made._pushed_at_once(sides)  # pyright: ignore[reportPrivateUsage]
    for side, (moved, bent) in zip(sides, together, strict=True):
        torch.testing.assert_close(moved, made.jvp(side), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(bent, made.hvp(moved), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["autocast", "half", "vmap"])
def test_what_the_kernels_do_not_take_stays_torchs_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other precisions, and what runs inside torch.func."""
    norm, x = nn.LayerNorm(4), torch.randn(3, 4)
    monkeypatch.setattr("unvanish.evidence.normalisers._Normed.apply", None)

    def run() -> Tensor:
        if kind == "vmap":
            return torch.func.vmap(norm)(x)
        if kind == "half":
            return norm.to(torch.bfloat16)(x.to(torch.bfloat16))
        with torch.autocast("cpu", torch.bfloat16):
            return norm(x)

    right = run()
    with PushedNorms():
        assert torch.equal(run(), right)
