"""A linear axis: round numbers as far apart as their names need."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from unvanish.records import UnvanishError

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
WHOLE_STEPS = (1.0, 2.0, 5.0, 10.0)


def linear(
    low: float, high: float, room: float, least: float = 40, finest: float = 0.0
) -> tuple[list[float], list[str]]:
    """Round numbers between two ends, at least ``least`` pixels on ``room`` and ``finest`` apart; their names."""
    wanted = max((high - low) * least / max(room, 1.0), finest)
    power = 10.0 ** math.floor(math.log10(wanted))
    leading = WHOLE_STEPS if finest >= 1 else STEPS
    step = next(each * power for each in leading if each * power >= wanted * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [place * step for place in range(first, last + 1)]
    return ticks, [plain(tick, step) for tick in ticks]


def plain(value: float, step: float) -> str:
    """A number with the decimals that a step needs: "0.25", "1,000", "−0.5"; powers of ten where there are too many."""
    if not 1e-5 <= step < 1e7:
        return f"{value:.3g}".replace("-", "−")
    decimals = next(places for places in range(8) if abs(round(step, places) - step) < 1e-9 * step)
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def ends(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """The ends of an axis around the finite values, with a share of their range free on both sides."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise UnvanishError("drawing an axis: found no finite number to draw; give at least one")
    low, high = min(finite), max(finite)
    free = (high - low) * margin or abs(high) * margin or 1.0
    return low - free, high + free


@dataclass(frozen=True)
class Straight:
    """A linear axis with the methods of ``levels.Levels``: what is not finite has no place on it."""

    low: float
    high: float

    def at(self, value: float | None) -> float | None:
        """Where a value stands on the axis."""
        return value if value is not None and math.isfinite(value) else None

    def range(self, room: float, below: float, above: float) -> tuple[float, float]:
        """The ends of an axis of ``room`` pixels that keeps so many pixels free below and above all values."""
        unit = (self.high - self.low) / (room - below - above)
        return self.low - below * unit, self.high + above * unit

    def ticks(self, room: float, least: float = 28) -> tuple[list[float], list[str]]:
        """Round numbers at least ``least`` pixels apart on ``room`` pixels; with their names."""
        return linear(self.low, self.high, room, least)


def straight(values: Iterable[float | None]) -> Straight:
    """A linear axis around the finite values; around 0 where there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return Straight(*ends(finite or [0.0], 0.0)) if len(set(finite)) < 2 else Straight(min(finite), max(finite))
