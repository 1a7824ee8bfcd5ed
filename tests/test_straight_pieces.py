"""Second derivatives of networks of straight pieces are named; those of others, and first derivatives, are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unvanish.pipeline import diagnose, look
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(2)


def slope(of: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(of.sum(), by, create_graph=True)[0]


def second(u: Tensor, x: Tensor) -> Tensor:
    return slope(slope(u, x), x)


def laplacian(u: Tensor, x: Tensor) -> Tensor:
    first = slope(u, x)
    return slope(first[:, 0], x)[:, :1] + slope(first[:, 1], x)[:, 1:]


class Residual(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Tensor], bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.make, self.bend = make, bend
        self.first, self.mid, self.head = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        x = given.clone().requires_grad_()
        u = self.head(self.bend(self.mid(self.bend(self.first(x)))))
        return self.make(u, x) + 1.0, u


def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return outputs[0].square().mean() + (outputs[1] - targets).square().mean()


def problem(make: Callable[[Tensor, Tensor], Tensor], bend: Callable[[Tensor], Tensor], seed: int) -> Problem:
    with seeded(seed):
        model, x = Residual(make, bend), torch.randn(32, 2)
    return Problem(model, x, x[:, :1].sin(), loss, torch.optim.Adam(model.parameters(), 1e-3))


def found(report: Report) -> list[tuple[str, str]]:
    return [(f.level, f.cause) for f in report.findings if f.code == "UV712"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [second, laplacian])
@pytest.mark.parametrize("bend", [torch.relu, nn.LeakyReLU(), nn.Hardtanh()])
def test_a_second_derivative_of_straight_pieces_is_an_error(
    bend: Callable[[Tensor], Tensor], make: Callable[[Tensor, Tensor], Tensor], seed: int
) -> None:
    report = diagnose(problem(make, bend, seed))
    assert [level for level, _ in found(report)] == ["error"] and report.verdict == "dead"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "bend"),
    [
        (second, torch.tanh),
        (laplacian, nn.SiLU()),
        (second, lambda h: torch.relu(h) ** 2),
        (slope, torch.relu),
        (lambda u, x: slope(slope(u, x).square(), x) + slope(u, x), torch.tanh),
    ],
    ids=["tanh", "silu", "squared relu", "first", "smooth"],
)
def test_others_are_quiet(
    make: Callable[[Tensor, Tensor], Tensor], bend: Callable[[Tensor], Tensor], seed: int
) -> None:
    assert not found(diagnose(problem(make, bend, seed)))


def test_a_zero_head_has_no_derivative_at_all_and_is_no_sign() -> None:
    given = problem(second, torch.relu, 0)
    with torch.no_grad():
        given.model.head.weight.zero_()  # type: ignore[union-attr]
    assert not found(diagnose(given))


def test_how_often_a_derivative_was_taken() -> None:
    flow = look(problem(lambda u, x: slope(second(u, x), x) + slope(u, x), torch.tanh, 0), "quick")
    assert [call.derivative for call in flow.calls if call.name == "grad"] == [1, 2, 3, 1]
