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


class Product(nn.Module):
    """a·b, from a = b = 0.01: the loss ½ (ab - 1)² lies at a saddle, which descent leaves exponentially."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.first.weight, 0.01)
        nn.init.constant_(self.second.weight, 0.01)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs))


def half_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.5 * F.mse_loss(outputs, targets)


@pytest.mark.parametrize("rate", [0.01, 0.02])
@pytest.mark.parametrize(("planned", "expected"), [(800, ""), (250, "note"), (30, "error")])
def test_a_pace_that_grows_exponentially_is_judged_by_its_growth(rate: float, planned: int, expected: str) -> None:
    # u = ab follows u' = 2 u (1 - u) in units of the rate: a tenth of the loss is left at u = 0.684, after 5.0 / rate,
    # 500 or 250, steps; at the pace of the first, the rate times 2e-4 of ½, half a million and a quarter
    model, planned = Product(), round(planned * 0.01 / rate)
    inputs = torch.tensor([[1.0], [-1.0]])
    optimizer = torch.optim.SGD(model.parameters(), rate)
    of = unvanish.Problem(model, inputs, inputs, half_square, optimizer, steps=planned)
    assert level(of) == expected
    for _ in range(planned):
        optimizer.zero_grad()
        half_square(model(inputs), inputs).backward()
        optimizer.step()
    assert (half_square(model(inputs), inputs).item() < 0.05) == (expected == "")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_longer_steps_by_chance_are_no_growth(seed: int) -> None:
    from unvanish.rules.pace import grown

    facts = unvanish.diagnose(problem(seed, lambda p: torch.optim.SGD(p, 1e-7))).flow.step
    assert facts is not None
    assert grown(facts.replace(lengths=(1.0, 1.3, 1.2, 1.4, 1.5, 1.6))) == pytest.approx(1.6)  # one pair of fifteen
    assert grown(facts.replace(lengths=(1.0, 1.3, 1.2, 1.5, 1.4, 1.6))) == 1.0  # two pairs
    assert grown(facts.replace(lengths=(1.0, 1.2, 1.4))) == 1.0  # one order of six


class NoisyOr(nn.Module):
    """Each sample is a bag of 200, which is one of its kind where any of them is."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = torch.sigmoid(self.f(x)[..., 0] - 4.0)
        return (1.0 - (1.0 - each).prod(1)).clamp(1e-6, 1.0 - 1e-6)


@pytest.mark.parametrize(("rate", "expected"), [(1e-2, "note"), (1e-6, "error")])
@pytest.mark.parametrize("seed", range(2))
def test_steps_that_can_move_the_weights_by_their_size_are_not_too_short(seed: int, rate: float, expected: str) -> None:
    """A network that stands still beside the best constant won 0.38 and 0.18 in the 300 steps that were left."""
    torch.manual_seed(seed)
    inputs, model = torch.randn(96, 200, 5), NoisyOr()
    targets = (inputs[:, :, 0].amax(1) > 2.6).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.binary_cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = rate
    found = unvanish.Problem(model, inputs, targets, F.binary_cross_entropy, optimizer, steps=400)
    assert level(found) == expected
