"""A model that returns ``(loss, logits)``: what its loss compares is seen through a loss_fn that only hands it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)
Loss = Callable[[Tensor, Tensor], Tensor]


class Own(nn.Module):
    """A network that computes its own loss and gives it beside its outputs."""

    def __init__(self, loss: Loss, width: int, squeezed: bool) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, width))
        self.loss, self.squeezed = loss, squeezed

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.f(x).squeeze(1) if self.squeezed else self.f(x)
        return self.loss(outputs, y), 0.01 * outputs.pow(2).mean(), outputs


def by_hand(outputs: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y) ** 2).mean()


HANDED: dict[str, Callable[[Any, Any], Tensor]] = {
    "the first": lambda outputs, _: outputs[0],
    "a quarter of it": lambda outputs, _: outputs[0] / 4,
    "with a penalty": lambda outputs, _: outputs[0] + 0.1 * outputs[1],
}


def report_of(model: nn.Module, seed: int, handed: Any, y: Tensor, x: Tensor) -> Report:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return diagnose(Problem(model, (x, y), None, handed, optimizer, steps=300), seed=seed)


def regression(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(96, 6)
    return x, 2 * x[:, 0] + x[:, 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, by_hand])
@pytest.mark.parametrize("handed", HANDED.values(), ids=HANDED)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_that_meet_inside_are_seen(loss: Loss, handed: Any, seed: int) -> None:
    x, y = regression(seed)
    unpaired, paired = (report_of(Own(loss, 1, squeezed), seed, handed, y, x) for squeezed in (False, True))
    (finding,) = (f for f in unpaired.findings if f.level == "error")
    assert finding.code == "UV708" and "(96, 1)" in finding.message and "(96,)" in finding.message
    assert not [f for f in paired.findings if f.level == "error"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_gap_is_that_of_the_loss_inside(seed: int, factor: float) -> None:
    """Cross-entropy falls to 0, and its best constant is the entropy of the shares of the classes."""
    x, y = regression(seed)
    classes = (y > 0.5).long()
    report = report_of(Own(F.cross_entropy, 2, False), seed, lambda outputs, _: outputs[0] * factor, classes, x)
    shares = torch.bincount(classes).double() / len(classes)
    entropy = float(-(shares * shares.log()).sum())
    assert report.loss is not None and report.loss.best_constant == pytest.approx(factor * entropy, rel=1e-3)
    assert report.verdict == "healthy"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_number_for_all_samples_is_an_output_where_the_loss_does_more_with_it(seed: int) -> None:
    """A model of one number, whose square distance from a target is the loss: the loss is not the model's own."""
    x, _ = regression(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).mean()

    report = diagnose(Problem(Mean(), x, torch.tensor(3.0), F.mse_loss), seed=seed)
    assert report.loss is not None and report.loss.best_free == pytest.approx(0.0, abs=1e-6)
    assert not [f for f in report.findings if f.level == "error"]
