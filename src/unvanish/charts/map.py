"""Where in the plane of two settings do networks work? A factor at each place, blue below ×1 and orange above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.diverging import Shares, cells, edges, key, key_width, layers, shades
from unvanish.charts.labels import Box, Label, Spot, around, place, row
from unvanish.charts.layout import Frame, parameters, words, x_axis, y_axis
from unvanish.charts.linear import linear
from unvanish.charts.measure import text_width
from unvanish.charts.plates import layer, plates
from unvanish.charts.theme import token
from unvanish.records import UnvanishError

TOP, BOTTOM, RIGHT, PLOT_HEIGHT, LINE = 46, 44, 16, 260, 16
SHOWN = 0.75
"""Share of the plane that is not at the end of the scale: beyond the border a factor falls without end."""


@picture("map", "For which settings does the network work?", tables=("cells", "hatching", "line", "plates", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(grid=False), y_axis(grid=False)
    line = alt.Chart(alt.NamedData("line"))
    drawn = {"x": x, "y": y, "order": "order:Q", "detail": "part:N"}
    return alt.layer(
        *layers(x, y),
        line.mark_line(stroke=token("bg"), strokeWidth=5, clip=True).encode(**drawn),
        line.mark_line(stroke=token("fg"), strokeWidth=2, clip=True).encode(**drawn),
        layer(x, y),
        words(),
    ).add_params(*parameters())


def tables(
    x: Sequence[float],
    y: Sequence[float],
    log10: Sequence[Sequence[float | None]],
    *,
    across: str,
    up: str,
    quantity: str = "",
    line: Sequence[tuple[float, float]] = (),
    line_name: str = "",
    share: bool = False,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the map: ``log10[j][i]`` is the logarithm of the factor at ``x[i]`` and ``y[j]``; both rise.

    ``across``, ``up``: what the axes are; ``quantity``: what the factors are of. ``line``: points of a curve drawn over
    it, which may leave the plane, and ``line_name`` what it is. None leaves a place free. ``share``: the numbers are no
    logarithms, but shares from 0 to 1.
    """
    if len(x) < 2 or len(y) < 2 or len(log10) != len(y) or any(len(each) != len(x) for each in log10):
        raise UnvanishError(
            f"drawing a map of {len(x)} × {len(y)} places: found {len(log10)} rows of "
            f"{sorted({len(each) for each in log10})} values; give at least 2 × 2, a row for each place up"
        )
    scale = Shares() if share else shades([value for each in log10 for value in each], SHOWN)
    beside = text_width(quantity) + key_width(scale) + 30 <= width
    top = TOP if beside else TOP + LINE
    frame = frame_of(x, y, width, height, top)
    drawn, hatching = cells([[scale.of(value) for value in each] for each in log10], edges(x), edges(y))
    free = "blank: no value" if any(value is None for each in log10 for value in each) else ""
    boxes, lines, scale_labels = key(scale, frame, -TOP + 4, free)
    if share:  # with one hue there is nothing that lines would have to tell apart
        hatching, lines = [], []
    seen = _inside(frame, line)
    inside = _named(frame, [spot for part in seen for spot in part], line_name)
    return {
        "frame": [with_ticks(frame)],
        "cells": [*drawn, *boxes],
        "hatching": [*hatching, *lines],
        "line": [
            {"x": a, "y": b, "order": at, "part": part}
            for part, points in enumerate(seen) for at, (a, b) in enumerate(points)
        ],
        "plates": plates(inside, frame),
        "labels": [
            *scale_labels,
            *inside,
            row(quantity, Spot(-frame.left + 6, -top + 9), "mut"),
            row(up, Spot(-frame.left + 12, frame.plot_height / 2, "center"), "mut", angle=-90),
            row(across, Spot(frame.plot_width / 2, frame.plot_height + 31, "center"), "mut"),
        ],
    }  # fmt: skip


def frame_of(x: Sequence[float], y: Sequence[float], width: float, height: float | None, top: float = TOP) -> Frame:
    """The frame of a plane whose places are ``x`` and ``y``."""
    across, up = edges(x), edges(y)
    _, names = linear(up[0], up[-1], PLOT_HEIGHT, 36)
    return Frame(
        width=width, height=height or top + PLOT_HEIGHT + BOTTOM, left=34 + max(map(text_width, names), default=0),
        right=RIGHT, top=top, bottom=BOTTOM, x_low=across[0], x_high=across[-1], y_low=up[0], y_high=up[-1],
    )  # fmt: skip


def with_ticks(frame: Frame) -> Row:
    """The row of such a frame, with round numbers along both axes."""
    return frame.row(
        *linear(frame.x_low, frame.x_high, frame.plot_width, 46),
        *linear(frame.y_low, frame.y_high, frame.plot_height, 36),
    )


def _inside(frame: Frame, line: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches of the curve inside the plane; where it leaves through the top it is drawn up to the edge."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if frame.x_low <= x <= frame.x_high and frame.y_low <= y <= frame.y_high:
            parts[-1].append((x, y))
            continue
        above = y > frame.y_high
        if above and parts[-1] and parts[-1][-1][1] < frame.y_high:
            parts[-1].append((x, frame.y_high))
        parts.append([(x, frame.y_high)] if above else [])
    return [part for part in parts if len(part) > 1]


def _named(frame: Frame, line: Sequence[tuple[float, float]], name: str) -> list[Row]:
    """What the curve is, where it covers least."""
    if not line or not name:
        return []
    curve = [Box(frame.x(x) - 3, frame.y(y) - 3, frame.x(x) + 3, frame.y(y) + 3) for x, y in line]
    beside = [spot for x, y in line[:: max(len(line) // 12, 1)] for spot in around(frame.x(x), frame.y(y), 10)]
    return place([Label(name, tuple(beside), "fg")], curve, Box(4, 4, frame.plot_width - 4, frame.plot_height - 4))
