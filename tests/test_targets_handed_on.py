"""A model that hands a target on with its outputs: what no weight moves is no free output of the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem

SEEDS = range(3)


class HandsOn(nn.Module):
    """Gives what ``run(self, x)`` makes of its networks ``f`` and ``g``."""

    def __init__(self, run: Any, outputs: int) -> None:
        super().__init__()
        self.run = run
        self.f = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, outputs))
        self.g = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, outputs))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def bootstrapped(model: HandsOn, x: Tensor) -> Any:
    with torch.no_grad():
        best = model.g(x.flip(0)).amax(1)
    return model.f(x)[:, 0], 0.9 * best + x[:, 1]


def with_its_target(model: HandsOn, x: Tensor) -> Any:
    return {"made": model.f(x), "asked": x}


def problem(run: Any, outputs: int, loss: Any, seed: int, rows: int = 48) -> Problem:
    torch.manual_seed(seed)
    model = HandsOn(run, outputs)
    return Problem(model, torch.randn(rows, 4), torch.zeros(1), loss, torch.optim.Adam(model.parameters(), 1e-2))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [F.smooth_l1_loss, F.mse_loss, F.l1_loss])
def test_the_best_constant_is_that_of_the_free_output_alone(loss: Any, seed: int) -> None:
    asked = problem(bootstrapped, 3, lambda o, _: loss(o[0], o[1]), seed)
    report = diagnose(asked)
    assert isinstance(asked.model, nn.Module)
    target = asked.outputs(asked.model)[1]
    assert report.flow.loss is not None
    middle = target.median() if loss is F.l1_loss else target.mean()
    best = float(loss(middle.expand_as(target), target))
    found = report.flow.loss.best_constant
    # the mean is the best constant of the Huber loss only where no residual leaves its parabola
    assert found is not None and (found <= best * 1.001 if loss is F.smooth_l1_loss else found == pytest.approx(best))
    assert found > 0.5 * best
    assert not [f for f in report.findings if f.level == "error"]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_output_against_every_target_handed_on_is_said(seed: int) -> None:
    report = diagnose(problem(bootstrapped, 3, lambda o, _: (o[0][:, None] - o[1]).pow(2).mean(), seed))
    assert "UV708" in {f.code for f in report.findings if f.level == "error"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reconstruction_handed_on_with_its_inputs_has_a_scale(seed: int) -> None:
    asked = problem(with_its_target, 4, lambda o, _: F.mse_loss(o["made"], o["asked"]), seed)
    loss = look(asked).loss
    assert loss is not None and loss.relative_gap is not None and loss.best_constant is not None
    x = asked.inputs
    assert loss.best_constant == pytest.approx(float((x - x.mean(0)).pow(2).mean()), rel=1e-4)
    assert loss.best_free == pytest.approx(0.0, abs=1e-6)
