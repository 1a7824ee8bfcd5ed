"""Layers that take samples for steps are named; those whose input has the steps first, or are told so, are not."""

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

SEEDS = range(2)
SAMPLES, STEPS = 24, 9
Reads = Callable[[Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, kind: str, reads: Reads, first: bool) -> None:
        super().__init__()
        self.kind, self.reads = kind, reads
        self.embed, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        if kind == "encoder":
            self.mix = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 16, batch_first=first), 2, enable_nested_tensor=False
            )
        elif kind == "attention":
            self.mix = nn.MultiheadAttention(16, 2, batch_first=first)
        else:
            self.mix = getattr(nn, kind)(16, 16, batch_first=first)

    def forward(self, x: Tensor) -> Tensor:
        mix: Any = self.mix
        h = self.embed(x)
        made = mix(h) if self.kind != "attention" else mix(h, h, h)
        return self.head(self.reads(made[0] if isinstance(made, tuple) else made))


def last(h: Tensor) -> Tensor:
    return h[:, -1]


def found(kind: str, reads: Reads, first: bool, seed: int, shape: tuple[int, ...] = (SAMPLES, STEPS)) -> Any:
    with seeded(seed):
        model, x = Net(kind, reads, first), torch.randn(*shape, 4)
        with torch.no_grad():
            targets = torch.randn(model(x).shape)
    report = diagnose(Problem(model, x, targets, F.mse_loss, torch.optim.Adam(model.parameters(), 1e-3)))
    return [(f.level, f.layers) for f in report.findings if f.code == "UV713"], report


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reads", [last, lambda h: h.mean(1)])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "attention", "encoder"])
def test_samples_that_are_read_as_steps_are_an_error(kind: str, reads: Reads, seed: int) -> None:
    named, report = found(kind, reads, False, seed)
    assert [level for level, _ in named] == ["error"] and report.verdict == "pairing"
    (facts,) = report.across
    assert (facts.axis, facts.shape) == (0, (SAMPLES, STEPS, 16))
    assert not found(kind, reads, True, seed)[0]


@pytest.mark.parametrize("kind", ["GRU", "attention"])
@pytest.mark.parametrize(
    ("reads", "shape"),
    [
        (lambda h: h[-1], (STEPS, SAMPLES)),  # the steps first, one output for each sample
        (lambda h: h, (STEPS, SAMPLES)),  # one for each step of each sample: either axis may be meant
        (lambda h: h[:, 0], (SAMPLES, 1)),  # a batch that is meant to see itself
    ],
    ids=["steps first", "each step", "one sequence"],
)
def test_steps_first_as_it_is_meant_is_quiet(kind: str, reads: Reads, shape: tuple[int, int]) -> None:
    named, report = found(kind, reads, False, 0, shape)
    assert not named and not report.across


def test_one_step_of_many_is_quiet_too() -> None:
    """A layer that is turned around: the samples second, as it expects them."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net("GRU", lambda h: h[-1], False)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.transpose(0, 1))

    model, x = Turned(), torch.randn(SAMPLES, STEPS, 4)
    assert not diagnose(model, x, torch.randn(SAMPLES, 3), F.mse_loss).across
