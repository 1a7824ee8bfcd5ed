"""Normalisers and softmaxes over one number: constants, also where rounding leaves something of a large one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import diagnose
from unvanish.report import Report


class Through(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(8, 16), nn.Linear(16, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.b(torch.relu(self.a(x))))


def report_of(model: nn.Module, x: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Report:
    return diagnose(model, x, targets, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3), steps=500)


def grouped(seed: int, groups: int, size: float) -> Report:
    torch.manual_seed(seed)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.GroupNorm(groups, 16), nn.Linear(16, 1))
    return report_of(model, size * x, 2.0 * x[:, :1] + x[:, 1:2], F.mse_loss)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1.0, 1e3, 1e5])
def test_a_group_of_one_number_is_dead_by_construction_at_any_size(seed: int, size: float) -> None:
    """Of numbers of 1,000, rounding leaves a gradient that looks like one."""
    found = next(f for f in grouped(seed, 16, size).findings if f.code == "UV302")
    assert found.level == "error" and found.layers == ("0",)
    assert "group_norm" in found.message


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_groups_of_four_are_not(seed: int, size: float) -> None:
    assert not [f for f in grouped(seed, 4, size).findings if f.code in ("UV301", "UV302")]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("function", "always"),
    [(lambda z: z.softmax(1), "always 1:"), (lambda z: z.log_softmax(1), "always 0, the log of 1:")],
)
def test_a_softmax_over_one_unit_is_said_to_be_a_constant(
    seed: int, function: Callable[[Tensor], Tensor], always: str
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(64, 8)
    report = report_of(Through(function), x, (x[:, :1] > 0.0).float(), F.mse_loss)
    found = next(f for f in report.findings if f.code == "UV302")
    assert f"A softmax over one number is a constant, {always}" in found.message


@pytest.mark.parametrize("seed", range(2))
def test_a_sigmoid_on_one_unit_and_other_blocks_are_not(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(64, 8)
    targets = (x[:, :1] > 0.0).float()
    sound = report_of(Through(torch.sigmoid), x, targets, F.binary_cross_entropy)
    assert not [f for f in sound.findings if f.code == "UV302"]
    stepped = report_of(Through(torch.round), x, targets, F.mse_loss)
    assert not any("softmax" in f.message for f in stepped.findings)
