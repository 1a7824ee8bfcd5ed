"""The pictures of a run, from its stretches: how fast layers learn, the series, and the map of steps and layers."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from unvanish.charts.diverging import SIDE, Shades
from unvanish.charts.speeds import chosen as chosen_of
from unvanish.lab.outcome import Drawing
from unvanish.records import UnvanishError
from unvanish.server.pictures import picture
from unvanish.server.view.history import KEPT, Array, History
from unvanish.watching.sample import SERIES
from unvanish.words.markup import visible
from unvanish.words.numbers import number, percent, raise_powers, times

COLUMNS, ROWS = 320, 400
"""Cells of the map at most, across and down: what a window has pixels for."""
POINTS = 90
"""Stretches of a line; each is drawn by its lowest and its highest value."""
LISTED = 60
"""Rows of the table of a line; the CSV file has them all."""
ALL_BUT = 0.98
"""Share of the cells that the colours tell apart."""
FINEST = 0.05
"""Decades: smaller changes are no picture's business."""
NOTHING = 255
USUAL_UPDATE = -3.0
"""log10 of an update over the weights that is usual: a thousandth a step."""
SEEN = {
    "signal": "error signal, over that at the output",
    "gradient": "gradient's norm, over the median of the layers",
    "update": "update over the weights, ×1 where it is a thousandth of them",
    "saturated": "share of saturated entries",
    "dead": "share of units that are off for the whole batch",
}
"""What the map can show, in words."""
SHARES = ("saturated", "dead")


def heat(history: History, seen: str, *, table: bool) -> dict[str, Any]:
    """The map of steps and layers as shades, 0 to 8, one byte a cell, row by row; 255 where nothing was measured.

    Cells that hold several numbers show the one farthest from the middle, so that no peak is lost.
    """
    if seen not in SEEN:
        raise UnvanishError(f"the map shows one of {', '.join(SEEN)}, not {seen!r}")
    low, high = relative(history, seen)
    names = [history.layout.names[at] for at in history.layout.order]
    values = _farthest(np.stack([low, high]))
    return {
        "quantity": seen,
        **shaded(values, names, history.places, history, share=seen in SHARES, words=SEEN[seen], table=table),
    }


def relative(history: History, seen: str) -> tuple[Array, Array]:
    """The lowest and the highest of each stretch, layer × stretch in the order of the run, over what it is told by.

    Lowest over lowest and highest over highest: so a stretch of many samples is no wider than one of few.
    """
    field, order = KEPT.index(seen), list(history.layout.order)
    low, high = (_relative(history, each[history.places][:, :, field].T, seen)[order] for each in
                 (history.low, history.high))  # fmt: skip
    return low, high


def _relative(history: History, values: Array, seen: str) -> Array:
    """Layer × stretch, in the order of the file."""
    values = values.astype(np.float64)
    if seen == "update":
        return values - USUAL_UPDATE
    if seen in SHARES:
        return values
    with np.errstate(invalid="ignore"):
        if seen == "signal":
            found = values - values[list(history.layout.ends)]
        else:
            found = np.full_like(values, np.nan)
            for group in map(list, history.layout.groups):
                found[group] = values[group] - _medians(values[group])
    return np.where(values == np.inf, np.inf, found)  # beside another infinity it has no size, and yet there it is


def _medians(values: Array) -> Array:
    """The median of the finite numbers of each column; NaN where there are none."""
    known = np.where(np.isfinite(values), values, np.nan)
    some = ~np.isnan(known).all(axis=0)
    found = np.full(values.shape[1], np.nan)
    found[some] = np.nanmedian(known[:, some], axis=0)
    return found


def shaded(
    values: Array, names: list[str], places: Array, history: History, *, share: bool, words: str, table: bool = True
) -> dict[str, Any]:  # fmt: skip
    """A map of layer × stretch in shades, with what its rows, columns and colours mean, and a ``table`` of a dozen."""
    rows, columns = _cuts(len(names), ROWS), _cuts(len(places), COLUMNS)
    cells = _joined(_joined(values, columns, axis=1), rows, axis=0)
    known = np.abs(cells[np.isfinite(cells)])
    scale = Shades(_unit(float(np.quantile(known, ALL_BUT)) if known.size and not share else 0.0))
    with np.errstate(invalid="ignore"):
        middle = cells * SIDE if share else cells / scale.unit
        levels = np.clip(np.nan_to_num(np.rint(middle), nan=0.0, posinf=SIDE, neginf=-SIDE), -SIDE, SIDE) + SIDE
    found = np.where(np.isnan(cells), NOTHING, levels).astype(np.uint8)
    signed = bool(share and known.size and np.nanmin(cells) < 0)
    ends = (("−100%" if signed else "0%"), "100%") if share else scale.ends
    steps = history.first[places[columns]] if len(places) else np.zeros(0, np.int64)
    return {
        "words": words, "rows": len(cells), "columns": len(steps), "cells": base64.b64encode(found.tobytes()).decode(),
        "names": [visible(names[at]) for at in rows], "numbers": [int(at) + 1 for at in rows], "layers": len(names),
        "steps": [int(each) for each in steps], "end": int(history.last), "share": share and not signed, "low": ends[0],
        "high": ends[1], "middle": "0" if share else "×1", "blank": bool((found == NOTHING).any()),
        **({"table": _table(cells, steps, share)} if table else {}),
    }  # fmt: skip


def _table(cells: Array, steps: Array, share: bool) -> dict[str, Any]:
    some = sorted({round(at * (len(cells[0]) - 1) / 11) for at in range(12)}) if cells.size else []
    rows = [[_said(float(line[at]), share) for at in some] for line in cells]
    return {"steps": [int(steps[at]) for at in some], "rows": rows}


def _unit(largest: float) -> float:
    """Decades from one colour to the next: the outermost is not exceeded, and it changes only in steps."""
    wanted = max(largest / SIDE, FINEST)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(leading * power for leading in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0) if leading * power >= wanted)


def _said(value: float, share: bool) -> str:
    if np.isnan(value):
        return "–"
    return percent(value) if share else raise_powers(times(value))


def _farthest(values: Array) -> Array:
    """Along the first axis the value farthest from 0; NaN where there is none."""
    size = np.where(np.isnan(values), -1.0, np.abs(values))
    return np.take_along_axis(values, size.argmax(axis=0)[None], axis=0)[0]


def _cuts(count: int, most: int) -> Array:
    """Where each of at most ``most`` pieces of so many places begins."""
    pieces = min(count, most)
    return np.arange(pieces) * count // max(pieces, 1)


def _joined(values: Array, cuts: Array, axis: int) -> Array:
    if values.shape[axis] <= len(cuts):
        return values
    high, low = np.fmax.reduceat(values, cuts, axis=axis), np.fmin.reduceat(values, cuts, axis=axis)
    return _farthest(np.stack([low, high]))


def lines(history: History, low: Array, high: Array) -> tuple[list[int], list[list[float | None]]]:
    """Steps, and of each column of stretch × line its values: the lowest and the highest of each piece."""
    places = history.places
    low, high = low[places], high[places]
    cuts = _cuts(len(places), POINTS)
    if len(places) > len(cuts):
        low, high = np.fmin.reduceat(low, cuts, axis=0), np.fmax.reduceat(high, cuts, axis=0)
    steps = history.first[places[cuts]]
    if np.array_equal(low, high, equal_nan=True):
        return [int(each) for each in steps], [_plain(low[:, at]) for at in range(low.shape[1])]
    after = np.append(steps[1:], max(history.last, int(steps[-1]) + 1))
    both = np.stack([steps, steps + np.maximum(after - steps, 2) // 2], axis=1).ravel()
    values = np.stack([low, high], axis=1).reshape(-1, low.shape[1])
    return [int(each) for each in both], [_plain(values[:, at]) for at in range(values.shape[1])]


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(each) else float(each) for each in values]


def shown(drawing: Drawing, *, table: bool = True) -> dict[str, Any]:
    """A picture as the page draws it; of a line over the steps its table has a few dozen rows, the last among them."""
    if not table:
        return {name: part for name, part in picture(drawing.replace(data=())).items() if name != "data"}
    rows = drawing.data if drawing.name == "staircase" else drawing.data[::-1][:: -(-len(drawing.data) // LISTED) or 1]
    return picture(drawing.replace(data=rows if drawing.name == "staircase" else rows[::-1]))


def speeds(history: History) -> Drawing | None:
    """How far each layer moves in a step, relative to its weights."""
    field, order = KEPT.index("update"), list(history.layout.order)
    low, high = history.low[:, order, field], history.high[:, order, field]
    moving = [at for at in range(len(order)) if np.isfinite(high[:, at]).any()]
    if not moving:
        return None
    chosen = [moving[at] for at in chosen_of(len(moving))]
    steps, values = lines(history, low[:, chosen], high[:, chosen])
    some = f": {len(chosen)} of {len(moving)} layers, evenly spaced" if len(chosen) < len(moving) else ""
    names = [visible(history.layout.names[order[at]]) for at in chosen]
    return Drawing.of(
        "speeds", "How fast does each layer learn?",
        "The update of a step over the weights it changes, a line a layer; a thousandth a step is usual.",
        steps, names, values, quantity=f"update over weights{some}",
    )  # fmt: skip


NORMS = {"log10_grad_norm": "before clipping", "log10_grad_norm_clipped": "after clipping"}


def logarithms(low: Array, high: Array) -> tuple[Array, Array, bool]:
    """Base-10 logarithms where every finite number is above 0, else the numbers; and whether they are logarithms."""
    if not low[np.isfinite(low)].min() > 0:
        return low, high, False
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(low), np.log10(high), True


def series(history: History) -> list[Drawing]:
    """The loss, the learning rate, and the gradient's norm before and after clipping."""
    drawings: list[Drawing] = []
    for name, title, words in (
        ("loss", "The loss", "the loss of the sampled steps"),
        ("learning_rate", "The learning rate", "the largest learning rate of the optimizers"),
        ("loss_scale", "The loss scale", "the factor of a GradScaler"),
        ("gradient_noise_scale", "The gradient noise scale", "the batch size at which noise and gradient are equal"),
    ):
        at = SERIES.index(name)
        low, high = history.series_low[:, [at]], history.series_high[:, [at]]
        if not np.isfinite(low).any():
            continue
        low, high, as_log = logarithms(low, high)
        steps, values = lines(history, low, high)
        last = _last(history, at)
        drawings.append(Drawing.of(
            "speeds", title, f"{words[0].upper()}{words[1:]}; {last}.", steps, [name.replace("_", " ")], values,
            quantity=name.replace("_", " "), log=as_log,
        ))  # fmt: skip
    picked = [SERIES.index(name) for name in NORMS]
    low, high = history.series_low[:, picked], history.series_high[:, picked]
    there = [at for at in range(len(picked)) if np.isfinite(high[:, at]).any()]
    if there:
        steps, values = lines(history, low[:, there], high[:, there])
        drawings.append(Drawing.of(
            "speeds", "The gradient's norm", "Of all layers together, as the backward left it and as the optimizer saw"
            " it.", steps, [list(NORMS.values())[at] for at in there], values, quantity="norm of the gradient",
        ))  # fmt: skip
    return drawings


def _last(history: History, at: int) -> str:
    """The newest number in words; of one that is not known any more, such as a loss that is nan, the last known."""
    places = history.places
    values = history.series[places, at]
    known = np.flatnonzero(~np.isnan(values))
    if not known.size:
        return "not measured"
    value = float(values[known[-1]])
    said = raise_powers(number(value))
    if known[-1] == len(values) - 1:
        return f"now {said}"
    return f"last {said}, at step {int(history.first[places[known[-1]]]):,}; since then not a number or not measured"
