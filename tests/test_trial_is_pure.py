"""A measure follows from objective, candidate, seed and steps alone: not from a cache, nor from the process."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.trials import Plan, measure, open_race
from unvanish.trials.train import AS_IS


class Noisy(nn.Module):
    """A layer that draws from torch and from Python in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Sigmoid())
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def rate(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def made() -> unvanish.Problem:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator)
    y = x.sum(1, keepdim=True)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return unvanish.Problem(Noisy, x, y, F.mse_loss, rate, batches, validation=(x, y), steps=160)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("candidate", [AS_IS, ("activation-tanh",), ("centred-init", "lr-10"), ("batchnorm",)])
def test_a_fresh_call_gives_bit_for_bit_what_going_on_gives(candidate: tuple[str, ...], seed: int) -> None:
    problem = made()
    race = open_race(problem, Plan(160, 4800, 1), unvanish.diagnose(problem))
    going_on = [race.reach(candidate, seed, steps, "") for steps in (10, 25, 40)]
    random.random()
    objective = race.copies.objective
    assert going_on == [measure(objective, candidate, seed, steps) for steps in (10, 25, 40)]
