"""The ravine of the documents, f = 0.001 w1² + w2², as a torch model whose output is its parameter."""

from __future__ import annotations

import pytest

from unvanish.pipeline import diagnose
from unvanish.zoo.doubtful import ravine


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("start", [(1.0, 0.0), (30.0, 0.0), (-5.0, 0.0), (1.0, 1e-4), (-2.0, 1e-4)])
def test_along_its_floor_it_is_slow(scale: float, start: tuple[float, float]) -> None:
    """At a rate of 0.5 a step takes w1 to 0.999 w1: 1,150 steps for nine tenths of the loss."""
    report = diagnose(ravine(*start, scale))
    assert report.verdict == "slow" and report.step is not None
    assert report.step.needed == pytest.approx(1150, rel=0.05)
    assert report.step.lr_limit == pytest.approx(1.0 / scale, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_where_one_step_wins_nearly_all_it_is_not(scale: float) -> None:
    """From (1, 1) the first step takes w2 to 0, and with it 99.9 % of the loss."""
    report = diagnose(ravine(1.0, 1.0, scale))
    assert report.healthy and {layer.verdict for layer in report.layers} == {"healthy"}
