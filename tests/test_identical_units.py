"""Layers whose units all have the same weights and get the same gradient, and layers that only look like them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Report, diagnose
from unvanish.preserve import seeded

SEEDS = range(3)


def net(*sizes: int) -> nn.Sequential:
    hidden = [part for a, b in pairwise(sizes[:-1]) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-2], sizes[-1]))


def filled(model: nn.Sequential, value: float, places: tuple[int, ...]) -> nn.Sequential:
    for place in places:
        nn.init.constant_(model[place].weight, value)  # type: ignore[arg-type]
        nn.init.zeros_(model[place].bias)  # type: ignore[arg-type]
    return model


def check(
    model: nn.Module, seed: int, loss: Any = F.mse_loss, steps: int = 0, rate: float = 5e-3
) -> tuple[Report, float]:
    """After ``steps`` steps, and the loss then."""
    with seeded(seed):
        x = torch.randn(64, 6)
        y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] if loss is F.mse_loss else x[:, :4].argmax(1)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        return diagnose(model, x, y, loss, optimizer=optimizer, steps=1000), float(loss(model(x), y).detach())


def told(report: Report) -> list[tuple[str, ...]]:
    return [f.layers for f in report.findings if f.code == "UV408" and f.level == "error"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [0, 150])
def test_weights_of_one_number_stay_one_unit(seed: int, steps: int) -> None:
    """Drawn at random the same network learns what these never do."""
    with seeded(seed):
        same, drawn = filled(net(6, 16, 16, 1), 0.05, (0, 2, 4)), net(6, 16, 16, 1)
    report, stuck = check(same, seed, steps=steps)
    assert told(report) == [("0", "2")] and report.verdict == "identical"
    report, learned = check(drawn, seed, steps=steps)
    assert told(report) == [] and (not steps or learned < 0.3 * stuck)


def zero_head() -> nn.Module:
    return filled(net(6, 16, 4), 0.0, (2,))


def one_layer_of_equals() -> nn.Module:
    return filled(net(6, 16, 16, 1), 0.05, (0,))


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1))


def one_unit() -> nn.Module:
    return filled(net(6, 1, 1), 0.1, (0, 2))


RIGHT: list[tuple[Callable[[], nn.Module], Any]] = [
    (zero_head, F.cross_entropy),  # each class has targets of its own
    (one_layer_of_equals, F.mse_loss),  # the next layer weighs its units differently
    (lambda: filled(with_dropout(), 0.05, (0, 3)), F.mse_loss),  # chance tells the units apart
    (one_unit, F.mse_loss),
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", range(len(RIGHT)))
def test_equal_weights_that_learn_apart(case: int, seed: int) -> None:
    make, loss = RIGHT[case]
    with seeded(seed):
        model = make()
    assert told(check(model, seed, loss)[0]) == []


def noted(report: Report) -> list[tuple[str, ...]]:
    return [f.layers for f in report.findings if f.code == "UV408" and f.level == "note"]


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_weights_with_biases_of_their_own_are_a_note(seed: int) -> None:
    """Where other such layers follow; one such layer before weights drawn at random is told apart at once."""
    with seeded(seed):
        model, single, drawn = net(6, 16, 16, 1), net(6, 16, 1), net(6, 16, 16, 1)
    for place in (0, 2):
        nn.init.constant_(model[place].weight, 0.4)  # type: ignore[arg-type]
    nn.init.constant_(single[0].weight, 0.4)  # type: ignore[arg-type]
    report, _ = check(model, seed)
    assert noted(report)[0][0] == "0" and told(report) == []
    (fact,) = [each for each in report.flow.copies if each.layer == "0"]
    with seeded(seed):  # by hand
        x = torch.randn(64, 6)
        loss = F.mse_loss(model(x), torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3])
    loss.backward()
    rows = next(model.parameters()).grad.double()  # type: ignore[union-attr]
    by_hand = (rows - rows.mean(0)).square().sum(1).mean().sqrt() / rows.mean(0).norm()
    assert fact.apart == pytest.approx(float(by_hand), rel=1e-3) and 0.0 < fact.apart < 1.0
    for quiet in (single, drawn):
        assert check(quiet, seed)[0].flow.copies == ()


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_units_with_targets_of_their_own_or_one_input_are_no_copies(weight: float) -> None:
    """The gradients of a last layer have much in common where all targets are far to one side."""
    with seeded(0):
        x = torch.randn(64, 6)
        last, first = net(6, 16, 3), net(1, 16, 16, 1)
    nn.init.constant_(last[2].weight, weight)  # type: ignore[arg-type]
    nn.init.ones_(first[0].weight)  # type: ignore[arg-type]
    assert diagnose(last, x, 5.0 + 0.3 * torch.randn(64, 3), F.mse_loss).flow.copies == ()
    assert diagnose(first, x[:, :1], torch.sin(x[:, :1]), F.mse_loss).flow.copies == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_last_layer_of_equal_weights_is_told_apart_by_its_first_step(seed: int) -> None:
    """Under a cross-entropy nothing but rounding comes through it before: no error, and no fault of the others."""
    with seeded(seed):
        model = net(6, 16, 16, 4)
    nn.init.constant_(model[4].weight, 0.2)  # type: ignore[arg-type]
    report, start = check(model, seed, F.cross_entropy)
    assert report.healthy and [f.code for f in report.findings] == ["UV504"] and "may end that" in str(report)
    report, learned = check(model, seed, F.cross_entropy, steps=60)
    assert "UV504" not in [f.code for f in report.findings] and learned < 0.6 * start
    for place in (0, 2):  # then their gradients, of rounding, say nothing of how alike their units are
        nn.init.constant_(model[place].weight, 0.3)  # type: ignore[arg-type]
    nn.init.constant_(model[4].weight, 0.2)  # type: ignore[arg-type]
    assert noted(check(model, seed, F.cross_entropy)[0]) == []


class Film(nn.Module):
    """Gains and shifts of three classes, which all start at 1 and 0, as in a conditional normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.table = nn.Linear(6, 16), nn.Linear(16, 1), nn.Embedding(3, 32)
        nn.init.zeros_(self.table.weight)
        nn.init.ones_(self.table.weight[:, :16].detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain, shift = self.table(x[:, :3].argmax(1)).chunk(2, 1)
        return self.head((self.body(x) * gain + shift).relu() + 3.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_a_table_have_samples_of_their_own(seed: int) -> None:
    """Tables of equal rows and of rows drawn at random ended at the same loss, in three trials each of two nets."""
    with seeded(seed):
        model = Film()
    assert not [f for f in check(model, seed)[0].findings if f.code == "UV408"]
