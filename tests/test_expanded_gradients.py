"""A sum sends one number back, expanded: what lies behind it in memory is no gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, diagnose
from unvanish.evidence.step import stepped
from unvanish.flow import adam


def summed(seed: int, share: float) -> Problem:
    """A teacher's outputs to match, the student's cut off; its weights get what a penalty on their sum sends back."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(64, 8), torch.randn(64, 4)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.detach(), targets) + share * sum(p.sum() for p in model.parameters())

    return Problem(model, x, y, loss, torch.optim.Adam(model.parameters(), 1e-3), steps=100)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 1e-3])
def test_the_next_step_is_that_of_the_number(seed: int, share: float) -> None:
    report = diagnose(summed(seed, share))
    assert not [f for f in report.findings if f.code == "UV505"]
    ratios = [a.update_to_weight_ratio for a in report.flow.layers]
    model, optimizer = summed(seed, share).build()
    assert optimizer is not None
    for layer, ratio in zip([m for m in model if isinstance(m, nn.Linear)], ratios, strict=True):  # type: ignore[arg-type]
        size = torch.cat([p.detach().reshape(-1) for p in layer.parameters()])
        moved = 1e-3 * len(size) ** 0.5 if share else 0.0  # Adam's first step is its rate, whatever the gradient
        assert ratio == pytest.approx(moved / size.norm().item(), rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 1e-3])
def test_real_steps_on_copies_are_those_of_a_training(share: float) -> None:
    problem = summed(0, share)
    model, optimizer = problem.build_all()
    assert optimizer is not None
    with stepped(problem, model, optimizer, 1.0, 3, 0):
        there = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()  # type: ignore[union-attr]
        problem.loss(model(problem.inputs)).backward()
        optimizer.step()  # type: ignore[union-attr]
    for mine, theirs in zip(there, model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_a_gradient_of_another_layout_becomes_the_parameters() -> None:
    parameter, one = torch.zeros(3, 4), torch.ones(())
    for gradient in (one.expand(3, 4), torch.arange(12.0).view(4, 3).t()):
        made = adam.laid_out(gradient, parameter)
        assert made.stride() == parameter.stride() and torch.equal(made, gradient)
    same = torch.ones(3, 4)
    assert adam.laid_out(same, parameter) is same
