"""Where an activation is flat: what the inputs' intervals say is what the slope at each input says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from unvanish.flow.slopes import SATURATED, slope_of_function
from unvanish.watching.shut import Flat, dead_and_saturated, flat_of

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "relu": (F.relu, ()),
    "leaky_relu, almost shut": (F.leaky_relu, (0.005,)),
    "sigmoid": (torch.sigmoid, ()),
    "tanh": (torch.tanh, ()),
    "gelu": (F.gelu, ()),
    "silu": (F.silu, ()),
    "elu": (F.elu, (0.7,)),
    "softplus": (F.softplus, ()),
    "hardtanh": (F.hardtanh, ()),
    "relu6": (F.relu6, ()),
    "hardswish": (F.hardswish, ()),
    "mish": (F.mish, ()),
    "softsign": (F.softsign, ()),
    "sin, a wave": (torch.sin, ()),
}


def by_slopes(func: Any, args: tuple[Any, ...], inputs: torch.Tensor) -> torch.Tensor:
    z = inputs.double().requires_grad_(True)
    (slope,) = torch.autograd.grad(func(z, *args).sum(), z)
    kind = slope_of_function("", func, args, {})
    assert kind is not None
    return slope.abs() < SATURATED * kind.largest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_flat_is_where_the_slope_is_small(name: str, seed: int) -> None:
    func, args = FUNCTIONS[name]
    flat = flat_of(func, args, {})
    assert flat is not None and flat.wave == ("wave" in name)
    torch.manual_seed(seed)
    inputs = torch.cat([4.0 * torch.randn(4_000), 300.0 * torch.randn(200), torch.linspace(-8.0, 8.0, 1_601)])
    expected = by_slopes(func, args, inputs)
    differs = flat.at(inputs).bool() != expected
    near = torch.zeros_like(inputs, dtype=torch.bool)  # within a rounding of where it turns, both are right
    for ends in flat.stretches:
        for end in ends:
            near |= (inputs - end).abs() < 3e-5 + 1e-6 * abs(end)
    assert not bool((differs & ~near).any()), inputs[differs & ~near][:5]
    assert 0.0 < expected.double().mean() < 1.0 or name.startswith("leaky")


def test_what_is_no_number_is_not_flat_and_what_is_no_activation_is_none() -> None:
    flat = flat_of(F.relu, (), {})
    assert flat is not None
    assert flat.at(torch.tensor([float("nan"), -1.0, 1.0])).tolist() == [0.0, 1.0, 0.0]
    assert flat_of(torch.exp, (), {}) is None
    assert flat_of(torch.neg, (), {}) is None


@pytest.mark.parametrize("units", [6, 3_000])
def test_shares_of_entries_and_of_units(units: int) -> None:
    """One unit is shut in every sample, a second in half of them."""
    inputs = torch.ones(4, units)
    inputs[:, 0] = -1.0
    inputs[:2, 1] = -1.0
    flat = flat_of(F.relu, (), {})
    assert isinstance(flat, Flat)
    before = inputs.clone()
    saturated, dead = dead_and_saturated(flat, inputs)
    assert (float(saturated), float(dead)) == pytest.approx((6 / (4 * units), 1 / units), rel=1e-6)
    assert torch.equal(inputs, before)


def test_many_entries_are_drawn_by_unit_and_the_inputs_stay() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 4_096)
    before = inputs.clone()
    flat = flat_of(F.relu, (), {})
    assert flat is not None
    saturated, dead = dead_and_saturated(flat, inputs)
    assert torch.equal(inputs, before)
    assert float(saturated) == pytest.approx(0.5, abs=0.02) and float(dead) == 0.0
    images = torch.randn(4, 5, 8, 8)
    images[:, 2] = -1.0
    assert float(dead_and_saturated(flat, images)[1]) == pytest.approx(0.2)
