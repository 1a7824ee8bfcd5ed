"""A small gradient is not the bottom: the paths of optimisers over the contours of a loss with two weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, around, between, place, row
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.linear import ends, linear
from unvanish.charts.measure import shorten, text_width
from unvanish.charts.theme import SERIES, token
from unvanish.records import UnvanishError

Point = tuple[float, float]

RIGHT, TOP, BOTTOM, PLOT_HEIGHT = 16, 10, 44, 280
FARTHEST = 2.0
"""How far beyond starts and minimum the picture reaches at most, in units of their range: a path may run away."""
MOST_DOTS, DOT_ROOM = 60, 14
"""Dots on a path at most, and the pixels of its length that a dot needs."""
FINEST = 0.75
"""Pixels: a point nearer to the last one drawn is left out of the line."""
CELL = 6
"""Pixels: two paths that cross the same square of this size are taken for lying on each other there."""
THIN, WIDER, COVERED, SOLID = 1.7, 2.8, 0.3, (1, 0)
"""Width of a path in pixels; what it gains for each path drawn over so large a share of it, so that both are seen."""
LABEL_STEP, MOST_PLACES = 24, 40
"""Pixels between two places of a path where its name may stand, and how many of them are tried, its end first."""
ROOMY = 400
"""Pixels: on a narrower plot the names of the paths are as short as can be."""
MINIMUM, GONE = "minimum", "leaves the picture"
SHAPES = ("circle", "square", "triangle-up", "diamond")


class Path(NamedTuple):
    """An optimizer's path as it is drawn: all its steps, its points up to the first outside, and those seen in pixels.

    ``seen``: (step, x, y) of the points inside, without those too near to the one before to be told from it.
    """

    name: str
    series: int
    steps: int
    points: list[Point]
    seen: list[tuple[int, float, float]]

    @property
    def pixels(self) -> list[Point]:
        return [(x, y) for _, x, y in self.seen]

    @property
    def cells(self) -> set[tuple[int, int]]:
        """The squares of the plot that it crosses."""
        return {(int(x // CELL), int(y // CELL)) for x, y in (*self.pixels, *between(self.pixels, CELL))}


@picture(
    "paths", "Is where the gradient is small the bottom?", tables=("contours", "lines", "dots", "minimum", "labels")
)
def template() -> Any:
    import altair as alt

    x, y = x_axis(grid=False), y_axis(grid=False)
    contours = alt.Chart(alt.NamedData("contours")).mark_line(stroke=token("pale"), strokeWidth=1, clip=True)
    lines = alt.Chart(alt.NamedData("lines")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=column("thick"), clip=True
    )
    dots = alt.Chart(alt.NamedData("dots")).mark_point(
        shape=column("shape"), fill=column("color"), stroke=token("bg"), strokeWidth=0.8, size=30, opacity=1, clip=True
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
    Those with the fewest steps lie on top; one that they cover is wider, and so seen on both sides of them.
    """
    if not paths or any(len(each["points"]) == 0 for each in paths):
        raise UnvanishError(
            "drawing paths: found a path without points, or none; give each optimizer its start at least"
        )
    kept = [(str(each["optimizer"]), len(each["points"]) - 1, _finite(each["points"])) for each in paths]
    frame = _frame([points for _, _, points in kept], minimum, width, height)
    drawn = [_path(name, series, steps, points, frame) for series, (name, steps, points) in enumerate(kept)]
    order = sorted(drawn, key=lambda path: -path.steps)
    cells = {path.series: path.cells for path in drawn}
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
        "lines": [row for rank, path in enumerate(order) for row in _line(path, _thick(rank, order, cells))],
        "dots": [row for path in order for row in _dots(path)],
        "minimum": [{"x": minimum[0], "y": minimum[1]}],
        "labels": [
            *_names(drawn, {cell for own in cells.values() for cell in own}, minimum, frame),
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
        sides = [[point[side] for point in points] for points in paths if points]
        seen = [min(max(end, limits[0]), limits[1]) for values in sides for end in (min(values), max(values))]
        near, far = ends([*firm, *seen], 0.1)
        low.append(near)
        high.append(far)
    _, names = linear(low[1], high[1], PLOT_HEIGHT, 40)
    return Frame(
        width=width, height=height or TOP + PLOT_HEIGHT + BOTTOM, left=36 + max(map(text_width, names), default=0),
        right=RIGHT, top=TOP, bottom=BOTTOM, x_low=low[0], x_high=high[0], y_low=low[1], y_high=high[1],
    )  # fmt: skip


def _path(name: str, series: int, steps: int, points: Sequence[Point], frame: Frame) -> Path:
    """The path up to its first point outside, that one drawn in to a place the line still leads towards."""
    wide, tall = frame.x_high - frame.x_low, frame.y_high - frame.y_low
    shown: list[Point] = []
    seen: list[tuple[int, float, float]] = []
    for step, (x, y) in enumerate(points):
        if not (frame.x_low <= x <= frame.x_high and frame.y_low <= y <= frame.y_high):
            across = min(max(x, frame.x_low - wide), frame.x_high + wide)
            shown.append((across, min(max(y, frame.y_low - tall), frame.y_high + tall)))
            break
        shown.append((x, y))
        px, py = frame.x(x), frame.y(y)
        if not seen or abs(px - seen[-1][1]) + abs(py - seen[-1][2]) >= FINEST or step == len(points) - 1:
            seen.append((step, px, py))
    return Path(name, series, steps, shown, seen)


def _thick(rank: int, order: Sequence[Path], cells: Mapping[int, set[tuple[int, int]]]) -> float:
    """The width of a path under those that come after it in the order of drawing."""
    own = cells[order[rank].series]
    over = [cells[path.series] for path in order[rank + 1 :]]
    return THIN + WIDER * sum(len(own & each) > COVERED * len(own) for each in over)


def _line(path: Path, thick: float) -> Iterator[Row]:
    color, dash = SERIES[path.series % len(SERIES)]
    # a wide line shows as two stripes beside those that cover it: dashes of all of them would make a chequerboard
    look = {"line": path.series, "color": token(color), "dash": list(dash if thick == THIN else SOLID), "thick": thick}
    steps = [step for step, _, _ in path.seen]
    if len(path.points) > (steps[-1] + 1 if steps else 0):
        steps.append(len(path.points) - 1)
    for step in steps:
        x, y = path.points[step]
        yield {"x": x, "y": y, "order": step, **look}


def _dots(path: Path) -> Iterator[Row]:
    """A dot every so many steps, so that their distance shows the pace."""
    look = {"color": token(SERIES[path.series % len(SERIES)][0]), "shape": SHAPES[path.series % len(SHAPES)]}
    if not path.seen:
        return
    length = sum(math.dist(one, two) for one, two in pairwise(path.pixels))
    most = min(MOST_DOTS, max(length / DOT_ROOM, 1))
    last = path.seen[-1][0]
    for step in range(0, last + 1, max(math.ceil(last / most), 1)):
        x, y = path.points[step]
        yield {"x": x, "y": y, **look}


def _names(paths: Sequence[Path], cells: set[tuple[int, int]], minimum: Point, frame: Frame) -> list[Row]:
    """Each optimizer's name and steps beside its path, as near to its end as all paths leave free; the minimum."""
    x, y = frame.x(minimum[0]), frame.y(minimum[1])
    labels = [Label(MINIMUM, around(x, y, 12), "fg")]
    for path in paths:
        if not path.seen:
            continue
        left = len(path.points) <= path.steps or path.seen[-1][0] < len(path.points) - 1
        count = f"{path.steps:,} {'step' if path.steps == 1 else 'steps'}"
        said = GONE if left else f"after {count}" if frame.plot_width >= ROOMY else count
        text = f"{shorten(path.name, frame.plot_width * 0.4, bold=True)} {said}"
        places = _places(path.pixels)
        spots = [spot for reach in (10, 16) for px, py in places[:MOST_PLACES] for spot in around(px, py, reach)]
        color = SERIES[path.series % len(SERIES)][0]
        labels.append(Label(text, (*spots, *_elsewhere(places, frame)), color, bold=True, needed=True))
    marks = [Box(x * CELL - 1, y * CELL - 1, (x + 1) * CELL + 1, (y + 1) * CELL + 1) for x, y in cells]
    return place(labels, [*marks, Box(x - 7, y - 7, x + 7, y + 7)], Box(2, 0, frame.plot_width, frame.plot_height))


def _places(pixels: Sequence[Point]) -> list[Point]:
    """Some places of a path, its end first."""
    places = [pixels[-1]]
    for at in between(reversed(pixels), LABEL_STEP):
        if math.dist(at, places[-1]) >= LABEL_STEP / 2:
            places.append(at)
    return places


def _elsewhere(path: Sequence[Point], frame: Frame) -> list[Spot]:
    """Places all over the plot, the nearest to a path first."""
    spots = [Spot(x, y) for x in range(4, int(frame.plot_width), 24) for y in range(8, int(frame.plot_height), 15)]
    few = path[:: len(path) // 4 or 1]
    return sorted(spots, key=lambda spot: min(math.dist(at, spot[:2]) for at in few))
