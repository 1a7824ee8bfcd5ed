"""Losses without a bound: what can be said of the layers is said first, and a saturated call before them is seen."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.report.sentences import called

SEEDS = range(4)


def mlp(*widths: int) -> nn.Sequential:
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Run(nn.Module):
    """Modules, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in parameters if p.requires_grad], 1e-3)


def generator(seed: int, sure: float, loss: Callable[[Tensor], Tensor], logits: bool = False) -> Problem:
    """A generator before a judge that is ``sure`` of itself: its logit lies that far below zero."""
    with seeded(seed):
        judge, noise, maker = mlp(4, 32, 1).requires_grad_(False), torch.randn(64, 8), mlp(8, 32, 4)
    last: Any = judge[-1]
    last.bias.fill_(-sure)
    model = Run(lambda net, z: net.judge(net.maker(z)) if logits else net.judge(net.maker(z)).sigmoid(),
                judge=judge, maker=maker)  # fmt: skip
    return Problem(model, noise, torch.zeros(64), lambda o, t: loss(o), adam)


def actor(seed: int, times: float, towards: float) -> Problem:
    """Actions in ±1 before a frozen critic that wants them at the end where they are (1) or at the other one (-1)."""
    with seeded(seed):
        net, x = mlp(6, 32, 2), torch.randn(64, 6)
    last: Any = net[-1]
    last.weight.data.mul_(0.01)
    last.bias.data.fill_(1.0)
    model = Run(lambda parts, x: torch.tanh(times * parts.net(x)), net=net)
    reward = torch.linspace(0.5, 1.0, 64)[:, None] * towards

    def act(parts: Any, x: Tensor) -> Tensor:
        return parts.critic(torch.tanh(times * parts.net(x)))

    critic = nn.Linear(2, 1, bias=False).requires_grad_(False)
    critic.weight.fill_(1.0)
    model = Run(act, net=net, critic=critic)
    return Problem(model, x, reward, lambda o, t: -(o * t).mean(), adam)


def errors(report: Any) -> set[str]:
    return {f.code for f in report.findings if f.level == "error"}


def policy(seed: int) -> Problem:
    with seeded(seed):
        x, reward, taken = torch.randn(64, 6), torch.randn(64), torch.randint(4, (64, 1))
        net = mlp(6, 32, 4)
    return Problem(net, x, (taken, reward), lambda o, t: -(o.log_softmax(-1).gather(1, t[0])[:, 0] * t[1]).mean(), adam)


def likelihood(seed: int) -> Problem:
    with seeded(seed):
        x, y, net = torch.randn(64, 6), torch.randn(64, 1), mlp(6, 32, 2)
    return Problem(
        net, x, y, lambda o, t: (o[:, 1:] + 0.5 * (t - o[:, :1]).square() * (-2 * o[:, 1:]).exp()).mean(), adam
    )


def sum_of_outputs(seed: int) -> Problem:
    with seeded(seed):
        net, x = mlp(6, 32, 1), torch.randn(64, 6)
    return Problem(net, x, torch.zeros(64), lambda o, t: o.sum(), adam)


def critic_of_wasserstein(seed: int) -> Problem:
    return generator(seed, 0.0, lambda o: -o.mean(), logits=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [policy, sum_of_outputs, critic_of_wasserstein])
def test_the_layers_come_first_and_the_loss_leaves_a_question_open(make: Callable[[int], Problem], seed: int) -> None:
    report = diagnose(make(seed))
    assert report.healthy and {layer.verdict for layer in report.layers} <= {"healthy", "frozen"}
    assert called(report) == "Healthy; one question open"
    text = str(report)
    assert text.startswith("Healthy; one question open: no fault was found")
    assert "no lower bound" in text


@pytest.mark.parametrize("seed", SEEDS)
def test_a_likelihood_that_may_be_negative_leaves_the_layers_healthy(seed: int) -> None:
    report = diagnose(likelihood(seed))
    assert report.healthy and called(report).startswith("Healthy")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sure", [9.0, 12.0, 15.0])
def test_a_judge_that_is_sure_saturates_the_loss_that_has_no_bound(sure: float, seed: int) -> None:
    report = diagnose(generator(seed, sure, lambda o: torch.log(1 - o).mean()))
    assert report.verdict == "saturated" and "UV304" in errors(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_judge_that_is_not_sure_does_not(seed: int) -> None:
    report = diagnose(generator(seed, 0.0, lambda o: torch.log(1 - o).mean()))
    assert not errors(report)
    # the logarithm makes up for the slope: nothing is lost
    report = diagnose(generator(seed, 12.0, lambda o: 2.0 * torch.log(o + 1e-30).mean().neg() - 100.0))
    assert "UV304" not in errors(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_actions_at_the_wrong_end_are_saturated_and_at_the_right_end_are_not(seed: int) -> None:
    wrong, right, free = (diagnose(actor(seed, *how)) for how in ((20.0, -1.0), (20.0, 1.0), (0.5, -1.0)))
    assert "UV304" in errors(wrong)
    assert "UV304" not in errors(right) | errors(free)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_flat_tail_of_a_loss_is_no_distance_to_go(seed: int) -> None:
    report = diagnose(generator(seed, 12.0, lambda o: F.softplus(-o).mean(), logits=True))
    assert "UV702" not in errors(report)
    assert report.output is not None and report.output.wanted is not None and 5.0 < report.output.wanted < 1e4
