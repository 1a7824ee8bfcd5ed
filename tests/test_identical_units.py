"""Layers whose units all have the same weights and get the same gradient, and layers that only look like them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Report, diagnose
from unvanish.preserve import seeded

SEEDS = range(3)


def net(*sizes: int) -> nn.Sequential:
    hidden = [part for a, b in pairwise(sizes[:-1]) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-2], sizes[-1]))


def filled(model: nn.Sequential, value: float, places: tuple[int, ...]) -> nn.Sequential:
    for place in places:
        nn.init.constant_(model[place].weight, value)  # type: ignore[arg-type]
        nn.init.zeros_(model[place].bias)  # type: ignore[arg-type]
    return model


def check(
    model: nn.Module, seed: int, loss: Any = F.mse_loss, steps: int = 0, rate: float = 5e-3
) -> tuple[Report, float]:
    """After ``steps`` steps, and the loss then."""
    with seeded(seed):
        x = torch.randn(64, 6)
        y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] if loss is F.mse_loss else x[:, :4].argmax(1)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        return diagnose(model, x, y, loss, optimizer=optimizer, steps=1000), float(loss(model(x), y).detach())


def told(report: Report) -> list[tuple[str, ...]]:
    return [f.layers for f in report.findings if f.code == "UV408" and f.level == "error"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [0, 150])
def test_weights_of_one_number_stay_one_unit(seed: int, steps: int) -> None:
    """Drawn at random the same network learns what these never do."""
    with seeded(seed):
        same, drawn = filled(net(6, 16, 16, 1), 0.05, (0, 2, 4)), net(6, 16, 16, 1)
    report, stuck = check(same, seed, steps=steps)
    assert told(report) == [("0", "2")] and report.verdict == "identical"
    report, learned = check(drawn, seed, steps=steps)
    assert told(report) == [] and (not steps or learned < 0.3 * stuck)


def zero_head() -> nn.Module:
    return filled(net(6, 16, 4), 0.0, (2,))


def one_layer_of_equals() -> nn.Module:
    return filled(net(6, 16, 16, 1), 0.05, (0,))


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1))


def one_unit() -> nn.Module:
    return filled(net(6, 1, 1), 0.1, (0, 2))


RIGHT: list[tuple[Callable[[], nn.Module], Any]] = [
    (zero_head, F.cross_entropy),  # each class has targets of its own
    (one_layer_of_equals, F.mse_loss),  # the next layer weighs its units differently
    (lambda: filled(with_dropout(), 0.05, (0, 3)), F.mse_loss),  # chance tells the units apart
    (one_unit, F.mse_loss),
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", range(len(RIGHT)))
def test_equal_weights_that_learn_apart(case: int, seed: int) -> None:
    make, loss = RIGHT[case]
    with seeded(seed):
        model = make()
    assert told(check(model, seed, loss)[0]) == []
