"""Growth inside normalised layers: its number against exact Jacobians in float64, and when it is a finding."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.problem import Problem
from unvanish.report import Report
from unvanish.rules.uv203_normalised_growth import Growth, growth

SEEDS = range(3)


class Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def stacked(depth: int, seed: int, width: int = 16, residual: bool = False) -> Problem:
    torch.manual_seed(seed)

    def block() -> list[nn.Module]:
        return [Branch(width)] if residual else [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]

    model = nn.Sequential(nn.Linear(4, width), *(part for _ in range(depth) for part in block()), nn.Linear(width, 1))
    x = torch.randn(64, 4)
    return Problem(model, x, torch.tanh(x[:, :1] + x[:, 1:2]), F.mse_loss, torch.optim.Adam(model.parameters()))


def grown(problem: Problem) -> Growth:
    found = growth(unvanish.diagnose(problem, effort="full").flow)
    assert found is not None
    return found


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_growth_is_that_of_the_exact_jacobians_in_double(seed: int) -> None:
    problem = stacked(12, seed)
    found = grown(problem)
    model: Any = copy.deepcopy(problem.model).double()
    outputs = model(problem.inputs.double())
    effects = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == module.in_features:
            rows = [
                torch.autograd.grad(out, module.weight, retain_graph=True)[0].flatten() for out in outputs.flatten()
            ]
            effects[name] = math.log10(float(torch.stack(rows).norm() * module.weight.detach().norm()))
    exact = effects[found.strongest.name] - effects[found.weakest.name]
    assert found.decades == pytest.approx(exact, abs=0.35)  # four random directions stand for all outputs
    assert exact > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_neither_the_size_of_the_weights_nor_that_of_the_loss_changes_it(seed: int) -> None:
    before = growth(unvanish.diagnose(stacked(20, seed)).flow)
    problem = stacked(20, seed)
    model: Any = problem.model
    with torch.no_grad():
        model[4].weight.mul_(50.0)
        model[4].bias.mul_(50.0)
    after = growth(unvanish.diagnose(model, problem.inputs, problem.targets, scaled).flow)
    assert before is not None and after is not None
    assert after.decades == pytest.approx(before.decades, abs=0.02)


def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1e-5 * F.mse_loss(outputs, targets)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("depth", "width", "residual", "found"), [
    (60, 16, False, True), (60, 48, False, True), (20, 16, False, False), (20, 48, False, False), (60, 16, True, False),
])  # fmt: skip
def test_deep_stacks_are_named_and_shallow_or_residual_ones_are_not(
    depth: int, width: int, residual: bool, found: bool, seed: int
) -> None:
    report = unvanish.diagnose(stacked(depth, seed, width, residual))
    assert ("UV203" in codes(report)) is found
    assert found or "UV201" not in codes(report)
