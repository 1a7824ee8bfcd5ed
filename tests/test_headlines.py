"""The word above a report of notes alone: what a batch leaves out and a schedule that is over are no illness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

import unvanish
from unvanish.report.sentences import called, deciding, headline

SEEDS = range(3)


def data(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(128, 10)
    return x, (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)


class Experts(nn.Module):
    """Two experts of four are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(10, 16) for _ in range(4))
        self.extra, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen, made = (x[:, 0] > 0).long(), x.new_zeros(len(x), 16)
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                made = made.index_put((rows,), expert(x[rows]))
        return self.last(made)

    def last(self, made: Tensor) -> Tensor:
        return self.head(self.extra(made).relu())


class Forgotten(Experts):
    def last(self, made: Tensor) -> Tensor:
        return self.head(made.relu())


@pytest.mark.parametrize("seed", SEEDS)
def test_experts_without_a_sample_leave_a_network_healthy(seed: int) -> None:
    x, y = data(seed)
    model = Experts()
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    assert [(f.code, f.level) for f in report.findings] == [("UV602", "note")] and report.verdict == "unused"
    assert called(report) == "Healthy" and headline(report).startswith("no fault was found") and "2 unused" in str(
        report
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_layer_that_nothing_calls_is_unused_above_all(seed: int) -> None:
    x, y = data(seed)
    model = Forgotten()
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    assert not report.healthy and called(report) == "Unused"


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(1, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        for each in x.unbind(1):
            h = self.cell(each[:, None], h.detach())
        return self.head(h)


def test_a_state_cut_between_steps_is_noted() -> None:
    x, _ = data(0)
    model, y = Loop(), (x[:, -1] > 0).long()
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    assert report.healthy and called(report) == "Noted"
    assert deciding(report) is not None and "the state is cut out of the graph" in headline(report)


def after(
    seed: int, rate: float, schedule: Callable[[torch.optim.Optimizer], LRScheduler], steps: int, planned: int | None
) -> unvanish.Report:
    """A report after so many steps under the schedule."""
    x, y = data(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    rates = schedule(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        rates.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    return unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer, steps=planned)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("planned", "word"), [(None, "Noted"), (100, "Healthy"), (300, "Learning rate too small")]
)
def test_a_cosine_at_its_end(planned: int | None, word: str, seed: int) -> None:
    """That all is done is known where as many steps were planned, and a fault where more were."""
    report = after(seed, 3e-3, lambda o: CosineAnnealingLR(o, 100), 100, planned)
    assert called(report) == word and report.healthy == (planned != 300)
    if word == "Noted":
        assert headline(report).startswith("The learning rate is 0 after 100 steps")
        assert "At the end of a training that is as it should be" in str(report).replace("\n  ", " ")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rate_that_has_won_nothing_is_too_small_all_the_same(seed: int) -> None:
    report = after(seed, 3e-3, lambda o: LambdaLR(o, lambda step: step // 1000), 30, None)
    assert called(report) == "Learning rate too small" and not report.healthy
