"""Which factor is to blame: what one step back multiplies by, split into weights, slopes, norms and joins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median, median_low
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, around, place, row, spread
from unvanish.charts.layer_axis import LayerAxis, layer_axis
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.levels import Levels, levels
from unvanish.charts.measure import shorten, text_width
from unvanish.charts.theme import token
from unvanish.records import UnvanishError
from unvanish.words.numbers import decade, raise_powers, times

Numbers = Sequence[float | None]

LEFT, TOP, PLOT_HEIGHT = 62, 24, 180
LOOKS: dict[str, tuple[str, bool, tuple[int, ...]]] = {
    "weights": ("up", True, (1, 0)),
    "slopes": ("down", True, (7, 3)),
    "norms": ("ok", False, (2, 2)),
    "joins": ("vio", False, (9, 3, 2, 3)),
}
"""Per factor its colour, whether its bars are filled, and the dash of its line."""
OTHER = ("acc", False, (4, 2))
PRODUCT = "product"
BAR = 2.5
"""Pixels a bar needs; in a network too deep for that, the factors are lines."""
PEN = 2.5
"""Pixels between the points of a line; where layers are closer, neighbours share one point."""
OVER, OVER_SHORT = "a step back through the layer multiplies the signal by", "a step back multiplies by"


@picture("factors", "Which factor is to blame?", tables=("bars", "lines", "products", "one", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(), y_axis()
    bars = alt.Chart(alt.NamedData("bars")).mark_rect(
        stroke=column("stroke"), fill=column("fill"), strokeWidth=1, opacity=1
    )
    lines = alt.Chart(alt.NamedData("lines")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=1.6
    )
    one = alt.Chart(alt.NamedData("one")).mark_rule(color=token("mut"), strokeWidth=1.5)
    dots = alt.Chart(alt.NamedData("products")).mark_point(
        shape="circle", fill=token("fg"), stroke=token("bg"), strokeWidth=1, size=42, opacity=1
    )
    return alt.layer(
        bars.encode(x=x, x2="x2:Q", y=y, y2="y2:Q"),
        one.encode(y=y),
        lines.encode(x=x, y=y, detail="line:N", order="order:Q"),
        dots.encode(x=x, y=y),
        words(),
    ).add_params(*parameters())


def tables(
    names: Sequence[str],
    parts: Mapping[str, Numbers],
    gains: Numbers,
    *,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the factors: per layer, log10 of each part and of their product; None where there is none.

    Parts that are one everywhere are left out. At the right stands the median of each part over the layers.
    """
    count = len(names)
    wrong = [name for name, values in {**parts, PRODUCT: gains}.items() if len(values) != count]
    if wrong or not count:
        raise UnvanishError(
            f"drawing the factors of {count} layers: {', '.join(wrong) or 'the list'} has another length; "
            "give one number or None for each layer"
        )
    telling = {name: values for name, values in parts.items() if any(each not in (None, 0.0) for each in values)}
    scale = levels([0.0, *gains, *(each for values in telling.values() for each in values)], 1, 0.5)
    ends = _ends({**telling, PRODUCT: gains}, width)
    right = 18 + max(text_width(said, bold=True) for _, said, _ in ends)
    axis = layer_axis(names, width - LEFT - right)
    frame = _frame(axis, scale, width, height, right)
    slot = frame.x(2) - frame.x(1)
    as_bars = slot * 0.8 >= BAR * max(len(telling), 1)
    together = math.ceil(PEN / slot)
    lines: list[Row] = []
    if not as_bars:
        for name, values in {**telling, PRODUCT: gains}.items():
            lines += _line(name, _folded(values, together), scale)
    telling_steps = [] if as_bars else _extremes(gains)
    return {
        "frame": [frame.row(*axis.ticks(frame.plot_width), *_ticks(scale, frame))],
        "bars": list(_bars(telling, scale)) if as_bars else [],
        "lines": lines,
        "products": _dots(gains, scale, range(count) if as_bars else telling_steps),
        "one": [{"y": 0.0}],
        "labels": [
            row(OVER if text_width(OVER) < width - right - 6 else OVER_SHORT, Spot(-LEFT + 6, -TOP + 12), "mut"),
            row("median", Spot(frame.plot_width + 10, -TOP + 12), "mut"),
            *_end_labels(ends, scale, frame),
            *place(
                _said(names, gains, telling_steps, scale, frame, together),
                [Box(frame.x(x) - 5, frame.y(y) - 5, frame.x(x) + 5, frame.y(y) + 5) for x, y in _points(lines)],
                Box(0, 0, frame.plot_width, frame.plot_height),
            ),
            *axis.labels(frame),
        ],
    }


def _look(name: str) -> tuple[str, bool, tuple[int, ...]]:
    return ("fg", True, (1, 0)) if name == PRODUCT else LOOKS.get(name, OTHER)


def _frame(axis: LayerAxis, scale: Levels, width: float, height: float | None, right: float) -> Frame:
    height = height or TOP + PLOT_HEIGHT + axis.bottom
    low, high = scale.range(height - TOP - axis.bottom, 8, 8)
    return Frame(
        width=width, height=height, left=LEFT, right=right, top=TOP, bottom=axis.bottom,
        x_low=0.5, x_high=len(axis.names) + 0.5, y_low=low, y_high=high,
    )  # fmt: skip


def _ticks(scale: Levels, frame: Frame) -> tuple[list[float], list[str]]:
    """Factors at whole powers of ten; where there are too few of those, at halves of them too."""
    places, _ = scale.ticks(frame.plot_height)
    if scale.high - scale.low <= 2:
        whole = [place for place in places if place not in (scale.zero, scale.infinite)]
        halves = {place + half for place in whole for half in (-0.5, 0.5)}
        places = sorted({*places, *(place for place in halves if scale.low <= place <= scale.high)})
    return places, [_tick(place, scale) for place in places]


def _tick(place: float, scale: Levels) -> str:
    if place in (scale.zero, scale.infinite):
        return "×0" if place == scale.zero else "×∞"
    return raise_powers(times(place)) if abs(place) <= 2 else f"×{decade(round(place))}"


def _bars(parts: Mapping[str, Numbers], scale: Levels) -> Iterator[Row]:
    wide = 0.8 / max(len(parts), 1)
    for rank, (name, values) in enumerate(parts.items()):
        color, filled, _ = _look(name)
        look = {"stroke": token(color), "fill": token(color if filled else "bg")}
        for at, value in enumerate(values, 1):
            level = scale.at(value)
            if level is not None and level != 0.0:
                left = at - 0.4 + rank * wide
                yield {"x": left + wide * 0.06, "x2": left + wide * 0.94, "y": level, "y2": 0.0, **look}


def _folded(values: Numbers, together: int) -> list[tuple[float, float | None]]:
    """(place, median) of so many neighbouring layers at a time; None where none of them was measured."""
    points: list[tuple[float, float | None]] = []
    for start in range(0, len(values), together):
        group = values[start : start + together]
        known = [value for value in group if value is not None and not math.isnan(value)]
        points.append((start + (len(group) + 1) / 2, median_low(known) if known else None))
    return points


def _line(name: str, values: Sequence[tuple[float, float | None]], scale: Levels) -> Iterator[Row]:
    color, _, dash = _look(name)
    piece = 0
    for at, value in values:
        level = scale.at(value)
        if level is None:
            piece += 1
        else:
            line = {"line": f"{name}.{piece}", "order": at, "color": token(color), "dash": list(dash)}
            yield {"x": at, "y": level, **line}


def _points(lines: Sequence[Row]) -> Iterator[tuple[float, float]]:
    return ((each["x"], each["y"]) for each in lines)


def _dots(gains: Numbers, scale: Levels, places: Sequence[int]) -> list[Row]:
    return [{"x": at + 1, "y": level} for at in places if (level := scale.at(gains[at])) is not None]


def _extremes(gains: Numbers) -> list[int]:
    """The steps that shrink and grow the signal most, where they stand out from the median by a factor of ten."""
    known = {at: gain for at, gain in enumerate(gains) if gain is not None and not math.isnan(gain)}
    if not known:
        return []
    usual = median_low(known.values())
    ends = (min(known, key=known.__getitem__), max(known, key=known.__getitem__))
    # at a usual gain of exactly zero the difference is not a number, and nothing stands out
    return [at for at in dict.fromkeys(ends) if abs(known[at] - usual) >= 1]


def _said(
    names: Sequence[str], gains: Numbers, places: Sequence[int], scale: Levels, frame: Frame, together: int
) -> Iterator[Label]:
    for at in places:
        name = shorten(names[at], frame.plot_width * 0.4, bold=True)
        spots = around(frame.x(at + 1), frame.y(scale.at(gains[at]) or 0.0))
        yield Label(f"{name} {raise_powers(times(gains[at]))}", spots, bold=True)
    if together > 1:
        text = f"lines: medians of {together} neighbours"
        spots = tuple(Spot(4, frame.plot_height * share / 10) for share in (9, 1, 8, 2, 7, 3, 6, 4, 5))
        yield Label(text, spots, "mut")


def _ends(parts: Mapping[str, Numbers], width: float) -> list[tuple[str, str, float]]:
    """Per part its name, what stands at the right end, and its median."""
    ends: list[tuple[str, str, float]] = []
    for name, values in parts.items():
        known = [each for each in values if each is not None and not math.isnan(each)]
        if known:
            middle = median(known)
            ends.append((name, f"{shorten(name, width * 0.2, bold=True)} {raise_powers(times(middle))}", middle))
    return ends or [(PRODUCT, "not measured", 0.0)]


def _end_labels(ends: Sequence[tuple[str, str, float]], scale: Levels, frame: Frame) -> Iterator[Row]:
    places = [frame.y(scale.at(middle) or 0.0) for _, _, middle in ends]
    for (name, said, _), y in zip(ends, spread(places, 16, 6, frame.plot_height - 6), strict=True):
        yield row(said, Spot(frame.plot_width + 10, y), _look(name)[0], bold=True)
