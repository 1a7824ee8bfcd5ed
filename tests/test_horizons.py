"""A signal along a sequence that does not simply fall: numbers by hand, and a layer that is read at both ends."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.evidence.profile import gain_of, horizon_of
from unvanish.records import TimeFacts
from unvanish.report.through_time import told

NONE = -math.inf


def test_a_steady_fall_has_one_gain_and_its_horizon() -> None:
    signal = [-0.5 * (9 - place) for place in range(10)]
    assert gain_of(signal) == pytest.approx(-0.5)
    assert horizon_of(signal, -3.0, -0.5) == 7  # steps at 0 … -3
    assert horizon_of(signal, -30.0, -0.5) == 60


def test_a_dip_between_two_ends_is_no_fall() -> None:
    both = [-0.25 * min(place, 10 - place) for place in range(11)]
    assert gain_of(both) == pytest.approx(0.0)
    assert horizon_of(both, -3.0, gain_of(both)) is None


def test_what_stays_above_a_limit_has_its_horizon_beyond_the_beginning() -> None:
    """Two decades at once and then nothing more: a thousandth is not reached within what was seen."""
    level = [-2.0] * 20 + [0.0]
    gain = gain_of(level)
    assert gain == pytest.approx(-0.1)
    assert (horizon_of(level, -3.0, gain) or 0) >= 20


def test_last_steps_that_nothing_hears_are_not_counted() -> None:
    masked = [0.0, 0.0, 0.0, 0.0, NONE]
    assert horizon_of(masked, -3.0, gain_of(masked)) is None
    assert horizon_of([-9.0, -4.0, 0.0, 0.0, NONE], -3.0, -2.0) == 2
    assert horizon_of([NONE, NONE], -3.0, None) == 0


def test_a_fall_that_ends_in_zeros_keeps_its_gain() -> None:
    assert gain_of([NONE, NONE, -4.0, -2.0, 0.0]) == pytest.approx(-2.0)


class BothEnds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.LSTM(4, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat(list(self.read(x)[1][0]), 1))


@pytest.mark.parametrize("seed", range(2))
def test_of_a_layer_read_at_both_ends_no_horizon_is_told(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(16, 150, 4)
    labels = (x[:, 0, 0] + x[:, -1, 0] > 0).long()
    report = unvanish.diagnose(BothEnds(), x, labels, F.cross_entropy)
    (facts,) = report.time
    said = told(facts, "float32")
    assert facts.faint > 0 and f"less than a thousandth arrives at {facts.faint:,} of them" in said
    assert "is left after" not in said and "×1.0 a step back" in said
    (note,) = [f for f in report.findings if f.code == "UV102"]
    assert note.level == "note" and "does not reach all steps" in note.message
    assert "only the last" not in note.message


def test_of_a_fall_the_horizon_is_told() -> None:
    facts = TimeFacts(layer="l", kind="LSTM", steps=3, at=(0, 1, 2), log10_signal=(-4.0, -2.0, 0.0), faint=1, horizon=2)
    assert "a thousandth is left after 2 steps" in told(facts, "float32")
