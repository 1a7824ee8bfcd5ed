"""Which remedy helps: a dot with its range over seeds for each, sorted, beside chance and the network as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import Box, Label, Spot, place, row, slid
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.linear import ends, linear, plain
from unvanish.charts.measure import shorten_all, text_width, wrap
from unvanish.charts.plates import layer, plates
from unvanish.charts.theme import token
from unvanish.records import UnvanishError
from unvanish.words.numbers import raise_powers, times

SLOT, TOP, BOTTOM, LINE, SCORE_ROOM = 22, 42, 42, 15, 12
LONGEST_NAME = 0.36
"""Share of the width that names may take."""
GAINS = "signal at layer 1"
NO_SCORE = "no score"
FILLED = "filled dot: all seeds above “as is”"
LOOKS = {"as is": ("circle", "mut", "bg"), "better": ("circle", "down", "down"), "other": ("diamond", "up", "bg")}
"""Symbol, outline and ground: the network as it is, a remedy whose whole range lies above it, the others."""


@picture("remedies", "Which remedy helps?", tables=("slots", "rules", "ranges", "dots", "plates", "labels"))
def template() -> Any:
    import altair as alt

    x, y = x_axis(grid=True), y_axis(grid=False, labels=False)
    slots = alt.Chart(alt.NamedData("slots")).mark_rule(color=token("grid"), strokeWidth=1)
    rules = alt.Chart(alt.NamedData("rules")).mark_rule(
        color=column("color"), strokeDash=column("dash"), strokeWidth=1.4
    )
    ranges = alt.Chart(alt.NamedData("ranges")).mark_rule(color=column("color"), strokeWidth=3, strokeCap="round")
    dots = alt.Chart(alt.NamedData("dots")).mark_point(
        shape=column("shape"), stroke=column("stroke"), fill=column("fill"), size=62, strokeWidth=1.8, opacity=1
    )
    return alt.layer(
        slots.encode(x=x, x2="x2:Q", y=y),
        rules.encode(x=x),
        ranges.encode(x=x, x2="x2:Q", y=y),
        dots.encode(x=x, y=y),
        layer(x, y),
        words(),
    ).add_params(*parameters())


def tables(
    rows: Sequence[Mapping[str, Any]],
    chance: float | None = None,
    as_is: float | None = None,
    unit: str = "accuracy",
    *,
    gains: str = GAINS,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the remedies: rows with name, score, low, high, and perhaps gain (log10) and baseline (bool).

    ``low`` and ``high`` are the range over seeds; a score that is not finite gets no dot, and a row without ``gain``
    an empty place in the column named ``gains``. The best stands on top; higher scores are better.
    """
    if not rows:
        raise UnvanishError("drawing remedies: found no rows; give one for each remedy that was tried")
    order = sorted(rows, key=lambda each: -each["score"] if math.isfinite(each["score"]) else math.inf)
    names = shorten_all([str(each["name"]) for each in order], width * LONGEST_NAME)
    told = ["" if each.get("gain") is None else raise_powers(times(each["gain"])) for each in order]
    right = SCORE_ROOM + (max(map(text_width, [gains, *told])) + 12 if any(told) else 8)
    base = as_is if as_is is not None else next((each["score"] for each in order if each.get("baseline")), None)
    foot = _wrapped(unit, "" if base is None else FILLED, width - 12)
    bottom = BOTTOM + LINE * (len(foot) - 1)
    frame = _frame(order, [each for each in (chance, as_is) if each is not None], names, width, height, right, bottom)
    scored = [each for each in order if math.isfinite(each["score"])]
    looks = [_look(each, base) for each in order]
    ticks, tick_names = linear(frame.x_low, frame.x_high, frame.plot_width, 38)
    scores = _scores(order, [each for each in (chance, as_is) if each is not None], frame)
    return {
        "frame": [frame.row(ticks, tick_names, [], [])],
        "slots": [
            {"x": frame.x_low, "x2": frame.x_high, "y": at} for at, each in enumerate(order, 1) if each in scored
        ],
        "rules": [
            {"x": value, "color": token(color), "dash": dash}
            for value, color, dash in ((chance, "acc", [2, 3]), (as_is, "mut", [6, 3]))
            if value is not None
        ],
        "ranges": [
            {"x": each["low"], "x2": each["high"], "y": at, "color": token(look[1])}
            for at, (each, look) in enumerate(zip(order, looks, strict=True), 1)
            if math.isfinite(each["low"]) and math.isfinite(each["high"]) and each in scored
        ],
        "dots": [
            {"x": each["score"], "y": at, "shape": shape, "stroke": token(stroke), "fill": token(fill)}
            for at, (each, (shape, stroke, fill)) in enumerate(zip(order, looks, strict=True), 1)
            if each in scored
        ],
        "plates": plates(scores, frame),
        "labels": [
            *_heads(frame, chance, as_is, gains if any(told) else ""),
            *_beside(order, names, told, frame),
            *scores,
            *_foot(foot, frame),
        ],
    }


def _frame(
    rows: Sequence[Mapping[str, Any]], rules: Sequence[float], names: Sequence[str], width: float,
    height: float | None, right: float, bottom: float,
) -> Frame:  # fmt: skip
    low, high = ends([*rules, *(each[key] for each in rows for key in ("score", "low", "high"))])
    low = 0.0 if 0 <= low < high / 3 else low
    left = 16 + max(text_width(name, bold=True) for name in names)
    return Frame(
        width=width, height=height or TOP + bottom + SLOT * len(rows), left=left, right=right, top=TOP, bottom=bottom,
        x_low=low, x_high=high, y_low=len(rows) + 0.5, y_high=0.5,
    )  # fmt: skip


def _look(each: Mapping[str, Any], base: float | None) -> tuple[str, str, str]:
    if each.get("baseline"):
        return LOOKS["as is"]
    return LOOKS["better" if base is None or each["low"] > base else "other"]


def _beside(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], told: Sequence[str], frame: Frame
) -> Iterator[Row]:
    """The names at the left of the plot, the gains at its right, and words where there is no dot."""
    for at, (each, name, gain) in enumerate(zip(rows, names, told, strict=True), 1):
        y = frame.y(at)
        yield row(name, Spot(-10, y, "right"), "mut" if each.get("baseline") else "fg")
        if gain:
            yield row(gain, Spot(frame.plot_width + frame.right - 6, y, "right"), "fg")


def _wrapped(unit: str, meaning: str, room: float) -> list[str]:
    """Both in one line where there is room, else each in its own."""
    both = f"{unit}; {meaning}" if meaning else unit
    return [both] if text_width(both) <= room else [*wrap(unit, room), *wrap(meaning, room)]


def _foot(lines: Sequence[str], frame: Frame) -> Iterator[Row]:
    """What the axis shows, below the plot and within the picture."""
    whole = Box(-frame.left, 0, frame.plot_width + frame.right, frame.height)
    for at, text in enumerate(lines):
        spot = Spot(frame.plot_width / 2, frame.plot_height + 30 + LINE * at, "center")
        yield row(text, slid(text, spot, whole), "mut")


def _scores(rows: Sequence[Mapping[str, Any]], rules: Sequence[float], frame: Frame) -> list[Row]:
    """The scores in numbers behind their ranges, or before them where that covers less; words where there is none."""
    step = (frame.x_high - frame.x_low) / 100
    digits = 10.0 ** math.floor(math.log10(step))
    labels: list[Label] = []
    for at, each in enumerate(rows, 1):
        y = frame.y(at)
        if math.isfinite(each["score"]):
            reach = [frame.x(each[key]) for key in ("low", "score", "high") if math.isfinite(each[key])]
            spots = (Spot(max(reach) + 9, y), Spot(min(reach) - 9, y, "right"))
            labels.append(Label(plain(each["score"], digits), spots, "mut"))
        else:
            middle, right = frame.plot_width / 2, frame.plot_width - 8
            spots = (Spot(8, y), Spot(middle, y, "center"), Spot(right, y, "right"))
            labels.append(Label(NO_SCORE, spots, "mut"))
    marks = [Box(frame.x(rule) - 2, 0, frame.x(rule) + 2, frame.plot_height) for rule in rules]
    return place(labels, marks, Box(0, 0, frame.plot_width + SCORE_ROOM, frame.plot_height))


def _heads(frame: Frame, chance: float | None, as_is: float | None, gains: str) -> list[Row]:
    """What the two rules and the column at the right mean, in two lines above the plot."""
    labels: list[Label] = []
    if gains:
        labels.append(Label(gains, (Spot(frame.plot_width + frame.right - 6, -11, "right"),), "mut", needed=True))
    for value, text, color in ((chance, "chance", "acc"), (as_is, "as is", "mut")):
        if value is not None:
            x = frame.x(value)
            spots = [
                Spot(at, height, align)
                for height in (-11.0, -27.0)
                for at, align in ((x, "center"), (x, "left"), (x, "right"))
            ]
            labels.append(Label(text, tuple(spots), color, needed=True))
    return place(labels, [], Box(-frame.left, -TOP, frame.plot_width + frame.right, 0))
