"""Where one sigmoid layer passes a gradient on undiminished: the inputs a with |w·σ′(w·a + b)| ≥ 1."""

from __future__ import annotations

import math

LEAST_WEIGHT = 4.0
"""σ′ is at most ¼, so that |w σ′| ≥ 1 needs |w| ≥ 4."""
GOLDEN = (math.sqrt(5) - 1) / 2


def window_width(weight: float) -> float:
    """Width of the interval of inputs a: (2/|w|) ln(|w| (1 + √(1 − 4/|w|)) / 2 − 1); 0 below |w| = 4.

    Source: Nielsen 2015, chapter 5, problem.
    """
    size = abs(weight)
    if size < LEAST_WEIGHT:
        return 0.0
    return 2 / size * math.log(size * (1 + math.sqrt(1 - LEAST_WEIGHT / size)) / 2 - 1)


def widest_window() -> tuple[float, float]:
    """The weight at which the interval is widest, and its width there (golden-section search)."""
    low, high = LEAST_WEIGHT, 20.0
    while high - low > 1e-9:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if window_width(left) > window_width(right) else (left, high)
    return (low + high) / 2, window_width((low + high) / 2)
