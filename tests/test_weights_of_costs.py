"""Softmax outputs that weigh something and are compared with nothing; and outputs that are, which have to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish

SEEDS = range(2)


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5), nn.Softmax(1))


def fits(seed: int, beside: Callable[[Tensor], Any], loss: Callable[[Tensor, Any], Tensor]) -> bool:
    net, x = model(seed), torch.randn(128, 10)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    report = unvanish.diagnose(net, x, beside(x), loss, optimizer=optimizer)
    return "UV706" not in [finding.code for finding in report.findings]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("beside", "loss"),
    [
        (lambda x: torch.rand(len(x), 5) + 0.01, lambda w, p: -((w * p).sum(1)).log().mean()),
        (lambda x: x[:, :5], lambda w, c: (w * c).sum(1).mean()),
        (lambda x: 0.01 * x[:, :5], lambda w, r: -(w * r).sum(1).mean() / (w * r).sum(1).std()),
        (lambda x: x[:, :5].exp(), lambda w, c: (w * c).sum(1).square().mean()),
    ],
    ids=["likelihoods", "costs", "returns over their risk", "squares"],
)
def test_shares_that_weigh_something_fit(seed: int, beside: Any, loss: Any) -> None:
    assert fits(seed, beside, loss)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("far", [3.0, 1e4])
def test_shares_that_are_compared_with_far_targets_do_not(seed: int, far: float) -> None:
    assert not fits(seed, lambda x: far * x[:, :5], F.mse_loss)


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_that_a_loss_normalises_again_do_not(seed: int) -> None:
    assert not fits(seed, lambda x: x[:, :5].argmax(1), F.cross_entropy)
