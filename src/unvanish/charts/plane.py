"""Gradient against curvature: a small gradient is harmless near a minimum and a loss where there is no curvature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, along, around, place, row, slid
from unvanish.charts.layout import Frame, column, decades, parameters, words, x_axis, y_axis
from unvanish.charts.levels import Levels, levels
from unvanish.charts.measure import shorten_all, text_width
from unvanish.charts.theme import token
from unvanish.charts.verdicts import look, symbol
from unvanish.records import UnvanishError
from unvanish.words.numbers import decade

Numbers = Sequence[float | None]

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 56, 20, 42, 44, 330
NAMED, LARGE = 24, 60
"""Up to so many layers, all names are tried; up to so many, the points are large."""
LONGEST = 96
DIAGONAL_ROOM = 78
ACROSS, ACROSS_SHORT = "curvature of the loss along the gradient (Gauss–Newton)", "curvature along the gradient"
OVER = "gradient relative to the weights, ‖g‖ / ‖w‖; lines: distance to the minimum"
OVER_SHORT = "gradient ‖g‖ / ‖w‖; lines: distance to go"
FAR, NEAR = "far: more than ‖w‖ to go", "near: less than ‖w‖ to go"


class Point(NamedTuple):
    """A layer on the plane: its place in the network, counted from 0, its logarithms as levels, its distance to go."""

    at: int
    x: float
    y: float
    distance: float


@picture("plane", "Has it arrived, or is it stuck?", tables=("wash", "diagonals", "path", "points", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(grid=False), y_axis(grid=False)
    wash = alt.Chart(alt.NamedData("wash")).mark_area(color=token("wash"), opacity=1).encode(x=x, y=y, y2="y2:Q")
    diagonals = alt.Chart(alt.NamedData("diagonals")).mark_rule(color=column("color"), strokeWidth=column("thick"))
    path = alt.Chart(alt.NamedData("path")).mark_line(color=token("pale"), strokeWidth=1)
    points = alt.Chart(alt.NamedData("points")).mark_point(
        shape=column("shape"), stroke=column("stroke"), fill=column("fill"), size=column("size"), strokeWidth=1.6,
        opacity=1,
    )  # fmt: skip
    return alt.layer(
        wash,
        diagonals.encode(x=x, y=y, x2="x2:Q", y2="y2:Q"),
        path.encode(x=x, y=y, order="order:Q"),
        points.encode(x=x, y=y),
        words(),
    ).add_params(*parameters())


def tables(
    names: Sequence[str],
    log10_curvature: Numbers,
    log10_relative_gradient: Numbers,
    verdicts: Sequence[str] | None = None,
    *,
    joined: bool = True,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the plane: per layer, log10 of the curvature along its gradient and of ‖gradient‖ / ‖weights‖.

    The quotient of the two is the distance to the minimum of a quadratic, in units of ‖weights‖. None is left out, -inf
    stands at "0". ``joined``: a line runs from layer to layer. UnvanishError where no layer has both numbers.
    """
    count = len(names)
    if len(log10_curvature) != count or len(log10_relative_gradient) != count:
        raise UnvanishError(
            f"drawing gradient against curvature: found {count} names, {len(log10_curvature)} curvatures and "
            f"{len(log10_relative_gradient)} gradients; give one of each for every layer"
        )
    both = [
        (curvature, gradient) if None not in (curvature, gradient) else (None, None)
        for curvature, gradient in zip(log10_curvature, log10_relative_gradient, strict=True)
    ]
    across, up = levels(_around([one for one, _ in both], 2), 1), levels(_around([two for _, two in both], 1.5), 1)
    points = [
        Point(at, x, y, (gradient or 0.0) - (curvature or 0.0))
        for at, (curvature, gradient) in enumerate(both)
        if (x := across.at(curvature)) is not None and (y := up.at(gradient)) is not None
    ]
    if not points:
        raise UnvanishError(
            "drawing gradient against curvature: no layer has both numbers; the curvature is measured by "
            'unvanish.diagnose(…, effort="full")'
        )
    frame = _frame(across, up, width, height or HEIGHT)
    said = verdicts or [""] * count
    path = points if joined and len(points) <= LARGE else []
    size = 56 if len(points) <= LARGE else 22
    x_ticks, x_names = across.ticks(frame.plot_width, 50)
    return {
        "frame": [frame.row(x_ticks, x_names, *up.ticks(frame.plot_height))],
        "wash": _wash(frame, up),
        "diagonals": [_diagonal(frame, power) for power in _powers(frame)],
        "path": [{"x": each.x, "y": each.y, "order": each.at} for each in path],
        "points": [{"x": each.x, "y": each.y, "size": size, **symbol(said[each.at] or None)} for each in points],
        "labels": _labels(names, points, path, said, frame, count),
    }


def _around(values: Numbers, reach: float) -> list[float | None]:
    """The values and two more that keep them in the middle of an axis of at least twice the reach."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return list(values)
    middle = (min(finite) + max(finite)) / 2
    return [*values, middle - reach, middle + reach]


def _frame(across: Levels, up: Levels, width: float, height: float) -> Frame:
    x_low, x_high = across.range(width - LEFT - RIGHT, 14, 14)
    y_low, y_high = up.range(height - TOP - BOTTOM, 14, 14)
    return Frame(
        width=width, height=height, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
        x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high,
    )  # fmt: skip


def _wash(frame: Frame, up: Levels) -> list[Row]:
    """The half in which the distance to go exceeds the weights; a gradient of exactly zero lies on no diagonal."""
    floor = frame.y_low if up.zero is None else up.low
    turns = sorted({frame.x_low, *(x for x in (floor, frame.y_high) if frame.x_low < x < frame.x_high), frame.x_high})
    return [{"x": x, "y": min(max(x, floor), frame.y_high), "y2": frame.y_high} for x in turns]


def _powers(frame: Frame) -> list[int]:
    """Which distances 10^k have a diagonal: those that leave through the upper edge, far enough apart; always k = 0."""
    shift = frame.x_high - frame.x_low
    ticks, _ = decades(frame.y_high - frame.x_high, frame.y_high - frame.x_low, frame.plot_width, DIAGONAL_ROOM)
    step = int(ticks[1] - ticks[0]) if len(ticks) > 1 else max(int(shift), 1)
    lowest = math.ceil((frame.y_low - frame.x_high) / step)
    return [k * step for k in range(lowest, math.floor((frame.y_high - frame.x_low) / step) + 1)]


def _diagonal(frame: Frame, power: int) -> Row:
    """The part of the line of equal distance that lies in the frame."""
    left, right = max(frame.x_low, frame.y_low - power), min(frame.x_high, frame.y_high - power)
    own = power == 0
    look = {"color": token("fg" if own else "grid"), "thick": 1.6 if own else 1}
    return {"x": left, "y": left + power, "x2": right, "y2": right + power, **look}


def _labels(
    names: Sequence[str],
    points: Sequence[Point],
    path: Sequence[Point],
    verdicts: Sequence[str],
    frame: Frame,
    count: int,
) -> list[Row]:
    top = [
        Label(
            "‖w‖" if power == 0 else f"{decade(power)}‖w‖",
            (Spot(frame.x(frame.y_high - power), -9, "center"),),
            "fg" if power == 0 else "mut",
        )
        for power in sorted(_powers(frame), key=abs)
        if frame.x_low <= frame.y_high - power <= frame.x_high
    ]
    short = shorten_all(names, LONGEST)
    inside = Box(0, 0, frame.plot_width + RIGHT, frame.plot_height)
    whole = Box(-LEFT, -TOP, frame.plot_width + RIGHT, frame.plot_height + BOTTOM)
    across = ACROSS if text_width(ACROSS) < frame.width - 8 else ACROSS_SHORT
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in ((frame.x(each.x), frame.y(each.y)) for each in points)]
    edge = _diagonal(frame, 0)
    marks += along([(frame.x(edge[x]), frame.y(edge[y])) for x, y in (("x", "y"), ("x2", "y2"))])
    marks += along([(frame.x(each.x), frame.y(each.y)) for each in path], pen=1)
    own = [
        *_missing(count - len(points), count, frame),
        *_words(points, verdicts, frame),
        *_regions(frame),
        *_names(short, points, frame),
    ]
    return [
        row(OVER if text_width(OVER) < frame.width - 8 else OVER_SHORT, Spot(-LEFT + 6, -TOP + 12), "mut"),
        row(across, slid(across, Spot(frame.plot_width / 2, frame.plot_height + BOTTOM - 10, "center"), whole), "mut"),
        *place(top, [], Box(-LEFT, -TOP, frame.plot_width + RIGHT, 0)),
        *place(own, marks, inside),
    ]


def _missing(missing: int, count: int, frame: Frame) -> Iterator[Label]:
    if missing:
        right, foot = frame.plot_width - 6, frame.plot_height
        spots = [Spot(right, foot * share, "right") for share in (0.95, 0.05, 0.85, 0.15, 0.75, 0.25)]
        yield Label(f"{missing} of {count} layers not measured", tuple(spots), "mut", needed=True)


def _names(short: Sequence[str], points: Sequence[Point], frame: Frame) -> Iterator[Label]:
    """The first layer, the last, the farthest and the nearest; all others where they are few."""
    telling = [points[0], points[-1], max(points, key=_distance), min(points, key=_distance)]
    others = points if len(points) <= NAMED else ()
    for each in dict.fromkeys([*telling, *others]):
        spots = around(frame.x(each.x), frame.y(each.y))
        yield Label(short[each.at], spots, bold=each in telling[:2], clear=each not in telling)


def _distance(point: Point) -> float:
    return 0.0 if math.isnan(point.distance) else point.distance


def _words(points: Sequence[Point], verdicts: Sequence[str], frame: Frame) -> Iterator[Label]:
    """The word of each verdict above or below one of its points."""
    for verdict in dict.fromkeys(verdicts[each.at] for each in points):
        if not verdict:
            continue
        own = [each for each in points if verdicts[each.at] == verdict]
        middle = len(own) // 2
        order = [*own[middle : middle + 4], *own[max(middle - 4, 0) : middle], own[0], own[-1]]
        spots = [
            Spot(frame.x(each.x), frame.y(each.y) + side * away, "center")
            for away in (19, 30)
            for each in order
            for side in (-1, 1)
        ]
        spots += [
            spot for reach in (12, 24) for each in own for spot in around(frame.x(each.x), frame.y(each.y), reach)
        ]
        yield Label(verdict.replace("_", " "), tuple(spots), look(verdict).color, bold=True)


def _regions(frame: Frame) -> Iterator[Label]:
    """What the two halves mean, where there is room for it on the proper side of the line between them."""
    width, height = frame.plot_width, frame.plot_height

    def line(y: float) -> float:
        return frame.x(frame.y_high - y / height * (frame.y_high - frame.y_low))

    heights = [height * share / 12 for share in range(1, 12)]
    far = [Spot(8, y) for y in heights if line(y + 8) > text_width(FAR) + 12]
    near = [Spot(width - 6, y, "right") for y in reversed(heights) if line(y - 8) < width - text_width(NEAR) - 10]
    if not frame.x_low <= frame.y_high <= frame.x_high:
        # the line between the halves does not leave through the upper edge, where the others have their names
        edge = _diagonal(frame, 0)
        if edge["x"] < edge["x2"]:
            yield Label("‖w‖", around(frame.x(edge["x2"]), frame.y(edge["y2"]), 12))
    yield Label(FAR, tuple(far), "mut")
    yield Label(NEAR, tuple(near), "mut")
