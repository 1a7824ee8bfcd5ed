"""The noise flag: calibrated where there is no gradient, silent where there is one, blind to scale."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Problem, diagnose, zoo
from unvanish.evidence.noise import CHUNKS, LEVEL, by_chance


def gram(rows: torch.Tensor) -> torch.Tensor:
    return rows @ rows.T


@pytest.mark.parametrize("dimensions", [3, 50, 2000])
def test_chance_is_uniform_where_the_true_mean_is_zero(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(dimensions)
    draws = [torch.randn(CHUNKS, dimensions, generator=generator, dtype=torch.float64) for _ in range(600)]
    chances = torch.tensor([by_chance(gram(d)) for d in draws])
    # Within four standard errors of the level and of the median.
    assert abs(float((chances < 0.5).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(600) + 0.03
    assert float((chances < LEVEL).double().mean()) < LEVEL + 4 * math.sqrt(LEVEL / 600) + 0.01


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_unequal_variances_keep_it_honest(spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    scale = torch.logspace(0, math.log10(spread), 100, dtype=torch.float64)
    draws = [torch.randn(CHUNKS, 100, generator=generator, dtype=torch.float64) * scale for _ in range(600)]
    chances = torch.tensor([by_chance(gram(d)) for d in draws])
    assert float((chances < LEVEL).double().mean()) < LEVEL + 4 * math.sqrt(LEVEL / 600) + 0.02


def test_a_common_direction_is_no_chance_and_scale_does_not_matter() -> None:
    rows = torch.randn(CHUNKS, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert by_chance(gram(rows)) == pytest.approx(by_chance(gram(rows * 1e60)), rel=1e-9)
    assert (by_chance(gram(rows + 2.0)) or 0.0) < 1e-6
    assert by_chance(torch.zeros(CHUNKS, CHUNKS, dtype=torch.float64)) is None
    assert by_chance(torch.ones(CHUNKS, CHUNKS, dtype=torch.float64)) == 0.0  # the same gradient eight times


def linear(seed: int, at_optimum: bool) -> Problem:
    """Least squares on noisy targets, at its optimum or far from it."""
    torch.manual_seed(seed)
    x, layer = torch.randn(256, 6), nn.Linear(6, 1)
    with torch.no_grad():
        y = x @ torch.ones(6, 1) + torch.randn(256, 1)
        if at_optimum:
            full = torch.cat([x, torch.ones(256, 1)], 1)
            solution = torch.linalg.lstsq(full, y).solution
            layer.weight.copy_(solution[:6].T)
            layer.bias.copy_(solution[6])
    return Problem(nn.Sequential(layer), x, y, F.mse_loss)


@pytest.mark.parametrize("seed", range(5))
def test_an_optimum_is_noise_and_a_start_is_not(seed: int) -> None:
    (still,) = diagnose(linear(seed, at_optimum=True), effort="full").layers
    (moving,) = diagnose(linear(seed, at_optimum=False), effort="full").layers
    assert (still.noise, moving.noise) == (True, False)


def test_only_a_full_check_measures_it() -> None:
    assert diagnose(linear(0, at_optimum=True)).layers[0].noise is None


def test_gradients_below_every_float_are_compared_too() -> None:
    report = diagnose(zoo.get("sigmoid-50").build(0), effort="full")
    deepest = report.layers[0]
    assert deepest.log10_grad_norm is not None and deepest.log10_grad_norm < -38.0
    assert deepest.noise is not None


def test_a_batch_that_cannot_be_cut_is_said() -> None:
    torch.manual_seed(0)
    report = diagnose(nn.Linear(3, 1), torch.randn(4, 3), torch.randn(4, 1), F.mse_loss, effort="full")
    assert any(what == "noise" and "cannot be cut" in why for what, why in report.undecided)


def test_a_mean_that_cancels_to_less_than_zero_by_rounding_is_chance():
    gram = torch.tensor([[1.0, -1.0 - 1e-12], [-1.0 - 1e-12, 1.0]], dtype=torch.float64)
    assert by_chance(gram) == 1.0
