"""A learning rate is judged by the pace to come: schedules, momentum, and optimizers that find their own rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR

import unvanish

SEEDS = range(3)
Of = Callable[[Any], torch.optim.Optimizer]


class OwnRate(torch.optim.SGD):
    """Descent that begins at a tiny rate and doubles it a step until its ``lr``: as those do that search for a rate."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["d"] = min(2.0 * state.get("d", 1e-6), 1.0)
                parameter.add_(parameter.grad, alpha=-group["lr"] * state["d"])


def problem(seed: int, of: Of) -> unvanish.Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    inputs = torch.randn(64, 10)
    targets = (inputs @ torch.randn(10, 1)).tanh()
    return unvanish.Problem(
        model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=of(model.parameters())
    )


def scheduled(optimizer: torch.optim.Optimizer, *by: Any) -> torch.optim.Optimizer:
    by[0](optimizer, *by[1:])
    return optimizer


def after(steps: int, optimizer: torch.optim.Optimizer, *by: Any) -> torch.optim.Optimizer:
    schedule = by[0](optimizer, *by[1:])
    for _ in range(steps):
        optimizer.step()  # without gradients no weight moves
        schedule.step()
    return optimizer


def level(of: unvanish.Problem) -> str:
    return next((finding.level for finding in unvanish.diagnose(of).findings if finding.code == "UV705"), "")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "of",
    [
        lambda p: scheduled(torch.optim.AdamW(p, 3e-4), LambdaLR, lambda t: min(1.0, (t + 1) / 100_000)),
        lambda p: scheduled(torch.optim.SGD(p, 0.1), LinearLR, 1e-6, 1.0, 500),
        lambda p: scheduled(torch.optim.SGD(p, 1.0), OneCycleLR, 0.5, 1000),
        lambda p: after(999, torch.optim.Adam(p, 1e-3), CosineAnnealingLR, 1000),
        lambda p: OwnRate(p, 0.5),
    ],
    ids=["warm-up", "from a millionth", "one cycle", "end of a cosine", "its own rate"],
)
def test_a_rate_that_is_still_to_come_is_not_too_small(seed: int, of: Of) -> None:
    assert level(problem(seed, of)) == ""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "of",
    [
        lambda p: scheduled(torch.optim.AdamW(p, 3e-9), LambdaLR, lambda t: min(1.0, (t + 1) / 10)),
        lambda p: scheduled(torch.optim.SGD(p, 1e-7), CosineAnnealingLR, 1000),
        lambda p: torch.optim.SGD(p, 1e-7, momentum=0.9),
        lambda p: torch.optim.SGD(p, 1e-9, momentum=0.9),
        lambda p: torch.optim.SGD(p, 1e-7, momentum=0.99, nesterov=True),
        lambda p: torch.optim.RMSprop(p, 1e-9, momentum=0.5),
    ],
    ids=["warm-up", "cosine", "momentum", "below rounding", "Nesterov", "RMSprop"],
)
def test_a_rate_too_small_is_named_under_a_schedule_and_with_momentum(seed: int, of: Of) -> None:
    assert level(problem(seed, of)) == "error"


@pytest.mark.parametrize("rate", [1e-9, 1e-7, 1e-5])  # at the first no weight moves in float32
@pytest.mark.parametrize("seed", SEEDS)
def test_steps_grow_as_momentum_says(seed: int, rate: float) -> None:
    facts = unvanish.diagnose(problem(seed, lambda p: torch.optim.SGD(p, 1e-7, momentum=0.9))).flow.step
    assert facts is not None and facts.scheduled == 1.0
    # with a gradient that hardly changes the k-th step is 1 + 0.9 + … + 0.9^(k-1) = (1 - 0.9^k) / 0.1 times the first
    expected = [(1.0 - 0.9**k) / 0.1 for k in range(1, 7)]
    assert [each / facts.lengths[0] for each in facts.lengths] == pytest.approx(expected, rel=5e-2)


def test_the_share_of_a_schedule_is_read_off_its_groups() -> None:
    of = problem(0, lambda p: scheduled(torch.optim.SGD(p, 1e-9), LinearLR, 1e-3, 1.0, 10))
    facts = unvanish.diagnose(of).flow.step
    assert facts is not None and facts.scheduled == pytest.approx(1e3)
