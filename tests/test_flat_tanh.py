"""Tanh units that a bias of 6 holds on their flat end, under plain SGD: nothing is learned through them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish


def network(seed: int, depth: int, bias: float) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for k in range(depth):
        layer = nn.Linear(32 if k else 10, 32)
        nn.init.constant_(layer.bias, bias)
        parts += [layer, nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(32, 4))


def data(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed + 50)
    x = torch.randn(128, 10)
    return x, (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("depth", "bias"), [(1, 6.0), (2, 6.0), (2, -6.0)])
def test_flat_units_are_an_error_at_any_scale_of_the_loss(depth: int, bias: float, scale: float) -> None:
    model, (x, y) = network(0, depth, bias), data(0)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return scale * F.cross_entropy(out, y)

    optimizer = torch.optim.SGD(model.parameters(), 0.1 / scale)
    report = unvanish.diagnose(model, x, y, loss, optimizer=optimizer)
    levels = {finding.code: finding.level for finding in report.findings}
    assert levels["UV101"] == levels["UV304"] == "error" and not report.healthy
    assert report.layers[0].verdict == "vanished"
    values = []
    for _ in range(301):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()) / scale)
    assert report.loss is not None and report.loss.best_constant is not None
    constant = report.loss.best_constant / scale
    assert values[-1] > 0.99 * constant  # training agrees: no better than a constant


@pytest.mark.parametrize("seed", range(2))
def test_units_in_the_middle_of_their_range_are_quiet(seed: int) -> None:
    model, (x, y) = network(seed, 2, 0.0), data(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer).findings == ()
