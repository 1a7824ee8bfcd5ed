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
from unvanish.watching.run_file import Reader, series_of
from unvanish.watching.sample import FIELDS, SERIES

PLACES = 512
"""Stretches at least, once the run is that long; at most twice as many."""
CHUNK = 256
"""Rows that are worked on together."""
KEPT = ("signal", "gradient", "update", "saturated", "dead")
"""What is kept of a layer: logarithms of its error signal, its gradient's norm and its update over its weights; shares
of saturated entries and of dead units."""
_PLACES = [
    FIELDS.index(name)
    for name in ("log10_signal", "log10_grad_norm", "update_to_weight_ratio", "saturated_fraction", "dead_fraction")
]

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


def run_of(file: Reader) -> str:
    """Changes when the file is begun anew, and when the run in it goes back to a checkpoint."""
    return f"{file.facts.get('started')}.{file.facts.get('resumed', '')}"


class History:
    """The stretches of one run. ``update(file)`` reads what is new; the arrays hold NaN where nothing was measured.

    ``low``, ``high``: stretch × layer × KEPT; ``series_low``, ``series_high``, ``series``: stretch × SERIES, the
    third of them the last value. ``first``: the first sampled step of each stretch, -1 where there is none.
    """

    def __init__(self) -> None:
        self.run = ""
        self._clear()

    def _clear(self) -> None:
        self.layout = Layout((), (), (), ())
        self.width, self.last, self.samples = 1, -1, 0
        self._shape(0)

    def _shape(self, layers: int) -> None:
        self.low = np.full((2 * PLACES, layers, len(KEPT)), np.nan, np.float32)
        self.high = self.low.copy()
        self.series_low = np.full((2 * PLACES, len(SERIES)), np.nan)
        self.series_high, self.series = self.series_low.copy(), self.series_low.copy()
        self.first = np.full(2 * PLACES, -1, np.int64)

    def update(self, file: Reader) -> bool:
        """Read what has come since; whether there was anything.

        A file is read from its start where it was begun anew, or where its run went back to a checkpoint.
        """
        began = run_of(file)
        (newest,) = file.ask("SELECT MAX(step) FROM samples WHERE step <= ?", (self.last,))[0]
        # what was known was thinned together with what was not
        thinned = file.ask("SELECT 1 FROM samples WHERE step = ? AND last > ?", (newest, self.last))
        layout = layout_of(file)
        if began != self.run or thinned or layout != self.layout:
            self._clear()
            self.run, self.layout = began, layout
            self._shape(len(layout.names))
            self.width = max(int(file.facts.get("every", 1)), 1)
            end = file.typed("SELECT last FROM samples ORDER BY step DESC LIMIT 1", (int,))
            while end and end[0][0] // self.width >= 2 * PLACES:
                self.width *= 2
        before = self.last
        for rows in self._rows(file):
            self._take(rows)
        return self.last != before

    def _rows(self, file: Reader) -> Iterator[list[tuple[Any, ...]]]:
        """The rows after the last known one, in pieces; the connection holds no snapshot in between."""
        while True:
            rows = file.rows("WHERE step > ? ORDER BY step LIMIT ?", (self.last, CHUNK))
            if not rows:
                return
            yield rows

    def _take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        steps = np.array([(first, last) for first, last, *_ in rows], np.int64)
        series = np.array([series_of(row[2])[: len(SERIES)] for row in rows])
        low = self._kept([row[3] for row in rows])
        high = low if all(row[4] is None for row in rows) else self._kept([row[4] or row[3] for row in rows])
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

    def _kept(self, blobs: Sequence[bytes]) -> Array:
        """Row × layer × KEPT; a row from before a layer was added is shorter."""
        layers, width = len(self.layout.names), len(FIELDS)
        found = np.full((len(blobs), layers * width), np.nan, np.float32)
        for at, blob in enumerate(blobs):
            numbers = np.frombuffer(blob, "<f4")
            if len(numbers) % width or len(numbers) > layers * width:
                raise UnvanishError("a sample of this run holds another number of layers than the run has")
            found[at, : len(numbers)] = numbers
        kept = found.reshape(len(blobs), layers, width)[:, :, _PLACES]
        with np.errstate(divide="ignore", invalid="ignore"):
            kept[:, :, KEPT.index("update")] = np.log10(kept[:, :, KEPT.index("update")])
        return kept

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
