"""The geometry of a picture, known before it is drawn: its frame, its axes, and the Altair parts that read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unvanish.words.numbers import decade

AXIS = ("low", "high", "ticks", "names")


@dataclass(frozen=True)
class Frame:
    """The size of a picture and its margins in pixels, and the range of its two axes."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @property
    def plot_width(self) -> float:
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> float:
        return self.height - self.top - self.bottom

    def x(self, value: float) -> float:
        """Pixels from the left edge of the plot."""
        return (value - self.x_low) / (self.x_high - self.x_low) * self.plot_width

    def y(self, value: float) -> float:
        """Pixels from the upper edge of the plot."""
        return (self.y_high - value) / (self.y_high - self.y_low) * self.plot_height

    def row(
        self, x_ticks: Sequence[float], x_names: Sequence[str], y_ticks: Sequence[float], y_names: Sequence[str]
    ) -> dict[str, Any]:
        """The one row of the table "frame": sizes, margins, and what the axes read."""
        sizes = {key: getattr(self, key) for key in ("width", "height", "left", "right", "top", "bottom")}
        return {
            **sizes,
            "x_low": self.x_low, "x_high": self.x_high, "x_ticks": list(x_ticks), "x_names": list(x_names),
            "y_low": self.y_low, "y_high": self.y_high, "y_ticks": list(y_ticks), "y_names": list(y_names),
        }  # fmt: skip


def parameters() -> list[Any]:
    """The top-level parameters that the axes of ``x_axis`` and ``y_axis`` read."""
    import altair as alt

    starts: dict[str, Any] = {"low": 0, "high": 1, "ticks": [], "names": []}
    return [alt.param(name=f"{side}_{key}", value=starts[key]) for side in "xy" for key in AXIS]


def x_axis(**options: Any) -> Any:
    """The horizontal channel, of the column "x": range, ticks and their names come from the frame."""
    import altair as alt

    return alt.X("x:Q", title=None, scale=_scale("x"), axis=_axis("x", **options))


def y_axis(**options: Any) -> Any:
    """The vertical channel, of the column "y": range, ticks and their names come from the frame."""
    import altair as alt

    return alt.Y("y:Q", title=None, scale=_scale("y"), axis=_axis("y", **options))


def column(name: str) -> Any:
    """The value of a column, for a property of a mark: its shape, colour, dash or place as it stands in the row."""
    import altair as alt

    return alt.expr(f"datum.{name}")


def words(table: str = "labels") -> Any:
    """A layer of text at places worked out beforehand: the rows that ``labels.place`` and ``labels.row`` make."""
    import altair as alt

    mark = alt.Chart(alt.NamedData(table)).mark_text(
        x=column("px"), y=column("py"), align=column("align"), angle=column("angle"), color=column("color"),
        fontWeight=column("weight"), baseline="middle",
    )  # fmt: skip
    return mark.encode(text="text:N")


def decades(low: float, high: float, room: float, least: float = 28) -> tuple[list[float], list[str]]:
    """Whole powers of ten between two logarithms, ``least`` pixels apart or more on ``room``; with their names."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    step = _round_step((high - low) * least / max(room, 1.0))
    ticks = [float(each) for each in range(math.ceil(first / step) * step, last + 1, step)]
    return ticks, [decade(int(tick)) for tick in ticks]


def whole(count: int, room: float, least: float = 34) -> tuple[list[float], list[str]]:
    """Numbers from 1 to ``count``, 1 and round ones, at least ``least`` pixels apart; with their names."""
    step = _round_step(count * least / max(room, 1.0))
    ticks = [1, *range(step, count + 1, step)]
    if len(ticks) > 1 and ticks[1] - 1 < step * 0.75:
        ticks = ticks[1:] if step == 1 else [1, *ticks[2:]]
    return [float(each) for each in ticks], [f"{each:,}" for each in ticks]


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is not below ``least``."""
    power = 1
    while True:
        for leading in (1, 2, 5):
            if leading * power >= least:
                return leading * power
        power *= 10


def _scale(side: str) -> Any:
    import altair as alt

    return alt.Scale(domainMin=alt.expr(f"{side}_low"), domainMax=alt.expr(f"{side}_high"), nice=False, zero=False)


def _axis(side: str, **options: Any) -> Any:
    import altair as alt

    names = f"{side}_names[indexof({side}_ticks, datum.value)]"
    # the ticks were chosen so that their names do not touch
    return alt.Axis(values=alt.expr(f"{side}_ticks"), labelExpr=names, labelOverlap=False, **options)
