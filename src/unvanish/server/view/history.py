"""A run's whole history in a few hundred stretches of steps, kept up to date while the run is written.

Of each stretch the lowest and the highest of each number stay, so that no peak is lost; when the run has outgrown its
stretches, two become one. New rows of the file are all that is read after the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unvanish.records import UnvanishError
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, SERIES

PLACES = 512
"""Stretches at least, once the run is that long; at most twice as many."""
CHUNK = 256
"""Rows that are worked on together."""
DERIVED = ("signal", "gradient", "signal_of_output", "gradient_of_median", "update", "saturated", "dead", "weights")
"""What is kept of a layer, logarithms but for the shares: its error signal and gradient as they are, over the signal at
the output and over the median gradient of the same step; the update over the weights; the shares; the weights' norm."""

Array = Any
"""A NumPy array; its shape stands beside it."""


@dataclass(frozen=True)
class Layout:
    """The layers in the order in which they ran, and for each the last layer of its group."""

    names: tuple[str, ...]
    order: tuple[int, ...]
    ends: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]


def layout_of(file: Reader) -> Layout:
    """The layers of a file as its last sample had them."""
    names = tuple(column.name for column in file.columns())
    count = len(names)
    ran = [at for at in file.facts.get("order") or range(count) if 0 <= at < count]
    order = (*ran, *(at for at in range(count) if at not in set(ran)))
    place = {at: rank for rank, at in enumerate(order)}
    groups = [tuple(at for at in group if 0 <= at < count) for group in file.facts.get("groups") or [order]]
    ends = list(range(count))
    for group in groups:
        for at in group:
            ends[at] = max(group, key=place.__getitem__)
    return Layout(names, order, tuple(ends), tuple(groups))


class History:
    """The stretches of one run. ``update(file)`` reads what is new; the arrays hold NaN where nothing was measured.

    ``low``, ``high``: stretch × layer × DERIVED; ``series_low``, ``series_high``, ``series``: stretch × SERIES, the
    third of them the last value. ``first``: the first sampled step of each stretch, -1 where there is none.
    """

    def __init__(self) -> None:
        self.started: Any = None
        self._clear()

    def _clear(self) -> None:
        self.layout = Layout((), (), (), ())
        self.width, self.last, self.samples = 1, -1, 0
        self._shape(0)

    def _shape(self, layers: int) -> None:
        self.low = np.full((2 * PLACES, layers, len(DERIVED)), np.nan, np.float32)
        self.high = self.low.copy()
        self.series_low = np.full((2 * PLACES, len(SERIES)), np.nan)
        self.series_high, self.series = self.series_low.copy(), self.series_low.copy()
        self.first = np.full(2 * PLACES, -1, np.int64)

    def update(self, file: Reader) -> bool:
        """Read what has come since; whether there was anything. A file that was begun anew is read from its start."""
        began = file.facts.get("started")
        (newest,) = file.ask("SELECT MAX(step) FROM samples WHERE step <= ?", (self.last,))[0]
        # what was known was thinned together with what was not
        thinned = file.ask("SELECT 1 FROM samples WHERE step = ? AND last > ?", (newest, self.last))
        layout = layout_of(file)
        if began != self.started or thinned or layout != self.layout:
            self._clear()
            self.started, self.layout = began, layout
            self._shape(len(layout.names))
            self.width = max(int(file.facts.get("every", 1)), 1)
            (end,) = file.ask("SELECT MAX(last) FROM samples")[0]
            while (end or 0) // self.width >= 2 * PLACES:
                self.width *= 2
        before = self.last
        for rows in self._rows(file):
            self._take(rows)
        return self.last != before

    def _rows(self, file: Reader) -> Iterator[list[tuple[Any, ...]]]:
        """The rows after the last known one, in pieces; the connection holds no snapshot in between."""
        while True:
            rows = file.ask(
                "SELECT step, last, series, lowest, highest FROM samples WHERE step > ? ORDER BY step LIMIT ?",
                (self.last, CHUNK),
            )
            if not rows:
                return
            yield rows

    def _take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        steps = np.array([(first, last) for first, last, *_ in rows], np.int64)
        series = np.array([np.frombuffer(row[2], "<f8") for row in rows])
        low = self._derived(np.stack([self._numbers(row[3]) for row in rows]))
        same = all(row[4] is None for row in rows)
        high = low if same else self._derived(np.stack([self._numbers(row[4] or row[3]) for row in rows]))
        low, high = np.fmin(low, high), np.fmax(low, high)  # what is relative to another number may have crossed
        self.last, self.samples = int(steps[-1, 1]), self.samples + len(rows)
        while steps[-1, 1] // self.width >= 2 * PLACES:
            self._halve()
        begin, end = steps[:, 0] // self.width, steps[:, 1] // self.width
        spans = end - begin + 1  # a thinned row may reach over several stretches
        row = np.repeat(np.arange(len(rows)), spans)
        place = np.concatenate([np.arange(a, b + 1) for a, b in zip(begin, end, strict=True)])
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        at = place[starts]
        self.low[at] = np.fmin(self.low[at], np.fmin.reduceat(low[row], starts, axis=0))
        self.high[at] = np.fmax(self.high[at], np.fmax.reduceat(high[row], starts, axis=0))
        self.series_low[at] = np.fmin(self.series_low[at], np.fmin.reduceat(series[row], starts, axis=0))
        self.series_high[at] = np.fmax(self.series_high[at], np.fmax.reduceat(series[row], starts, axis=0))
        self.series[place] = series[row]
        fresh = self.first[at] < 0
        self.first[at[fresh]] = np.maximum(steps[row[starts[fresh]], 0], at[fresh] * self.width)

    def _numbers(self, blob: bytes) -> Array:
        """Layer × FIELDS; a row from before a layer was added is shorter."""
        layers, width = len(self.layout.names), len(FIELDS)
        found = np.frombuffer(blob, "<f4")
        if len(found) % width or len(found) > layers * width:
            raise UnvanishError("a sample of this run holds another number of layers than the run has")
        if len(found) < layers * width:
            found = np.concatenate([found, np.full(layers * width - len(found), np.nan, np.float32)])
        return found.reshape(layers, width)

    def _derived(self, numbers: Array) -> Array:
        """Row × layer × FIELDS to row × layer × DERIVED."""
        field = {name: numbers[:, :, place] for place, name in enumerate(FIELDS)}
        signal, gradient = field["log10_signal"], field["log10_grad_norm"]
        relative = np.full_like(gradient, np.nan)
        with np.errstate(all="ignore"):
            for group in self.layout.groups:
                mine = gradient[:, list(group)]
                relative[:, list(group)] = mine - _medians(mine)[:, None]
            output = signal - signal[:, list(self.layout.ends)] if self.layout.ends else signal
            update = np.log10(field["update_to_weight_ratio"])
        shares = field["saturated_fraction"], field["dead_fraction"]
        return np.stack([signal, gradient, output, relative, update, *shares, field["log10_weight_norm"]], axis=2)

    def _halve(self) -> None:
        """Two stretches become one."""
        for name, join in (("low", np.fmin), ("high", np.fmax), ("series_low", np.fmin), ("series_high", np.fmax)):
            old = getattr(self, name)
            new = np.full_like(old, np.nan)
            new[:PLACES] = join(old[0::2], old[1::2])
            setattr(self, name, new)
        later = np.where((self.first[1::2] >= 0)[:, None], self.series[1::2], self.series[0::2])
        self.series = np.concatenate([later, np.full_like(later, np.nan)])
        a, b = self.first[0::2], self.first[1::2]
        self.first = np.concatenate([np.where(a >= 0, a, b), np.full(PLACES, -1, np.int64)])
        self.width *= 2

    @property
    def places(self) -> Array:
        """The stretches that hold something."""
        return np.flatnonzero(self.first >= 0)


def _medians(values: Array) -> Array:
    """The median of the finite numbers of each row; NaN for a row without any. NumPy's own takes ten times as long."""
    known = np.isfinite(values)
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    count = known.sum(axis=1)
    rows = np.arange(len(values))
    low, high = ordered[rows, np.maximum(count - 1, 0) // 2], ordered[rows, np.minimum(count // 2, len(ordered[0]) - 1)]
    middle = 0.5 * (low + high)
    return np.where(count > 0, middle, np.nan)
