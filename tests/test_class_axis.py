"""Rows of classes that a view has mixed are told of, and every right way to give a cross-entropy its classes is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded

C, T = 5, 12
Loss = Callable[[Any, Any], Tensor]


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, C)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.recurrent(x)[0])
        return made


class Flat(nn.Module):
    """A layer without an axis of steps, whose units are made into steps and classes by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * T, T * C)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(x.flatten(1)).view(-1, T, C)
        return made


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, C, 3, padding=1))


def said(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[str, float] | None:
    report = unvanish.diagnose(model, x, y, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    found = [each for each in report.findings if each.cause == "a view in place of a transpose"]
    assert all((each.code, each.level) == ("UV708", "error") for each in found)
    return (found[0].code, found[0].evidence[0].value or 0.0) if found else None


@pytest.mark.parametrize(
    ("make", "steps_last", "loss", "wrong"),
    [
        (Steps, False, lambda o, t: F.cross_entropy(o.reshape(-1, C, T), t), True),
        (Steps, False, lambda o, t: F.cross_entropy(o.transpose(1, 2), t), False),
        (Steps, False, lambda o, t: F.cross_entropy(o.reshape(-1, C), t.reshape(-1)), False),
        (Steps, False, lambda o, t: F.cross_entropy(o[:, :-1].reshape(-1, C), t[:, 1:].reshape(-1)), False),
        (Steps, False, lambda o, t: F.cross_entropy(o[:, -1], t[:, -1]), False),
        (conv, True, lambda o, t: F.cross_entropy(o.reshape(-1, C), t.reshape(-1)), True),
        (conv, True, lambda o, t: F.cross_entropy(o.view(-1, C), t.view(-1)), True),
        (conv, True, lambda o, t: F.cross_entropy(o, t), False),
        (conv, True, lambda o, t: F.cross_entropy(o.permute(0, 2, 1).reshape(-1, C), t.reshape(-1)), False),
        (Flat, False, lambda o, t: F.cross_entropy(o.reshape(-1, C, T), t), False),
    ],
)
def test_rows_of_classes(make: Callable[[], nn.Module], steps_last: bool, loss: Loss, wrong: bool) -> None:
    with seeded(0):
        model = make()
        x, y = torch.randn(16, 4, T) if steps_last else torch.randn(16, T, 4), torch.randint(0, C, (16, T))
    assert said(model, x, y, loss) == (("UV708", 1.0) if wrong else None)


@pytest.mark.parametrize("wrong", [True, False])
def test_pixels(wrong: bool) -> None:
    with seeded(1):
        model, x, y = nn.Conv2d(3, 6, 3, padding=1), torch.randn(4, 3, 8, 8), torch.randint(0, 6, (4, 8, 8))

    def loss(o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy((o if wrong else o.permute(0, 2, 3, 1)).reshape(-1, 6), t.view(-1))

    assert (said(model, x, y, loss) is not None) == wrong


def test_boxes_of_several_classes_in_one_axis() -> None:
    with seeded(2):
        model, x, y = nn.Conv2d(3, 24, 3, padding=1), torch.randn(4, 3, 8, 8), torch.randint(0, 8, (4, 3, 8, 8))
    assert said(model, x, y, lambda o, t: F.cross_entropy(o.view(4, 3, 8, 8, 8).transpose(1, 2), t)) is None


def test_items_that_are_scored_one_by_one() -> None:
    with seeded(3):
        model, x, y = (
            nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)),
            torch.randn(16, T, 4),
            torch.arange(16),
        )
    assert said(model, x, y % T, lambda o, t: F.cross_entropy(o.squeeze(-1), t)) is None
