"""How fast do layers learn: one line a layer over the steps, on a logarithmic scale, named where it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Spot, row, spread
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.levels import Levels, levels
from unvanish.charts.linear import Straight, linear, straight
from unvanish.charts.measure import shorten_all, text_width
from unvanish.charts.theme import SERIES, token
from unvanish.records import UnvanishError

Numbers = Sequence[float | None]

LEFT, TOP, BOTTOM, PLOT_HEIGHT = 56, 24, 42, 220
MOST_LINES = len(SERIES)
MOST_BUCKETS = 240
"""Pieces of a line: of more steps than these, the smallest and the largest of each piece are drawn."""
LINE_HEIGHT = 15


@picture("speeds", "How fast does each layer learn?", tables=("lines", "ends", "leaders", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(), y_axis()
    leaders = alt.Chart(alt.NamedData("leaders")).mark_line(stroke=column("color"), strokeWidth=0.8)
    lines = alt.Chart(alt.NamedData("lines")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=1.8
    )
    dots = alt.Chart(alt.NamedData("ends")).mark_point(
        shape="circle", filled=True, color=column("color"), size=26, opacity=1
    )
    return alt.layer(
        leaders.encode(x=x, y=y, detail="line:N", order="order:Q"),
        lines.encode(x=x, y=y, detail="line:N", order="order:Q"),
        dots.encode(x=x, y=y),
        words(),
    ).add_params(*parameters())


def tables(
    steps: Sequence[float],
    names: Sequence[str],
    log10_values: Sequence[Numbers],
    *,
    quantity: str = "",
    across: str = "training step",
    log: bool = True,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the speeds: per layer its log10 values, one a step; None and nan are gaps, -inf is exactly zero.

    Of more than eight layers eight are drawn, evenly spaced, the first and the last among them, and the picture says
    so. ``quantity``: what the numbers are, written above the axis; ``across``: what ``steps`` counts, written below.
    ``log``: False where the values are the numbers themselves, as of a loss that may be negative.
    """
    complete(steps, names, log10_values)
    some_of = chosen(len(names))
    short = shorten_all([names[at] for at in some_of], width * 0.25)
    drawn = [log10_values[at] for at in some_of]
    shown = [value for values in drawn for value in values]
    scale = levels(shown, least=2) if log else straight(shown)
    frame = _frame(steps, scale, 28 + max(text_width(name, bold=True) for name in short), width, height)
    some = f"{len(some_of)} of {len(names)} layers, evenly spaced" if len(some_of) < len(names) else ""
    head = ": ".join(filter(None, (quantity, some)))
    ends = list(_ends(steps, drawn, scale))
    named, leaders = _names(ends, short, frame)
    return {
        "frame": [
            frame.row(*linear(frame.x_low, frame.x_high, frame.plot_width, 56, 1), *scale.ticks(frame.plot_height))
        ],
        "lines": [each for series, values in enumerate(drawn) for each in _line(steps, values, scale, series)],
        "ends": [{"x": x, "y": y, "color": token(_color(series))} for series, x, y in ends],
        "leaders": leaders,
        "labels": [
            *named,
            row(across, Spot(frame.plot_width / 2, frame.plot_height + 30, "center"), "mut"),
            *([row(head, Spot(-LEFT + 6, -TOP + 12), "mut")] if head else []),
        ],
    }


def complete(steps: Sequence[float], names: Sequence[str], log10_values: Sequence[Numbers]) -> None:
    """Refuse, with UnvanishError, what is not one number or None for every layer and step."""
    if not names or not steps or len(log10_values) != len(names) or any(len(v) != len(steps) for v in log10_values):
        lengths = sorted({len(values) for values in log10_values})
        raise UnvanishError(
            f"drawing {len(names)} layers over {len(steps)} steps: found {len(log10_values)} rows of {lengths} values; "
            "give each layer one number or None for each step"
        )


def chosen(count: int) -> list[int]:
    """The places of at most eight of so many layers, evenly spaced, the first and the last among them."""
    if count <= MOST_LINES:
        return list(range(count))
    return [round(rank * (count - 1) / (MOST_LINES - 1)) for rank in range(MOST_LINES)]


def _frame(steps: Sequence[float], scale: Levels | Straight, right: float, width: float, height: float | None) -> Frame:
    height = height or TOP + PLOT_HEIGHT + BOTTOM
    low, high = scale.range(height - TOP - BOTTOM, 8, 8)
    first, last = min(steps), max(steps)
    return Frame(
        width=width, height=height, left=LEFT, right=right, top=TOP, bottom=BOTTOM,
        x_low=first, x_high=last if last > first else first + 1, y_low=low, y_high=high,
    )  # fmt: skip


def _color(series: int) -> str:
    return SERIES[series][0]


def _line(steps: Sequence[float], values: Numbers, scale: Levels | Straight, series: int) -> Iterator[Row]:
    """The points of a line; where steps are many, each piece keeps its smallest and its largest value."""
    look: Row = {"color": token(_color(series)), "dash": list(SERIES[series][1])}
    piece = order = 0
    per = max(math.ceil(len(steps) / MOST_BUCKETS), 1)
    for start in range(0, len(steps), per):
        bucket = range(start, min(start + per, len(steps)))
        known = [at for at in bucket if scale.at(values[at]) is not None]
        if len(known) < len(bucket):
            piece += 1
        kept = sorted({min(known, key=lambda at: scale.at(values[at]) or 0.0, default=start),
                       max(known, key=lambda at: scale.at(values[at]) or 0.0, default=start)})  # fmt: skip
        for at in kept:
            level = scale.at(values[at])
            if level is not None:
                order += 1
                yield {"x": steps[at], "y": level, "line": f"{series}.{piece}", "order": order, **look}


def _ends(
    steps: Sequence[float], drawn: Sequence[Numbers], scale: Levels | Straight
) -> Iterator[tuple[int, float, float]]:
    """(series, step, level) of the last point of every line that has one."""
    for series, values in enumerate(drawn):
        known = [
            (step, level) for step, value in zip(steps, values, strict=True) if (level := scale.at(value)) is not None
        ]
        if known:
            yield series, *known[-1]


def _names(ends: Sequence[tuple[int, float, float]], names: Sequence[str], frame: Frame) -> tuple[list[Row], list[Row]]:
    """The names at the right, spread so that they do not touch, and thin lines that lead from the ends to them."""
    wanted = [frame.y(level) for _, _, level in ends]
    places = spread(wanted, LINE_HEIGHT, 6, frame.plot_height - 6)
    unit = (frame.x_high - frame.x_low) / frame.plot_width
    tall = (frame.y_high - frame.y_low) / frame.plot_height
    labels: list[Row] = []
    leaders: list[Row] = []
    for (series, step, level), y in zip(ends, places, strict=True):
        color = _color(series)
        labels.append(row(names[series], Spot(frame.plot_width + 18, y), color, bold=True))
        corners = ((step, level), (frame.x_high + 5 * unit, level), (frame.x_high + 15 * unit, frame.y_high - y * tall))
        for order, (x, at) in enumerate(corners):
            leaders.append({"x": x, "y": at, "line": series, "order": order, "color": token(color)})
    return labels, leaders
