"""A fresh head over frozen features: its pace says nothing against the learning rate, that of a whole network does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem


def classifier(seed: int, frozen: bool) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    with seeded(seed):
        body = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        x = torch.randn(128, 8)
        return nn.Sequential(body.requires_grad_(not frozen), nn.Linear(64, 2)), x, (x[:, 0] * x[:, 1] > 0).long()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "rate"), [("SGD", 1e-2), ("SGD", 1e-3), ("SGD", 1e-5), ("Adam", 1e-3), ("Adam", 1e-6)]
)
def test_a_fresh_head_is_no_error_for_its_rate(kind: str, rate: float, seed: int) -> None:
    model, x, y = classifier(seed, frozen=True)

    def make(parameters: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, kind)([p for p in parameters if p.requires_grad], rate)

    report = diagnose(Problem(model, x, y, F.cross_entropy, make))
    assert report.healthy, report


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "rate"), [("SGD", 1e-5), ("Adam", 1e-8)])
def test_for_a_network_that_trains_as_a_whole_it_is_one(kind: str, rate: float, seed: int) -> None:
    model, x, y = classifier(seed, frozen=False)
    report = diagnose(Problem(model, x, y, F.cross_entropy, lambda p: getattr(torch.optim, kind)(p, rate)))
    assert report.verdict == "lr_too_small" and not report.healthy
