"""A logarithmic axis on which exactly zero and infinity have places of their own, beyond the last power of ten."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from unvanish.charts.layout import decades

BREAK = 0.12
"""How far zero and infinity stand beyond the powers of ten, as a share of their range."""
ZERO, INFINITE = "0", "∞"


@dataclass(frozen=True)
class Levels:
    """The range of the powers of ten, in log10, and the places of exactly zero and of infinity where they occur."""

    low: float
    high: float
    zero: float | None = None
    infinite: float | None = None

    def at(self, log10: float | None) -> float | None:
        """Where a value stands on the axis; None where it was not measured or is not a number."""
        if log10 is None or math.isnan(log10):
            return None
        if math.isfinite(log10):
            return log10
        return self.zero if log10 < 0 else self.infinite

    def range(self, room: float, below: float, above: float) -> tuple[float, float]:
        """The ends of an axis of ``room`` pixels that keeps so many pixels free below and above all places."""
        low = self.low if self.zero is None else self.zero
        high = self.high if self.infinite is None else self.infinite
        unit = (high - low) / (room - below - above)
        return low - below * unit, high + above * unit

    def ticks(self, room: float, least: float = 28) -> tuple[list[float], list[str]]:
        """Powers of ten at least ``least`` pixels apart on ``room`` pixels, zero and infinity; with their names."""
        places, names = decades(self.low, self.high, room, least)
        if self.zero is not None:
            places, names = [self.zero, *places], [ZERO, *names]
        if self.infinite is not None:
            places, names = [*places, self.infinite], [*names, INFINITE]
        return places, names


def levels(values: Iterable[float | None], least: float = 4, step: float = 1) -> Levels:
    """Whole multiples of ``step`` decades around the finite values, at least ``least`` of them.

    Without the least, harmless differences would fill the picture.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    finite = [value for value in known if math.isfinite(value)]
    high = math.ceil(max(finite, default=0.0) / step) * step
    low = min(math.floor(min(finite, default=0.0) / step) * step, high - least)
    gap = BREAK * (high - low)
    return Levels(
        low=low,
        high=high,
        zero=low - gap if -math.inf in known else None,
        infinite=high + gap if math.inf in known else None,
    )
