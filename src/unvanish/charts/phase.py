"""The phase diagram: where in the plane of weight and bias variance gradients shrink, and where they grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.diverging import cells, edges, key, key_width, layers, shades
from unvanish.charts.labels import Box, Label, Spot, around, place, row
from unvanish.charts.layout import Frame, parameters, words, x_axis, y_axis
from unvanish.charts.map import TOP, frame_of, with_ticks
from unvanish.charts.measure import shorten, text_width
from unvanish.charts.plates import layer, plates
from unvanish.charts.theme import token
from unvanish.records import UnvanishError

WEIGHT, BIAS = "weight variance", "bias variance"
CHI, CHI_SHORT = "χ₁, by which a layer multiplies the squared gradient", "χ₁ per layer"
CRITICAL = "χ₁ = 1: gradients keep their size"
SHOWN = 0.75
"""Share of the plane that is not at the end of the scale: towards no weights χ₁ falls without end."""
SHRINK, GROW = "gradients shrink", "gradients grow"


@picture(
    "phase",
    "Does the initialisation keep gradients alive?",
    tables=("cells", "hatching", "critical", "points", "plates", "labels"),
)
def template() -> Any:
    import altair as alt

    x, y = x_axis(grid=False), y_axis(grid=False)
    line = alt.Chart(alt.NamedData("critical"))
    points = alt.Chart(alt.NamedData("points")).mark_point(
        shape="diamond", filled=True, fill=token("fg"), stroke=token("bg"), strokeWidth=1.5, size=110, opacity=1
    )
    return alt.layer(
        *layers(x, y),
        line.mark_line(stroke=token("bg"), strokeWidth=5, clip=True).encode(x=x, y=y, order="order:Q"),
        line.mark_line(stroke=token("fg"), strokeWidth=2, clip=True).encode(x=x, y=y, order="order:Q"),
        points.encode(x=x, y=y),
        layer(x, y),
        words(),
    ).add_params(*parameters())


def tables(
    weight_variance_grid: Sequence[float],
    bias_variance_grid: Sequence[float],
    chi: Sequence[Sequence[float]],
    critical: Sequence[tuple[float, float]] = (),
    points: Sequence[tuple[float, float, str]] = (),
    *,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the phase diagram: ``chi[b][w]`` is χ₁, the factor by which one layer multiplies the squared error
    signal, at the b-th bias variance and the w-th weight variance; both grids rise.

    ``critical``: points of the line χ₁ = 1; ``points``: networks, as (weight variance, bias variance, label).
    Source: Poole et al. 2016; Schoenholz et al. 2017.
    """
    across, up = list(weight_variance_grid), list(bias_variance_grid)
    if len(across) < 2 or len(up) < 2 or len(chi) != len(up) or any(len(line) != len(across) for line in chi):
        raise UnvanishError(
            f"drawing a phase diagram of {len(across)} weight and {len(up)} bias variances: found {len(chi)} rows of "
            f"{sorted({len(line) for line in chi})} values; give at least 2 × 2, a row for each bias variance"
        )
    logs = [[_log10(value) for value in line] for line in chi]
    scale = shades([value for line in logs for value in line], SHOWN)
    frame = frame_of(across, up, width, height)
    x, y = edges(across), edges(up)
    drawn, hatching = cells([[scale.of(value) for value in line] for line in logs], x, y)
    free = "blank: no value" if any(value is None for line in logs for value in line) else ""
    boxes, lines, said = key(scale, frame, -TOP + 4, free)
    head = CHI if text_width(CHI) + key_width(scale) + 30 <= width else CHI_SHORT
    inside = _inside(frame, across, up, logs, critical, points)
    return {
        "frame": [with_ticks(frame)],
        "cells": [*drawn, *boxes],
        "hatching": [*hatching, *lines],
        "critical": [{"x": w, "y": b, "order": at} for at, (w, b) in enumerate(critical)],
        "points": [{"x": w, "y": b} for w, b, _ in points],
        "plates": plates(inside, frame),
        "labels": [
            *said,
            *inside,
            row(head, Spot(-frame.left + 6, -TOP + 9), "mut"),
            row(BIAS, Spot(-frame.left + 12, frame.plot_height / 2, "center"), "mut", angle=-90),
            row(WEIGHT, Spot(frame.plot_width / 2, frame.plot_height + 31, "center"), "mut"),
        ],
    }


def _log10(value: float) -> float | None:
    if math.isnan(value) or value < 0:
        return None
    return math.log10(value) if value else -math.inf


def _inside(
    frame: Frame, across: Sequence[float], up: Sequence[float], logs: Sequence[Sequence[float | None]],
    critical: Sequence[tuple[float, float]], points: Sequence[tuple[float, float, str]],
) -> list[Row]:  # fmt: skip
    """The networks' labels, what the line means, and what the two sides of it mean, each where it covers least."""
    dots = [Box(frame.x(w) - 8, frame.y(b) - 8, frame.x(w) + 8, frame.y(b) + 8) for w, b, _ in points]
    curve = [Box(frame.x(w) - 3, frame.y(b) - 3, frame.x(w) + 3, frame.y(b) + 3) for w, b in critical]
    labels = [
        Label(shorten(text, frame.plot_width * 0.45, bold=True), around(frame.x(w), frame.y(b), 12), "fg", bold=True)
        for w, b, text in points
    ]
    visible = [(w, b) for w, b in critical if frame.x_low < w < frame.x_high and frame.y_low < b < frame.y_high]
    beside = [spot for w, b in visible[:: max(len(visible) // 12, 1)] for spot in around(frame.x(w), frame.y(b), 10)]
    labels += [Label(CRITICAL, tuple(beside), "fg")] if beside else []
    for text, grows, color in ((SHRINK, False, "down"), (GROW, True, "up")):
        spots = _middle_first([
            Spot(frame.x(w), frame.y(b), "center")
            for b, line in zip(up, logs, strict=True)
            for w, value in zip(across, line, strict=True)
            if value and (value > 0) == grows
        ])  # fmt: skip
        labels += [Label(text, spots, color, bold=True)] if spots else []
    return place(labels, [*dots, *curve], Box(4, 4, frame.plot_width - 4, frame.plot_height - 4))


def _middle_first(spots: Sequence[Spot]) -> tuple[Spot, ...]:
    """Up to 200 of the spots, those nearest to their common middle first."""
    some = spots[:: len(spots) // 200 + 1]
    x, y = (sum(getattr(spot, side) for spot in some) / max(len(some), 1) for side in "xy")
    return tuple(sorted(some, key=lambda spot: math.hypot(spot.x - x, spot.y - y)))
