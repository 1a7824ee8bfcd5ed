"""A signal along a sequence in numbers, by hand: its size beside the end, its gain a step, and how far it reaches."""

from __future__ import annotations

import math

import pytest

from unvanish.evidence.profile import below, gain_of, horizon_of, relative, together, without_rounding

ZERO = -math.inf


def test_the_scale_is_the_strongest_of_the_last_tenth() -> None:
    assert relative([-9.0, *[-5.0] * 17, -3.0, -4.0]) == [-6.0, *[-2.0] * 17, 0.0, -1.0]
    assert relative([-5.0, -2.0, ZERO]) == [-3.0, 0.0, ZERO]  # the end has none: the strongest of all
    assert relative([None, -2.0]) == [None, 0.0]


def test_the_gain_is_that_of_a_step_back_to_where_it_is_weakest() -> None:
    assert gain_of([-6.0, -4.0, -2.0]) == -2.0
    assert gain_of([-7.0, -11.0, None, -5.0, -3.0]) == -8.0 / 3.0  # weakest after the first step
    assert gain_of([-1.0, ZERO, -4.0, -3.0]) == 2.0 / 3.0  # it grows by 2 and falls by 1: all the way back
    assert gain_of([-3.6, -4.0, -3.0]) == -1.0  # it grows by less than half of what it falls
    assert gain_of([-2.5, -4.0, -3.0]) == 0.25  # and by more: a dip, (-2.5 + 3) / 2
    assert gain_of([ZERO, None, -1.0]) is None


def test_a_horizon_is_counted_from_the_end_and_beyond_the_beginning_by_the_gain() -> None:
    assert below([-4.0, None, -2.0, -3.5], -3.0) == [0, 1, 3]
    assert horizon_of([-4.0, -2.0, -1.0, 0.0], -3.0, -1.0) == 3
    assert horizon_of([-2.0, -1.5, -1.0], -3.0, -0.5) == 4  # (-3 + 1) / -0.5
    assert horizon_of([-1.0, -1.0], -3.0, 0.0) is None and horizon_of([1.0, 0.0], -3.0, 1.0) is None
    assert horizon_of([-1.0, 0.0], -3.0, -1e-10) is None  # 3 · 10^10 steps are no statement


def test_a_zero_after_a_fall_to_the_limit_was_lost_and_one_beside_a_strong_signal_is_true() -> None:
    assert without_rounding([ZERO, -44.0, -30.0, 0.0], -45.0) == [None, -44.0, -30.0, 0.0]
    assert without_rounding([ZERO, -30.0, 0.0], -45.0) == [ZERO, -30.0, 0.0]
    assert without_rounding([-46.0, ZERO, 0.0], -45.0) == [None, None, 0.0]  # from the other side it has fallen
    assert without_rounding([ZERO, ZERO], -45.0) == [ZERO, ZERO]


def test_norms_of_parts_make_that_of_the_whole() -> None:
    assert together([math.log10(3.0), math.log10(4.0)]) == pytest.approx(math.log10(5.0))
    assert together([-400.0, -400.0]) == pytest.approx(-400.0 + 0.5 * math.log10(2.0))
    assert together([]) == together([ZERO, ZERO]) == ZERO
