"""A small gradient is not the bottom: the paths of optimisers over the contours of a loss with two weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, around, place, row
from unvanish.charts.layout import Frame, parameters, words, x_axis, y_axis
from unvanish.charts.linear import ends, linear
from unvanish.charts.measure import shorten, text_width
from unvanish.charts.theme import SERIES, token
from unvanish.records import UnvanishError

Point = tuple[float, float]

RIGHT, TOP, BOTTOM, PLOT_HEIGHT = 16, 10, 44, 280
FARTHEST = 2.0
"""How far beyond starts and minimum the picture reaches at most, in units of their range: a path may run away."""
MOST_DOTS = 60
MINIMUM, GONE = "minimum", "leaves the picture"
SHAPES = ("circle", "square", "triangle-up", "diamond")


@picture(
    "paths", "Is where the gradient is small the bottom?", tables=("contours", "lines", "dots", "minimum", "labels")
)
def template() -> Any:
    import altair as alt

    def column(name: str) -> Any:
        return alt.expr(f"datum.{name}")

    x, y = x_axis("x", grid=False), y_axis("y", grid=False)
    contours = alt.Chart(alt.NamedData("contours")).mark_line(stroke=token("grid"), strokeWidth=1.2, clip=True)
    lines = alt.Chart(alt.NamedData("lines")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=1.7, clip=True
    )
    dots = alt.Chart(alt.NamedData("dots")).mark_point(
        shape=column("shape"), fill=column("color"), stroke=column("color"), size=15, opacity=1, clip=True
    )
    goal = alt.Chart(alt.NamedData("minimum")).mark_point(
        shape="cross", fill=token("fg"), stroke=token("bg"), strokeWidth=1.5, size=110, opacity=1, angle=45
    )
    return alt.layer(
        contours.encode(x=x, y=y, detail="line:N", order="order:Q"),
        lines.encode(x=x, y=y, detail="line:N", order="order:Q"),
        dots.encode(x=x, y=y),
        goal.encode(x=x, y=y),
        words(),
    ).add_params(*parameters())


def tables(
    ellipses: Sequence[Sequence[Point]],
    paths: Sequence[Mapping[str, Any]],
    minimum: Point,
    *,
    x_label: str = "w₁",
    y_label: str = "w₂",
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the paths: ``ellipses`` are closed lines of (w₁, w₂) of equal loss, the innermost first;
    ``paths`` mappings with optimizer (its name) and points ((w₁, w₂), one a step, the start first).

    A path is drawn up to its first point that is not finite. One that runs far away leaves the picture, and says so.
    """
    if not paths or any(len(each["points"]) == 0 for each in paths):
        raise UnvanishError(
            "drawing paths: found a path without points, or none; give each optimizer its start at least"
        )
    kept = [(str(each["optimizer"]), len(each["points"]) - 1, _finite(each["points"])) for each in paths]
    frame = _frame([points for _, _, points in kept], minimum, width, height)
    return {
        "frame": [
            frame.row(
                *linear(frame.x_low, frame.x_high, frame.plot_width, 50),
                *linear(frame.y_low, frame.y_high, frame.plot_height, 40),
            )
        ],
        "contours": [
            {"x": x, "y": y, "line": line, "order": order}
            for line, points in enumerate(ellipses)
            for order, (x, y) in enumerate(points)
        ],
        "lines": [each for series, (_, _, points) in enumerate(kept) for each in _line(points, series, frame)],
        "dots": [each for series, (_, _, points) in enumerate(kept) for each in _dots(points, series, frame)],
        "minimum": [{"x": minimum[0], "y": minimum[1]}],
        "labels": [
            *_names(kept, minimum, frame),
            row(x_label, Spot(frame.plot_width / 2, frame.plot_height + 31, "center"), "mut"),
            row(y_label, Spot(-frame.left + 12, frame.plot_height / 2, "center"), "mut", angle=-90),
        ],
    }


def _finite(points: Sequence[Point]) -> list[Point]:
    """The points up to the first that is not finite."""
    lost = next((at for at, each in enumerate(points) if not all(map(math.isfinite, each))), len(points))
    return list(points[:lost])


def _frame(paths: Sequence[Sequence[Point]], minimum: Point, width: float, height: float | None) -> Frame:
    low: list[float] = []
    high: list[float] = []
    for side in (0, 1):
        firm = [minimum[side], *(points[0][side] for points in paths if points)]
        reach = FARTHEST * (max(firm) - min(firm) or max(map(abs, firm)) or 1.0)
        limits = min(firm) - reach, max(firm) + reach
        seen = [min(max(point[side], limits[0]), limits[1]) for points in paths for point in points]
        near, far = ends([*firm, *seen], 0.1)
        low.append(near)
        high.append(far)
    _, names = linear(low[1], high[1], PLOT_HEIGHT, 40)
    return Frame(
        width=width, height=height or TOP + PLOT_HEIGHT + BOTTOM, left=36 + max(map(text_width, names), default=0),
        right=RIGHT, top=TOP, bottom=BOTTOM, x_low=low[0], x_high=high[0], y_low=low[1], y_high=high[1],
    )  # fmt: skip


def _shown(points: Sequence[Point], frame: Frame) -> list[Point]:
    """The points up to the first that lies outside, that one drawn in to a place the line still leads towards."""
    wide, tall = frame.x_high - frame.x_low, frame.y_high - frame.y_low
    shown: list[Point] = []
    for x, y in points:
        shown.append(
            (min(max(x, frame.x_low - wide), frame.x_high + wide), min(max(y, frame.y_low - tall), frame.y_high + tall))
        )
        if not _inside((x, y), frame):
            break
    return shown


def _inside(point: Point, frame: Frame) -> bool:
    return frame.x_low <= point[0] <= frame.x_high and frame.y_low <= point[1] <= frame.y_high


def _line(points: Sequence[Point], series: int, frame: Frame) -> Iterator[Row]:
    color, dash = SERIES[series % len(SERIES)]
    for order, (x, y) in enumerate(_shown(points, frame)):
        yield {"x": x, "y": y, "line": series, "order": order, "color": token(color), "dash": list(dash)}


def _dots(points: Sequence[Point], series: int, frame: Frame) -> Iterator[Row]:
    """A dot every so many steps, so that their distance shows the pace."""
    color = token(SERIES[series % len(SERIES)][0])
    shown = [each for each in _shown(points, frame) if _inside(each, frame)]
    for x, y in shown[:: max(len(shown) // MOST_DOTS, 1)]:
        yield {"x": x, "y": y, "color": color, "shape": SHAPES[series % len(SHAPES)]}


def _names(kept: Sequence[tuple[str, int, Sequence[Point]]], minimum: Point, frame: Frame) -> list[Row]:
    """Each optimizer's name and steps where its path ends, away from all paths; the minimum and the start."""
    marks: list[Box] = []
    x, y = frame.x(minimum[0]), frame.y(minimum[1])
    labels = [Label(MINIMUM, around(x, y, 12), "fg")]
    for series, (name, steps, points) in enumerate(kept):
        shown = [each for each in _shown(points, frame) if _inside(each, frame)]
        marks += _covered(shown, frame)
        if not shown:
            continue
        gone = GONE if len(shown) < steps + 1 else f"after {steps:,} {'step' if steps == 1 else 'steps'}"
        text = f"{shorten(name, frame.plot_width * 0.4, bold=True)} {gone}"
        back = [shown[-1], *(shown[len(shown) * share // 8] for share in (7, 6, 5, 4))]
        spots = [
            spot for w1, w2 in back for reach in (10, 20, 32, 46) for spot in around(frame.x(w1), frame.y(w2), reach)
        ]
        labels.append(Label(text, tuple(spots), SERIES[series % len(SERIES)][0], bold=True, needed=True))
    marks.append(Box(x - 7, y - 7, x + 7, y + 7))
    return place(labels, marks, Box(2, 0, frame.plot_width, frame.plot_height))


def _covered(points: Sequence[Point], frame: Frame) -> Iterator[Box]:
    """Small boxes along a path, which labels should keep off."""
    for (x, y), (x2, y2) in pairwise((frame.x(x), frame.y(y)) for x, y in points):
        count = max(1, math.ceil(max(abs(x2 - x), abs(y2 - y)) / 6))
        for at in range(count + 1):
            px, py = x + (x2 - x) * at / count, y + (y2 - y) * at / count
            yield Box(px - 3, py - 3, px + 3, py + 3)
