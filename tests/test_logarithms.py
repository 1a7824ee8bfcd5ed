"""Losses of log-probabilities to which the loss function itself gives something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish

SEEDS = range(3)
Given = Callable[[Tensor], Tensor]


class Distilled(nn.Module):
    """A student beside its teacher, which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))
        self.teacher.requires_grad_(False)
        self.teacher.weight.mul_(6.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(x), self.teacher(x)


def loss_of(given: Given) -> Callable[..., Tensor]:
    def loss_fn(outputs: Any, targets: Any = None) -> Tensor:
        student, teacher = outputs
        return 4.0 * F.kl_div(given(student / 2.0), (teacher / 2.0).softmax(1), reduction="batchmean")

    return loss_fn


def said(model: nn.Module, x: Tensor, loss_fn: Callable[..., Tensor], y: Tensor | None = None) -> list[Any]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    report = unvanish.diagnose(model, x, y, loss_fn, optimizer=optimizer)
    return [f for f in report.findings if f.code == "UV706"]


def as_the_teacher(given: Given, seed: int) -> float:
    """The mean distance of the student's probabilities from the teacher's after training with the loss."""
    torch.manual_seed(seed)
    model, x = Distilled(), torch.randn(128, 8)
    optimizer = torch.optim.Adam(model.student.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss_of(given)(model(x)).backward()
        optimizer.step()
    with torch.no_grad():
        student, teacher = ((z / 2.0).softmax(1) for z in model(x))
    return float((student - teacher).abs().sum(1).mean())


def by_hand(z: Tensor) -> Tensor:
    return (z.softmax(1) + 1e-8).log()


def divided(z: Tensor) -> Tensor:
    return z - torch.logsumexp(z, 1, keepdim=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("given", [lambda z: z.softmax(1), lambda z: z, torch.sigmoid])
def test_probabilities_and_scores_in_the_loss_are_named(given: Given, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Distilled(), torch.randn(64, 8)
    (finding,) = said(model, x, loss_of(given))
    assert finding.level == "error" and "no logarithm was taken" in finding.message
    z = given(model(x)[0].detach().double() / 2.0)
    axes = [z.logsumexp(0), z.logsumexp(1), z.flatten().logsumexp(0)]
    assert finding.evidence[0].value == pytest.approx(min(float(a.abs().mean()) for a in axes), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("given", [lambda z: z.log_softmax(1), by_hand, divided])
def test_logarithms_are_quiet_however_they_are_taken(given: Given, seed: int) -> None:
    torch.manual_seed(seed)
    assert not said(Distilled(), torch.randn(64, 8), loss_of(given))


@pytest.mark.parametrize("seed", SEEDS)
def test_only_logarithms_bring_the_student_to_its_teacher(seed: int) -> None:
    assert as_the_teacher(lambda z: z.log_softmax(1), seed) < 0.1
    assert as_the_teacher(lambda z: z.softmax(1), seed) > 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_share_of_a_map_or_a_masked_row_is_quiet(seed: int) -> None:
    """Shares along another axis than the last; rows that padding takes out of the loss."""
    torch.manual_seed(seed)
    convolution, image = nn.Conv2d(3, 4, 3, padding=1), torch.randn(8, 3, 6, 6)
    wanted = torch.randn(8, 4, 6, 6).softmax(1)
    assert not said(convolution, image, lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="batchmean"), wanted)
    x, kept = torch.randn(64, 8), (torch.arange(64) % 2)[:, None]
    target = torch.randn(64, 5).softmax(1) * kept
    assert not said(
        nn.Linear(8, 5), x, lambda o, t: F.kl_div(o.log_softmax(1) * kept, t, reduction="batchmean"), target
    )


@pytest.mark.parametrize("wrong", [True, False])
def test_alignments_are_asked_too(wrong: bool) -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(6, 6), torch.randn(8, 12, 6), torch.randint(1, 6, (8, 3))

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        scores = outputs.softmax(2) if wrong else outputs.log_softmax(2)
        lengths = torch.full((8,), 12), torch.full((8,), 3)
        return F.ctc_loss(scores.transpose(0, 1), targets, *lengths)

    assert bool(said(model, x, loss_fn, y)) is wrong
