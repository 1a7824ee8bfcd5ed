"""A measure follows from objective, candidate, seed and steps alone: not from a cache, nor from the process."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.records import to_builtins
from unvanish.trials import Plan, measure, open_race
from unvanish.trials.train import AS_IS


class Noisy(nn.Module):
    """A network that draws from torch, numpy and Python in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Sigmoid())
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        noise = 0.1 * random.random() + 0.1 * numpy.random.rand() if self.training else 0.0
        return self.head(self.layers(x)) + noise


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
    objective = race.copies.objective
    assert going_on == [measure(objective, candidate, seed, steps) for steps in (10, 25, 40)]


ELSEWHERE = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from unvanish.records import to_builtins
from unvanish.trials import measure
with open(sys.argv[2], "rb") as file:
    objective, jobs = pickle.load(file)
results = [to_builtins(measure(objective, *job)) for job in jobs]
with open(sys.argv[2], "wb") as file:
    pickle.dump(results, file)
"""


def test_another_process_gives_bit_for_bit_the_same(tmp_path: Path) -> None:
    problem = made()
    race = open_race(problem, Plan(160, 4800, 1), unvanish.diagnose(problem))
    jobs = [(c, seed, 40) for c in (AS_IS, ("activation-tanh",), ("batchnorm",)) for seed in range(2)]
    file = tmp_path / "trials.pickle"
    file.write_bytes(pickle.dumps((race.copies.objective, jobs)))
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(Path(__file__).parent), str(file)], check=True)
    assert pickle.loads(file.read_bytes()) == [to_builtins(race.reach(*job, "")) for job in jobs]
