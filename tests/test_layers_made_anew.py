"""Layers that a pass makes anew never learn; what it makes on purpose, or keeps out of sight, may be meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem

SEEDS = range(3)
OUT_OF_SIGHT = "UV605"


class Program(nn.Module):
    """Two layers, and between them what ``middle`` does."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(8, width), nn.Linear(width, 1), middle
        self.kept = [nn.Linear(width, width)]
        self.own = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self, torch.tanh(self.first(x)))))


def anew(_: Program, h: Tensor) -> Tensor:
    return nn.Linear(h.shape[1], h.shape[1])(h)


def several(_: Program, h: Tensor) -> Tensor:
    return nn.Sequential(nn.Linear(h.shape[1], 8), nn.GELU(), nn.Linear(8, h.shape[1]))(h)


def convolved(_: Program, h: Tensor) -> Tensor:
    return nn.Conv1d(1, 1, 3, padding=1)(h.unsqueeze(1)).squeeze(1)


def normed(_: Program, h: Tensor) -> Tensor:
    return nn.LayerNorm(h.shape[1])(h)


def smoothed(_: Program, h: Tensor) -> Tensor:
    filter = nn.Conv1d(1, 1, 3, padding=1)
    filter.weight = nn.Parameter(torch.tensor([[[0.25, 0.5, 0.25]]]))
    filter.bias = None
    return filter(h.unsqueeze(1)).squeeze(1)


def kept(model: Program, h: Tensor) -> Tensor:
    return model.kept[0](h)


def when_first_needed(model: Any, h: Tensor) -> Tensor:
    if not hasattr(model, "late"):
        model.late = nn.Linear(h.shape[1], h.shape[1])
    return model.late(h)


def noisy(_: Program, h: Tensor) -> Tensor:
    return h + 0.1 * nn.Parameter(torch.randn(h.shape))


def frozen(_: Program, h: Tensor) -> Tensor:
    return nn.Linear(h.shape[1], h.shape[1]).requires_grad_(False)(h)


def owned(model: Program, h: Tensor) -> Tensor:
    return model.own(h)


def problem(middle: Callable[[Any, Tensor], Tensor], seed: int, optimizer: bool = True) -> Problem:
    with seeded(seed):
        model, x = Program(middle), torch.randn(32, 8)
        make = (lambda p: torch.optim.Adam(p, 1e-2)) if optimizer else None
        return Problem(model, x, torch.sin(2 * x[:, :1]), F.mse_loss, make)


def levels(this: Problem) -> list[str]:
    return [finding.level for finding in diagnose(this).findings if finding.code == OUT_OF_SIGHT]


def trained(this: Problem, steps: int = 200) -> float:
    with seeded(0):
        model, optimizer = this.build()
        assert optimizer is not None
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.mse_loss(model(this.inputs), this.targets)
            loss.backward()
            optimizer.step()
        return loss.item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("middle", [anew, several])
def test_a_layer_made_anew_is_an_error(middle: Any, seed: int) -> None:
    report = diagnose(problem(middle, seed))
    finding = next(f for f in report.findings if f.code == OUT_OF_SIGHT)
    assert finding.level == "error" and not report.healthy
    assert "each forward pass makes anew at" in finding.message and "test_layers_made_anew.py" in finding.message
    assert report.flow.next_step is not None and report.flow.next_step.anew == report.flow.next_step.outside


@pytest.mark.parametrize("optimizer", [True, False])
def test_also_a_kernel_and_without_an_optimizer(optimizer: bool) -> None:
    assert levels(problem(convolved, 0, optimizer)) == ["error"]


def test_a_training_bears_it_out() -> None:
    assert trained(problem(anew, 0)) > 20 * trained(problem(owned, 0))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("middle", [normed, smoothed, kept, noisy])
def test_what_is_made_on_purpose_or_only_out_of_sight_is_a_note(middle: Any, seed: int) -> None:
    assert levels(problem(middle, seed)) == ["note"]


@pytest.mark.parametrize("middle", [frozen, owned])
def test_nothing_is_said_of_frozen_ones_and_of_the_models_own(middle: Any) -> None:
    assert levels(problem(middle, 0)) == []


def test_a_layer_made_when_first_needed_is_no_error() -> None:
    assert "error" not in levels(problem(when_first_needed, 0))
