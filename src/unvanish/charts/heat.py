"""How do the layers fare over the steps: a heat map, step by layer, of factors (blue below ×1) or of shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low
from typing import Any

from unvanish.charts import WIDTH, Tables, picture
from unvanish.charts.diverging import Shares, cells, edges, key, key_width, layers, shades
from unvanish.charts.labels import Spot, row
from unvanish.charts.layout import Frame, parameters, whole, words, x_axis, y_axis
from unvanish.charts.linear import linear
from unvanish.charts.measure import shorten_all, text_width, wrap
from unvanish.charts.speeds import complete
from unvanish.words.numbers import ABSENT

Numbers = Sequence[float | None]

MOST_COLUMNS, MOST_ROWS = 120, 60
RIGHT, TOP, BOTTOM, LINE = 16, 46, 42, 16
CELL_HEIGHT, LEAST_HEIGHT = (6.0, 22.0), 120.0
NAMED_SLOT = 13.0
"""Pixels a layer needs for its name to stand beside it."""
SHOWN = 0.98
"""Share of the cells that are not at the end of the scale: a few far out must not take the colour from all others."""
NUMBERED = "layer (1 = next to the input)"


@picture(
    "heat",
    "How does each layer change over the steps?",
    tables=("cells", "hatching", "labels"),
)
def template() -> Any:
    import altair as alt

    parts = layers(x_axis(grid=False), y_axis(grid=False))
    return alt.layer(*parts, words()).add_params(*parameters())


def tables(
    steps: Sequence[float],
    names: Sequence[str],
    log10_ratio: Sequence[Numbers],
    *,
    quantity: str = "",
    share: bool = False,
    width: float = WIDTH,
    height: float | None = None,
) -> Tables:
    """The columns of the heat map: per layer the log10 of its factor, one a step; None and nan leave the place free.

    More than 120 steps or 60 layers are put together: a cell then shows the median of its factors (the lower one of two
    in the middle), and the picture says of how many. ``quantity``: what the factors are of, written above. ``share``:
    the numbers are shares from 0 to 1, or differences of shares, not logarithms.
    """
    complete(steps, names, log10_ratio)
    rows, columns = pieces(len(names), MOST_ROWS), pieces(len(steps), MOST_COLUMNS)
    grid = [[middle([log10_ratio[at][step] for at in own for step in span]) for span in columns] for own in rows]
    known = [value for line in grid for value in line]
    scale = Shares(any((value or 0.0) < 0.0 for value in known)) if share else shades(known, SHOWN)
    told = [each for text in _told(quantity, rows, columns) for each in wrap(text, width - 12)]
    beside = max(map(text_width, told), default=0) + key_width(scale) + 30 <= width
    top = TOP if beside else TOP + LINE * len(told)
    frame, axis = _frame(steps, names, rows, top, width, height)
    shaded = [[scale.of(value) for value in line] for line in grid]
    across = edges(steps)
    x = [across[span.start] for span in columns] + across[-1:]
    drawn, hatching = cells(shaded, x, [own.start + 0.5 for own in rows] + [len(names) + 0.5])
    free = f"blank: {ABSENT}" if any(each is None for line in shaded for each in line) else ""
    boxes, lines, said = key(scale, frame, 4 - TOP, free)
    ticks = linear(frame.x_low, frame.x_high, frame.plot_width, 56, 1)
    labels = [row(text, Spot(-frame.left + 6, -top + 9 + LINE * at), "mut") for at, text in enumerate(told)]
    labels.append(row("training step", Spot(frame.plot_width / 2, frame.plot_height + 30, "center"), "mut"))
    if not axis:
        labels.append(row(NUMBERED, Spot(-frame.left + 10, frame.plot_height / 2, "center"), "mut", angle=-90))
    layer_ticks = ([*range(1, len(names) + 1)], axis) if axis else whole(len(names), frame.plot_height, 22)
    return {
        "frame": [frame.row(*ticks, *layer_ticks)],
        "cells": [*drawn, *boxes],
        "hatching": [*hatching, *lines],
        "labels": [*said, *labels],
    }


def pieces(count: int, most: int) -> list[range]:
    """At most ``most`` neighbouring pieces of ``count`` places, as equal as they can be."""
    share = min(count, most)
    return [range(count * at // share, count * (at + 1) // share) for at in range(share)]


def middle(values: Numbers) -> float | None:
    """The median of what was measured, the lower of two; None where nothing was."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return median_low(known) if known else None


def _frame(
    steps: Sequence[float], names: Sequence[str], rows: Sequence[range], top: float, width: float, height: float | None
) -> tuple[Frame, tuple[str, ...]]:
    """The geometry, and the names beside the rows where there is room for them."""
    least, most = CELL_HEIGHT
    free = min(max(LEAST_HEIGHT, least * len(rows), NAMED_SLOT * 20), most * len(rows))
    tall = height - top - BOTTOM if height else free
    named = shorten_all(names, width * 0.25) if tall / len(names) >= NAMED_SLOT else ()
    left = 16 + max(map(text_width, named)) if named else 32 + text_width(f"{len(names):,}")
    across = edges(steps)
    frame = Frame(
        width=width, height=tall + top + BOTTOM, left=left, right=RIGHT, top=top, bottom=BOTTOM,
        x_low=across[0], x_high=across[-1], y_low=len(names) + 0.5, y_high=0.5,
    )  # fmt: skip
    return frame, named


def _told(quantity: str, rows: Sequence[range], columns: Sequence[range]) -> list[str]:
    """What is shown, and of how many numbers each cell is the median."""
    most = ((max(map(len, rows)), "layers"), (max(map(len, columns)), "steps"))
    sizes = [f"{size:,} {word}" for size, word in most if size > 1]
    return [text for text in (quantity, f"a cell: median of up to {' × '.join(sizes)}" if sizes else "") if text]
