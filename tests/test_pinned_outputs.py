"""Outputs on a flat end: a softmax that gives one entry alone, one bounded output among several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.flow.slopes import pinned_rows
from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


def test_the_rows_of_a_softmax_by_hand() -> None:
    """Of four rows three are one entry alone; in the first it is to fall, in the second to rise, in the third another.

    Beside that entry the second is asked -2 of each of two others, which keeps it: 4 + 4; the first 1 + 1, the third 9.
    """
    logits = torch.tensor([[30.0, 0, 0], [0, 30.0, 0], [0, 0, 30.0], [0.0, 0, 0]], requires_grad=True)
    asked = torch.tensor([[1.0, 0, 0], [0, -2.0, 0], [-3.0, 0, 0], [0, 0, 0]])
    found = pinned_rows(torch.softmax(logits, -1).grad_fn, asked)
    assert found is not None
    assert found == pytest.approx((0.75, (1 + 1 + 9) / (1 + 1 + 4 + 4 + 9)))
    logs = pinned_rows(torch.log_softmax(logits, 1).grad_fn, asked)
    assert logs == pytest.approx((0.75, (1 + 9) / (1 + 4 + 9)))
    assert pinned_rows(torch.tanh(logits).grad_fn, asked) is None


class Policy(nn.Module):
    def __init__(self, end: Any, critic: bool) -> None:
        super().__init__()
        self.last = nn.Linear(32, 4)
        self.f = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), self.last)
        self.v = nn.Linear(6, 1) if critic else None
        self.end = end

    def forward(self, x: Tensor) -> Any:
        actions = self.end(self.f(x), -1)
        return actions if self.v is None else (actions, self.v(x).squeeze(-1))


def reinforced(end: Any, sharp: float, seed: int, critic: bool = False) -> Report:
    """A policy gradient on actions that the policy itself has taken; ``sharp`` multiplies its last weights."""
    torch.manual_seed(seed)
    model, x = Policy(end, critic), torch.randn(64, 6)
    with torch.no_grad():
        model.last.weight.mul_(sharp)
        shares = torch.softmax(model.f(x), -1)
    taken, gained, rows = torch.multinomial(shares, 1)[:, 0], torch.randn(64), torch.arange(64)

    def loss(outputs: Any, _: Any) -> Tensor:
        actions, values = outputs if critic else (outputs, None)
        policy = -(actions[rows, taken] * gained).mean()
        return policy if values is None else policy + F.mse_loss(values, gained)

    return diagnose(Problem(model, x, gained, loss, torch.optim.Adam(model.parameters(), 1e-3)))


def level(report: Report) -> str:
    return next((f.level for f in report.findings if f.code == "UV304"), "")


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("end", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_policy_that_always_takes_one_action_is_seen(seed: int, end: Any, critic: bool) -> None:
    report = reinforced(end, 1e5, seed, critic)
    assert level(report) == "error" and "one entry alone" in " ".join(str(report).split())


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("end", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_policy_that_tries_its_actions_is_not(seed: int, end: Any, critic: bool) -> None:
    assert not level(reinforced(end, 1.0, seed, critic))


@pytest.mark.parametrize("sharp", [1.0, 1e4])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sure_and_wrong_classifier_is_corrected_by_its_loss(seed: int, sharp: float) -> None:
    torch.manual_seed(seed)
    last = nn.Linear(32, 4)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), last, nn.LogSoftmax(-1))
    with torch.no_grad():
        last.weight.mul_(sharp)
    problem = Problem(model, torch.randn(64, 6), torch.arange(64) % 4, F.nll_loss)
    assert not level(diagnose(problem))


@pytest.mark.parametrize(("sharp", "expected"), [(1.0, ""), (1e6, "error")])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_bounded_output_among_several(seed: int, sharp: float, expected: str) -> None:
    """The mean action of a Gaussian policy ends in a tanh; a value and a deviation stand beside it."""

    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh())
            self.mean, self.value = nn.Linear(32, 2), nn.Linear(32, 1)
            self.log_std = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return torch.tanh(self.mean(h)), self.value(h), self.log_std.expand(len(x), 2)

    torch.manual_seed(seed)
    model, x = Actor(), torch.randn(64, 6)
    with torch.no_grad():
        model.mean.weight.mul_(sharp)
    taken, gained = 0.3 * torch.randn(64, 2), torch.randn(64, 1)

    def loss(outputs: Any, _: Any) -> Tensor:
        mean, value, log_std = outputs
        chance = torch.distributions.Normal(mean, log_std.exp()).log_prob(taken).sum(1, keepdim=True)
        return -(chance * gained).mean() + F.mse_loss(value, gained)

    report = diagnose(Problem(model, x, gained, loss, torch.optim.Adam(model.parameters(), 1e-3)))
    assert level(report) == expected


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    axes = (1, 2, 3)
    both = (outputs * targets).sum(axes)
    return (1 - (2 * both + 1e-5) / (outputs.sum(axes) + targets.sum(axes) + 1e-5)).mean()


@pytest.mark.parametrize("empty", [0, 2])
@pytest.mark.parametrize(("bias", "expected"), [(-25.0, "error"), (0.0, "")])
@pytest.mark.parametrize("seed", SEEDS)
def test_masks_that_are_all_background_under_a_dice_loss(seed: int, bias: float, expected: str, empty: int) -> None:
    """An empty mask that is got right has 10^5 times the gradient of the others: it asks no entry to leave its end."""
    torch.manual_seed(seed)
    last = nn.Conv2d(4, 1, 1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), last, nn.Sigmoid())
    with torch.no_grad():
        last.get_parameter("bias").fill_(bias)
    x = torch.randn(16, 1, 8, 8)
    masks = (x > 0.5).float()
    masks[:empty] = 0.0
    report = diagnose(Problem(model, x, masks, dice, torch.optim.Adam(model.parameters(), 1e-3), steps=200))
    assert level(report) == expected
    if expected:  # and the learning rate is not what is wrong
        assert report.verdict == "saturated" and all(f.code != "UV705" for f in report.findings)


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_that_are_sure_and_right_are_not_on_a_flat_end_by_mistake(seed: int) -> None:
    first = nn.Conv2d(1, 1, 1)
    model = nn.Sequential(first, nn.Sigmoid())
    torch.manual_seed(seed)
    x = torch.randn(16, 1, 8, 8)
    x += 0.2 * (x - 0.5).sign()
    masks = (x > 0.5).float()
    masks[:2] = 0.0  # two samples are wrong, whatever the network says of the others
    with torch.no_grad():
        first.weight.fill_(200.0)
        first.get_parameter("bias").fill_(-100.0)
    assert not level(diagnose(Problem(model, x, masks, dice, torch.optim.Adam(model.parameters(), 1e-3))))
