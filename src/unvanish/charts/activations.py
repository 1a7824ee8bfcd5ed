"""Which slopes do the pre-activations meet: each activation with its slope, over the histogram of what enters it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, place, row
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.linear import linear
from unvanish.charts.measure import shorten, text_width
from unvanish.charts.theme import token
from unvanish.records import UnvanishError

PANEL, PANEL_HEIGHT, HEAD, FOOT, GAP = 140.0, 120.0, 24.0, 24.0, 26.0
"""Pixels: least width and height of a panel; the room above it for its name, below for numbers, and beside it."""
LEFT, RIGHT, TOP, BOTTOM = 30.0, 16.0, 6.0, 24.0
CURVES = (("φ", "phi", "down", [1, 0], 2.0), ("φ′", "slope", "up", [6, 3], 2.0))
"""Per curve its name, its key, its colour, its dash and the width of the pen."""
SHARE = 0.5
"""Height of the tallest bar of the histogram, as a share of the way from zero to the top."""
MOST_POINTS = 160
KEYS = ("x", "phi", "slope", "density")
ENTERS = "pre-activation"
HISTOGRAM = "shaded: histogram of the pre-activations"
NAMED = "φ: the activation, φ′: its slope"


class Panel(NamedTuple):
    """Where one activation is drawn: its upper left corner and size in pixels, and the numbers at its edges."""

    left: float
    top: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * self.width

    def y(self, value: float) -> float:
        return self.top + (self.y_high - value) / (self.y_high - self.y_low) * self.height


@picture("activations", "Which slopes do the pre-activations meet?", tables=("areas", "rules", "curves", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(), y_axis()
    areas = alt.Chart(alt.NamedData("areas")).mark_area(color=token("pale"), opacity=0.55)
    rules = alt.Chart(alt.NamedData("rules")).mark_rule(color=token("grid"), strokeWidth=1)
    curves = alt.Chart(alt.NamedData("curves")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=column("thick")
    )
    return alt.layer(
        areas.encode(x=x, y=y, y2="y2:Q", detail="panel:N"),
        rules.encode(x=x, x2="x2:Q", y=y),
        curves.encode(x=x, y=y, detail="line:N", order="order:Q"),
        words(),
    ).add_params(*parameters())


def tables(
    curves: Sequence[Mapping[str, Any]],
    *,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the activations: mappings with name, x, phi, slope (equally long, x rising), perhaps density.

    ``density``: how often each x enters, in any unit. All panels share the axes, so that slopes can be compared.
    """
    if not curves:
        raise UnvanishError("drawing activations: found none; give at least one with name, x, phi and slope")
    for each in curves:
        lengths = [len(each[key]) for key in KEYS if each.get(key) is not None]
        if len(set(lengths)) != 1 or lengths[0] < 2:
            raise UnvanishError(
                f"drawing the activation {each['name']!r}: x, phi, slope and density have {lengths} values; "
                "give the same number of each, two or more"
            )
    thin = [_thinned(each) for each in curves]
    panels, frame = _panels(thin, width, height)
    named = list(zip(thin, panels, strict=True))
    shaded = any(each.get("density") for each in thin)
    foot = f"{ENTERS}; {HISTOGRAM}" if shaded else ENTERS
    foot = f"{foot}; {NAMED}" if text_width(f"{foot}; {NAMED}") < width - 8 else foot
    middle = Spot(frame.plot_width / 2, frame.plot_height + BOTTOM - 12, "center")
    return {
        "frame": [frame.row([], [], [], [])],
        "areas": [each for at, pair in enumerate(named) for each in _area(*pair, str(at))],
        "rules": [
            {"x": panel.left, "x2": panel.left + panel.width, "y": panel.y(level)}
            for panel in panels
            for level in (0, 1)
        ],
        "curves": [each for at, pair in enumerate(named) for each in _curves(*pair, str(at))],
        "labels": [*(each for pair in named for each in _labels(*pair)), row(foot, middle, "mut")],
    }


def _thinned(each: Mapping[str, Any]) -> dict[str, Any]:
    """At most MOST_POINTS of the points, both ends among them; the histogram keeps the tallest it leaves out."""
    count = len(each["x"])
    share = min(count, MOST_POINTS)
    kept = [round(at * (count - 1) / (share - 1)) for at in range(share)]
    columns: dict[str, Any] = {key: [each[key][at] for at in kept] for key in KEYS[:3]}
    if each.get("density") is not None:
        heights = [value if math.isfinite(value) and value > 0 else 0.0 for value in each["density"]]
        spans = zip([-1, *kept], kept, strict=False)
        columns["density"] = [max(heights[before + 1 : at + 1]) for before, at in spans]
    return {"name": str(each["name"]), **columns}


def _panels(curves: Sequence[Mapping[str, Any]], width: float, height: float | None) -> tuple[list[Panel], Frame]:
    room = width - LEFT - RIGHT
    columns = max(1, min(len(curves), int((room + GAP) // (PANEL + GAP))))
    lines = -(-len(curves) // columns)
    columns = -(-len(curves) // lines)
    across = (room - GAP * (columns - 1)) / columns
    tall = (height - TOP - BOTTOM) / lines - HEAD - FOOT if height else max(PANEL_HEIGHT, min(0.4 * across, 200.0))
    x_low, x_high = min(each["x"][0] for each in curves), max(each["x"][-1] for each in curves)
    heights = [v for each in curves for key in ("phi", "slope") for v in each[key] if math.isfinite(v)]
    # an activation without bound would flatten all others: its curve leaves the panel
    low, high = max(min([0.0, *heights]), -1.25), min(max([1.0, *heights]), 2.0)
    free = 0.06 * (high - low)
    panels = [
        Panel(
            (at % columns) * (across + GAP), (at // columns) * (HEAD + tall + FOOT) + HEAD, across, tall,
            x_low, x_high, low - free, high + free,
        )
        for at in range(len(curves))
    ]  # fmt: skip
    total = lines * (HEAD + tall + FOOT)
    frame = Frame(
        width=width, height=total + TOP + BOTTOM, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
        x_low=0, x_high=room, y_low=total, y_high=0,
    )  # fmt: skip
    return panels, frame


def _area(each: Mapping[str, Any], panel: Panel, name: str) -> Iterator[Row]:
    """The histogram, standing on the line of zero; its height has no unit."""
    density: Sequence[float] = each.get("density", ())
    tallest = max(density, default=0.0)
    if tallest:
        scale = SHARE * (panel.y(0) - panel.top) / tallest
        for x, value in zip(each["x"], density, strict=True):
            yield {"x": panel.x(x), "y": panel.y(0) - value * scale, "y2": panel.y(0), "panel": name}


def _curves(each: Mapping[str, Any], panel: Panel, name: str) -> Iterator[Row]:
    """The points of φ and of its slope; a curve that leaves the panel ends at its edge and may come back."""
    for _, key, color, dash, thick in CURVES:
        piece = 0
        look = {"color": token(color), "dash": dash, "thick": thick}
        for order, (x, value) in enumerate(zip(each["x"], each[key], strict=True)):
            if math.isfinite(value) and panel.y_low <= value <= panel.y_high:
                yield {"x": panel.x(x), "y": panel.y(value), "line": f"{name}.{key}.{piece}", "order": order, **look}
            else:
                piece += 1


def _labels(each: Mapping[str, Any], panel: Panel) -> Iterator[Row]:
    """The name above the panel, numbers at its edges, and which curve is which."""
    yield row(shorten(each["name"], panel.width, bold=True), Spot(panel.left, panel.top - 11), bold=True)
    for level in (0, 1):
        yield row(str(level), Spot(panel.left - 6, panel.y(level), "right"), "mut")
    for tick, name in zip(
        *linear(panel.x_low, panel.x_high, panel.width, 34, 1.0 if panel.x_high - panel.x_low >= 4 else 0.0),
        strict=True,
    ):
        yield row(name, Spot(panel.x(tick), panel.top + panel.height + 9, "center"), "mut")
    marks: list[Box] = []
    spots: dict[str, list[Spot]] = {}
    for symbol, key, *_ in CURVES:
        inside = [
            (panel.x(x), panel.y(v))
            for x, v in zip(each["x"], each[key], strict=True)
            if math.isfinite(v) and panel.y_low <= v <= panel.y_high
        ]
        marks += [Box(x - 3, y - 3, x + 3, y + 3) for x, y in inside]
        some = inside[:: max(len(inside) // 16, 1)]
        spots[symbol] = [Spot(x, y + side, "center") for side in (-12, 12) for x, y in reversed(some)]
    room = Box(panel.left, panel.top - 2, panel.left + panel.width, panel.top + panel.height)
    yield from place(
        [Label(symbol, tuple(spots[symbol]), color, bold=True) for symbol, _, color, *_ in CURVES], marks, room
    )
