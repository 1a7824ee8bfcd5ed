"""Outputs that a constant behind the last layer makes too small for their loss; small layers and targets are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(2)
Ends = Callable[[Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, end: Ends, head: float = 1.0) -> None:
        super().__init__()
        self.body, self.end = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), end
        with torch.no_grad():
            for parameter in self.body[2].parameters():
                parameter.mul_(head)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x))


def problem(end: Ends, seed: int, loss: Any = F.cross_entropy, make: Any = None, head: float = 1.0) -> Problem:
    torch.manual_seed(seed)
    model = Net(end, head)
    inputs = torch.randn(48, 8)
    targets = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    make = make or (lambda p: optim.SGD(p, 0.1))
    return Problem(model, inputs, targets, loss, make(model.parameters()))


def triplets(outputs: Tensor, targets: Tensor) -> Tensor:
    first, second, third = outputs.chunk(3)
    return F.triplet_margin_loss(first, second, third)


def in_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs / 1000, targets)


def level(report: Report) -> str | None:
    return next((f.level for f in report.findings if f.code == "UV702"), None)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("end", "loss"),
    [
        (lambda h: 1e-3 * h, F.cross_entropy),
        (lambda h: (h / 1e4).view(-1, 4), F.cross_entropy),
        (lambda h: h * 1e-6, F.cross_entropy),  # no step that is tried moves the loss of float32
        (lambda h: h.mul(1e-3), triplets),
        (lambda h: h, in_loss),
    ],
)
def test_a_constant_that_hides_the_outputs_from_their_loss_is_named(end: Ends, loss: Any, seed: int) -> None:
    report = diagnose(given := problem(end, seed, loss))
    finding = next(f for f in report.findings if f.code == "UV702")
    assert finding.level == "error" and finding.cause == "scale of the outputs" and report.verdict == "output_scale"
    assert "test_shrunk_outputs.py" in finding.message and not any(f.code == "UV705" for f in report.findings)
    model, optimizer = given.build()
    assert optimizer is not None
    first = float(given.loss(given.outputs(model)).detach())
    for _ in range(200):
        optimizer.zero_grad()
        given.loss(given.outputs(model)).backward()
        optimizer.step()
    assert float(given.loss(given.outputs(model)).detach()) > 0.99 * first


@pytest.mark.parametrize("seed", SEEDS)
def test_under_steps_of_one_length_it_is_a_note(seed: int) -> None:
    report = diagnose(problem(lambda h: 1e-3 * h, seed, make=lambda p: optim.Adam(p, 1e-3)))
    assert level(report) == "note" and report.healthy and report.output is not None
    assert report.output.shrunk == pytest.approx(1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("end", "loss", "head"),
    [
        (lambda h: h, F.cross_entropy, 1.0),
        (lambda h: h, F.cross_entropy, 1e-3),  # grows by itself
        (lambda h: h / 4, F.cross_entropy, 1.0),
        (lambda h: 1e-3 * h, lambda o, t: 1e6 * F.mse_loss(o, 1e-3 * F.one_hot(t, 4).float()), 1.0),  # as wanted
        (lambda h: 1e3 * (1e-3 * h), F.cross_entropy, 1.0),
        (lambda h: h * h * 1e-2, F.cross_entropy, 10.0),
    ],
)
def test_what_fits_its_loss_is_passed_over(end: Ends, loss: Any, head: float, seed: int) -> None:
    assert level(diagnose(problem(end, seed, loss, head=head))) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scale_that_is_trained_is_no_constant(seed: int) -> None:
    given = problem(lambda h: h, seed)
    assert isinstance(given.model, Net)
    scale = nn.Parameter(torch.tensor(1e-3))
    given.model.register_parameter("scale", scale)
    given.model.end = lambda h: h * scale
    assert diagnose(given).output.shrunk is None  # type: ignore[union-attr]
