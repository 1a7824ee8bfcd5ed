"""Factors as colours: blue below ×1, orange above it, and hatched too, so that the two differ without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from unvanish.charts import Row
from unvanish.charts.labels import Spot, row
from unvanish.charts.layout import Frame, column
from unvanish.charts.measure import text_width
from unvanish.charts.plates import back
from unvanish.charts.theme import DIVERGING, token
from unvanish.words.numbers import raise_powers, times

SIDE = len(DIVERGING) // 2
"""Colours on either side of the middle one."""
UNITS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0)
KEY_CELL, KEY_HEIGHT = 14.0, 10.0


@dataclass(frozen=True)
class Shades:
    """A symmetric scale of nine colours around ×1; ``unit``: decades from one colour to the next."""

    unit: float
    first, middle = 0, "×1"

    def of(self, log10: float | None) -> int | None:
        """The colour of a factor, from -4 to 4; None where it was not measured or is not a number."""
        if log10 is None or math.isnan(log10):
            return None
        if not math.isfinite(log10):
            return SIDE if log10 > 0 else -SIDE
        return max(-SIDE, min(SIDE, round(log10 / self.unit)))

    @property
    def ends(self) -> tuple[str, str]:
        """What the outermost colours stand for."""
        edge = self.unit * (SIDE - 0.5)
        return f"≤ {raise_powers(times(-edge))}", f"≥ {raise_powers(times(edge))}"


@dataclass(frozen=True)
class Shares:
    """The colours above the middle for shares from 0 to 1; all of them, from -1 to 1, where they are ``signed``."""

    signed: bool = False

    def of(self, share: float | None) -> int | None:
        """The colour of a share, from -4 to 4; None where it was not measured."""
        if share is None or math.isnan(share):
            return None
        return max(-SIDE, min(SIDE, round(share * SIDE)))

    @property
    def ends(self) -> tuple[str, str]:
        """What the outermost colours stand for."""
        return ("−100%" if self.signed else "0%"), "100%"

    @property
    def first(self) -> int:
        """The first colour that is used, of all nine."""
        return 0 if self.signed else SIDE

    @property
    def middle(self) -> str:
        """What the middle colour stands for, where it is no end."""
        return "0" if self.signed else ""


Scale = Shades | Shares


def shades(values: Iterable[float | None], shown: float = 1.0) -> Shades:
    """The finest scale whose outermost colours are not exceeded by a share ``shown`` of the finite factors."""
    sizes = sorted(abs(each) for each in values if each is not None and math.isfinite(each))
    largest = sizes[math.ceil(shown * len(sizes)) - 1] if sizes else 0.0
    wanted = largest / SIDE
    for unit in UNITS:
        if unit >= wanted:
            return Shades(unit)
    power = 10.0 ** math.floor(math.log10(wanted))
    return Shades(next(leading * power for leading in (1.0, 2.0, 5.0, 10.0) if leading * power >= wanted))


def cells(grid: Sequence[Sequence[int | None]], x: Sequence[float], y: Sequence[float]) -> tuple[list[Row], list[Row]]:
    """Rectangles between the edges ``x`` and ``y``, neighbours of one colour in a row joined; and the hatching.

    ``grid``: a row of shades for each interval of ``y``. A shade of None leaves the ground free.
    """
    filled: list[Row] = []
    for at, shaded in enumerate(grid):
        for shade, run in groupby(range(len(shaded)), key=shaded.__getitem__):
            places = list(run)
            if shade is not None:
                edges = {"x": x[places[0]], "x2": x[places[-1] + 1], "y": y[at], "y2": y[at + 1]}
                filled.append({**edges, "shade": shade, "color": _color(shade)})
    hatching = [
        {"x": each["x"], "x2": each["x2"], "y": (each["y"] + each["y2"]) / 2} for each in filled if each["shade"] > 0
    ]
    return [{key: value for key, value in each.items() if key != "shade"} for each in filled], hatching


def edges(places: Sequence[float]) -> list[float]:
    """The borders of intervals around the places, half way to their neighbours; a single one is 1 wide."""
    between = [(one + two) / 2 for one, two in pairwise(places)]
    first = between[0] - places[0] if between else 0.5
    last = places[-1] - between[-1] if between else 0.5
    return [places[0] - first, *between, places[-1] + last]


def key(scale: Scale, frame: Frame, top: float, missing: str = "") -> tuple[list[Row], list[Row], list[Row]]:
    """What the colours mean, at the right above the plot: more cells and hatching, and words on both sides.

    ``top``: pixels below the upper edge of the plot; ``missing``: what the free ground means, where there is some.
    """
    low, high = scale.ends
    end = frame.plot_width + frame.right - text_width(high) - 12
    colors = DIVERGING[scale.first :]
    start = end - KEY_CELL * len(colors)
    middle = top + KEY_HEIGHT / 2
    y, y2, between = (back(frame, 0, place)[1] for place in (top, top + KEY_HEIGHT, middle))
    x = [back(frame, start + place * KEY_CELL, 0)[0] for place in range(len(colors) + 1)]
    boxes = [{"x": x[at], "x2": x[at + 1], "y": y, "y2": y2, "color": token(name)} for at, name in enumerate(colors)]
    even = SIDE - scale.first
    hatching = [{"x": x[even + 1], "x2": x[-1], "y": between}]
    labels = [row(low, Spot(start - 6, middle, "right"), "mut"), row(high, Spot(end + 6, middle), "mut")]
    if scale.middle:
        labels.append(row(scale.middle, Spot(start + (even + 0.5) * KEY_CELL, top + KEY_HEIGHT + 9, "center"), "mut"))
    if missing:
        labels.append(row(missing, Spot(start - 6, middle + 15, "right"), "mut"))
    return boxes, hatching, labels


def key_width(scale: Scale) -> float:
    """The pixels that the key takes."""
    return sum(text_width(each) + 6 for each in scale.ends) + KEY_CELL * len(DIVERGING[scale.first :])


def layers(x: Any, y: Any) -> Iterator[Any]:
    """The Altair parts that draw the tables "cells" and "hatching"."""
    import altair as alt

    color = column("color")
    # the outline in the cell's own colour closes the seams that antialiasing leaves between cells
    cell = alt.Chart(alt.NamedData("cells")).mark_rect(fill=color, stroke=color, strokeWidth=0.9, opacity=1)
    hatch = alt.Chart(alt.NamedData("hatching")).mark_rule(color=token("bg"), strokeWidth=1)
    yield cell.encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
    yield hatch.encode(x=x, x2="x2:Q", y=y)


def _color(shade: int) -> str:
    return token(DIVERGING[shade + SIDE])
