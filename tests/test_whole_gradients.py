"""Gradients of a twin by torch's own backward, wherever float64 holds them: else by the exact walk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unvanish.evidence import profile
from unvanish.evidence.profile import MIDDLE, gradients, log10_norms, whole_gradients

SEEDS = range(3)


def chain(factors: Sequence[float], seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """h ← f · tanh(h) + leaf for each factor, a cotangent for its end, and the leaves."""
    draw = torch.Generator().manual_seed(seed)
    here = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    leaves = [torch.zeros_like(here, requires_grad=True) for _ in factors]
    for factor, leaf in zip(factors, leaves, strict=True):
        here = factor * torch.tanh(here) + leaf
    return here, torch.randn(3, 4, generator=draw, dtype=torch.float64), leaves


def logs(found: dict[int, profile.Scaled], leaves: Sequence[Tensor]) -> list[float]:
    return [log10_norms(found.get(id(leaf)))[0] for leaf in leaves]


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_middle_of_the_range_no_walk_is_needed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    end, cotangent, leaves = chain([0.5] * 30, seed)
    right = logs(gradients([[(end, cotangent)]], leaves)[0], leaves)
    end, cotangent, leaves = chain([0.5] * 30, seed)
    monkeypatch.setattr(profile, "walk", None)
    assert logs(whole_gradients([(end, cotangent)], leaves), leaves) == pytest.approx(right, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1e-20, 1e20, 0.0])
def test_what_float64_may_lose_is_walked(factor: float, seed: int) -> None:
    """Below and above its range, and zeros, of which nobody knows whether they are."""
    small = 1e-9 if factor > 1.0 else 1.0  # in the straight part of tanh
    end, cotangent, leaves = chain([small, *[factor] * 25], seed)
    right = logs(gradients([[(end, cotangent)]], leaves)[0], leaves)
    end, cotangent, leaves = chain([small, *[factor] * 25], seed)
    found = logs(whole_gradients([(end, cotangent)], leaves), leaves)
    assert found == right
    if factor == 1e-20:
        assert -600.0 < min(found) < math.log10(MIDDLE)


def test_the_early_way_ends_where_its_bound_says() -> None:
    """Just inside and just outside of it, both ways give the same."""
    for size in (2.0 * MIDDLE, 0.5 * MIDDLE, 0.5 / MIDDLE, 2.0 / MIDDLE):
        leaf = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        found = whole_gradients([(leaf * size, torch.ones(1, dtype=torch.float64))], [leaf])
        assert logs(found, [leaf]) == pytest.approx([math.log10(size)], abs=1e-9)
