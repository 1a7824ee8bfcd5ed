"""The backward staircase: the error signal of every layer, from the output on the right back to the input."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from unvanish.charts import WIDTH, Row, Tables, picture
from unvanish.charts.labels import HALF, Box, Label, Spot, box, place, row
from unvanish.charts.layer_axis import LayerAxis, layer_axis
from unvanish.charts.layout import Frame, column, parameters, words, x_axis, y_axis
from unvanish.charts.levels import Levels, levels
from unvanish.charts.measure import shorten
from unvanish.charts.theme import SERIES, token
from unvanish.charts.verdicts import runs, strip, symbol
from unvanish.records import UnvanishError
from unvanish.words.numbers import SMALLEST_NORMAL, amount, raise_powers

Numbers = Sequence[float | None]

LEFT, RIGHT, PLOT_HEIGHT = 56, 22, 210
TOP_PLAIN, TOP_VERDICTS = 24, 40
STEP_SLOT, SYMBOL_SLOT, TICK_SLOT = 2.5, 12.0, 5.0
"""Pixels a layer needs to be drawn as a step, with a symbol, and with a tick for its weight gradient."""
FINEST = 0.5
"""Pixels: layers closer than that are thinned out, extremes kept."""
SIGNAL, WEIGHTS, ENTERS = "error signal per sample", "pale: weight gradient", "error at the output "


@picture(
    "staircase",
    "Where did the gradient go?",
    tables=("lines", "symbols", "weight_ticks", "floors", "verdicts", "labels"),
)
def template() -> Any:
    import altair as alt

    x, y = x_axis(), y_axis()
    floors = alt.Chart(alt.NamedData("floors")).mark_rule(color=column("color"), strokeDash=[5, 4]).encode(y=y)
    ticks = alt.Chart(alt.NamedData("weight_ticks")).mark_rule(color=token("pale"), strokeWidth=3)
    lines = alt.Chart(alt.NamedData("lines")).mark_line(
        stroke=column("color"), strokeDash=column("dash"), strokeWidth=column("thick"), strokeJoin="miter"
    )
    symbols = alt.Chart(alt.NamedData("symbols")).mark_point(
        shape=column("shape"), stroke=column("stroke"), fill=column("fill"), size=46, strokeWidth=1.6, opacity=1
    )
    bars = alt.Chart(alt.NamedData("verdicts")).mark_rule(color=column("color"), strokeWidth=3, y=-4)
    return alt.layer(
        floors,
        ticks.encode(x=x, x2="x2:Q", y=y),
        lines.encode(x=x, y=y, detail="line:N", order="order:Q"),
        symbols.encode(x=x, y=y),
        bars.encode(x=x, x2="x2:Q"),
        words(),
    ).add_params(*parameters())


def tables(
    names: Sequence[str],
    log10_signal: Numbers,
    log10_grad_norm: Numbers | None = None,
    dtype: str = "",
    verdicts: Sequence[str] | None = None,
    compare: Sequence[tuple[str, Numbers]] = (),
    *,
    starts: Sequence[int] = (),
    line: str = "",
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the staircase: names and log10 of the error signal per layer, input side first.

    None is a gap (not measured), -inf a cliff to "0" (exactly zero). ``compare``: more lines, (label, log10 of the
    signal), set against the output end. ``dtype``: the number type in use, whose floor is stressed. ``starts``: the
    places of layers that no other lies before, rising, as where a second network begins: no step leads there.
    """
    count = len(names)
    if not count or len(log10_signal) != count:
        raise UnvanishError(
            f"drawing a staircase: found {count} names and {len(log10_signal)} signals; give one signal for each layer"
        )
    scale = levels([*log10_signal, *(log10_grad_norm or ()), *(each for _, line in compare for each in line)])
    axis = layer_axis(names, width - LEFT - RIGHT)
    frame = _frame(axis, scale, width, height, verdicts is not None, max([count, *(len(line) for _, line in compare)]))
    slot = frame.x(2) - frame.x(1)
    weights = _weights(log10_grad_norm or (), scale)
    lines: list[Row] = []
    if slot < TICK_SLOT:
        lines += _line(log10_grad_norm or (), scale, "weights", _look("pale", (1, 0), 1.5), slot, count)
    for series, values in enumerate([log10_signal, *(line for _, line in compare)]):
        look = _look(*SERIES[series % len(SERIES)], 1.8 if series else 2.25)
        lines += _line(values, scale, f"{series}", look, slot, count, () if series else starts)
    bars, said = strip(verdicts, frame) if verdicts is not None else ([], [])
    ticks, tick_names = scale.ticks(frame.plot_height)
    grid = [frame.y(tick) for tick in ticks]
    floors = _floors(frame, dtype, grid)
    rules = [{"x": frame.x_low, "x2": frame.x_high, "y": each["y"]} for each, _ in floors]
    marks = _covered(lines, [*weights, *rules], frame)
    labels = [*_own(axis, log10_signal, scale, frame, line), *_of_others(compare, scale, frame, count)]
    labels += [label for _, label in floors]
    labels += [*_gaps(log10_signal, frame), *_of_weights(weights, frame, grid)]
    # a floor whose name finds no room is not drawn either: a line that says nothing is a riddle
    placed = place(labels, marks, Box(0, 0, frame.plot_width + RIGHT, frame.plot_height))
    texts = {each["text"] for each in placed}
    corner = Spot(-LEFT + 6, -frame.top + 12)
    # where the weight gradients lie so near to the line that no place beside them is free, the corner names them
    title = f"{SIGNAL}; {WEIGHTS}" if weights and WEIGHTS not in texts else SIGNAL
    heads = place(said, [], Box(-LEFT, -frame.top, frame.plot_width + RIGHT, 0), [box(title, corner)])
    return {
        "frame": [frame.row(*axis.ticks(frame.plot_width), ticks, tick_names)],
        "lines": lines,
        "symbols": _symbols(log10_signal, scale, verdicts) if slot >= SYMBOL_SLOT else [],
        "weight_ticks": weights if slot >= TICK_SLOT else [],
        "floors": [each for each, label in floors if label.text in texts],
        "verdicts": bars,
        "labels": [row(title, corner, "mut"), *heads, *placed, *axis.labels(frame)],
    }


def _frame(axis: LayerAxis, scale: Levels, width: float, height: float | None, judged: bool, longest: int) -> Frame:
    count = len(axis.names)
    top = TOP_VERDICTS if judged else TOP_PLAIN
    height = height or top + PLOT_HEIGHT + axis.bottom
    low, high = scale.range(height - top - axis.bottom, 20, 20)
    return Frame(
        width=width, height=height, left=LEFT, right=RIGHT, top=top, bottom=axis.bottom,
        x_low=count - longest + 0.5, x_high=count + 0.5, y_low=low, y_high=high,
    )  # fmt: skip


def _look(color: str, dash: Sequence[int], thick: float) -> Row:
    return {"color": token(color), "dash": list(dash), "thick": thick}


def _line(
    values: Numbers, scale: Levels, name: str, look: Row, slot: float, count: int, starts: Sequence[int] = ()
) -> Iterator[Row]:
    """Corners of the steps, or one point a layer where steps would be finer than the pen; a gap begins a new line."""
    piece = order = 0
    for index, value in _thinned(values, math.ceil(FINEST / slot)):
        at, level = index + count - len(values) + 1, scale.at(value)
        if level is None:
            piece += 1
            continue
        for x in (at - 0.5, at + 0.5) if slot >= STEP_SLOT else (at,):
            order += 1
            line = f"{name}.{piece + bisect_right(starts, index)}"
            yield {"x": x, "y": level, "line": line, "order": order, **look}


def _thinned(values: Numbers, together: int) -> Iterator[tuple[int, float | None]]:
    """(place, value) in order; of so many neighbours, which share a spot of the pen, the gaps and the two extremes."""
    if together == 1:
        yield from enumerate(values)
        return
    for start in range(0, len(values), together):
        group = range(start, min(start + together, len(values)))
        known = [at for at in group if (value := values[at]) is not None and not math.isnan(value)]
        kept = {at for at in group if at not in known}
        if known:
            level = {at: values[at] or 0.0 for at in known}
            kept |= {min(known, key=level.__getitem__), max(known, key=level.__getitem__)}
        yield from ((at, values[at]) for at in sorted(kept))


def _symbols(values: Numbers, scale: Levels, verdicts: Sequence[str] | None) -> list[Row]:
    said = verdicts or [None] * len(values)
    return [
        {"x": at, "y": level, **symbol(verdict)}
        for at, (value, verdict) in enumerate(zip(values, said, strict=True), 1)
        if (level := scale.at(value)) is not None
    ]


def _weights(values: Numbers, scale: Levels) -> list[Row]:
    return [
        {"x": at - 0.28, "x2": at + 0.28, "y": level}
        for at, value in enumerate(values, 1)
        if (level := scale.at(value)) is not None
    ]


def _covered(lines: Sequence[Row], level: Sequence[Row], frame: Frame) -> list[Box]:
    """What labels should keep off: every piece of a line and every level rule, with the width of the pen."""
    corners = [(each["line"], frame.x(each["x"]), frame.y(each["y"])) for each in lines]
    boxes = [
        Box(min(x, x2) - 4, min(y, y2) - 4, max(x, x2) + 4, max(y, y2) + 4)
        for (one, x, y), (two, x2, y2) in pairwise(corners)
        if one == two
    ]
    for each in level:
        y = frame.y(each["y"])
        boxes.append(Box(frame.x(each["x"]) - 2, y - 2, frame.x(each["x2"]) + 2, y + 2))
    return boxes


def _own(axis: LayerAxis, values: Numbers, scale: Levels, frame: Frame, line: str) -> Iterator[Label]:
    """The error where it enters, the first layer, the worst one, and a place where the signal is exactly zero."""
    known = [at for at, value in enumerate(values) if scale.at(value) is not None]
    if not known:
        return

    def label(at: int, align: str, prefix: str = "", needed: bool = False) -> Label:
        name = "" if axis.named else f"{shorten(axis.names[at], frame.plot_width * 0.3, bold=True)}: "
        x = {"left": frame.x(at + 0.5) + 2, "right": frame.x(at + 1.5) - 2, "center": frame.x(at + 1)}[align]
        text = f"{prefix or name}{raise_powers(amount(values[at]))}"
        return Label(
            text, _beside(x, frame.y(scale.at(values[at]) or 0.0), align), bold=prefix != ENTERS, needed=needed
        )

    first, last = known[0], known[-1]
    yield label(last, "right", ENTERS, True)
    if first != last:
        yield label(first, "left", f"{shorten(line, frame.plot_width * 0.4, bold=True)}: " if line else "", needed=True)
    finite = [at for at in known if math.isfinite(values[at] or 0.0)]
    level = {at: values[at] or 0.0 for at in finite}
    zeros = [at for at in known if values[at] == -math.inf]
    if finite:
        ends = [level[at] for at in (first, last) if at in level]
        lowest, highest = min(finite, key=level.__getitem__), max(finite, key=level.__getitem__)
        for worst in (highest,) if zeros else (lowest, highest):
            if worst not in (first, last) and all(abs(level[worst] - end) > 1 for end in ends):
                yield label(worst, "center")
    if zeros and values[first] != -math.inf:
        yield label(zeros[len(zeros) // 2], "center")


def _beside(x: float, y: float, align: str, reach: float = 54) -> tuple[Spot, ...]:
    """Above or below a piece of the line, the nearest first."""
    return tuple(Spot(x, y + side * away, align) for away in (13, 20, 28, 40, 54) if away <= reach for side in (-1, 1))


def _of_others(compare: Sequence[tuple[str, Numbers]], scale: Levels, frame: Frame, count: int) -> Iterator[Label]:
    for series, (name, values) in enumerate(compare, 1):
        ends = [(at, level) for at, value in enumerate(values) if (level := scale.at(value)) is not None]
        color = SERIES[series % len(SERIES)][0]
        spots: list[Spot] = []
        for at, level in ends[:: max(len(ends) // 8, 1)]:
            x, y = frame.x(count - len(values) + at + 0.5), frame.y(level)
            spots += _beside(x + 4, y, "left")
        yield Label(shorten(name, frame.plot_width * 0.5, bold=True), tuple(spots), color, bold=True)


def _floors(frame: Frame, dtype: str, grid: Sequence[float]) -> list[tuple[Row, Label]]:
    """The smallest normal number of each type, where it lies in the range shown."""
    floors: list[tuple[Row, Label]] = []
    for level in sorted(set(SMALLEST_NORMAL.values()), reverse=True):
        types = [name for name, smallest in SMALLEST_NORMAL.items() if smallest == level]
        if not frame.y_low < level < frame.y_high:
            continue
        own = dtype in types
        color = "acc" if own else "mut"
        text = f"{dtype} ends here" if own else f"{' and '.join(types)} would end here"
        y, right = frame.y(level), frame.plot_width - 4
        spots = [
            Spot(x, y + side, align)
            for side in (8, -8)
            for x, align in ((right, "right"), (4, "left"), (right / 2, "center"))
        ]
        floors.append(({"y": level, "color": token(color)}, Label(text, _off(grid, spots), color)))
    return floors


def _off(grid: Sequence[float], spots: Sequence[Spot]) -> tuple[Spot, ...]:
    """The places which no line of the grid runs through, then the others."""
    return tuple(sorted(spots, key=lambda spot: any(abs(spot.y - y) < HALF for y in grid)))


def _gaps(values: Numbers, frame: Frame) -> Iterator[Label]:
    """What the widest gap of each kind means: nothing measured, or not a number."""
    kinds = ["" if value is not None and not math.isnan(value) else amount(value) for value in values]
    for text, first, last in sorted(runs(kinds), key=lambda run: run[1] - run[2]):
        if text and any(text == kind for kind in kinds):
            kinds = [kind for kind in kinds if kind != text]
            middle = frame.x((first + last) / 2)
            yield Label(
                text, tuple(Spot(middle, frame.plot_height * share, "center") for share in (0.5, 0.3, 0.7)), "mut"
            )


def _of_weights(weights: Sequence[Row], frame: Frame, grid: Sequence[float]) -> Iterator[Label]:
    """Beside one of them, on the side that the line leaves free: below and to the right of a rising one, say."""
    if weights:
        chosen = [weights[len(weights) * share // 8] for share in (4, 3, 5, 2, 6, 1, 7, 0)]
        spots = [
            spot
            for each in chosen
            for x, align in (("x", "left"), ("x2", "right"))
            for spot in _beside(frame.x(each[x]), frame.y(each["y"]), align, 20)
        ]
        yield Label(WEIGHTS, _off(grid, spots), "mut", clear=True)
