"""The backward staircase in characters: numbers as powers of ten, bars on a log scale, long networks folded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from unvanish.records import LayerFlow
from unvanish.words.numbers import SMALLEST_NORMAL, amount

BLOCKS = " ▏▎▍▌▋▊▉█"
LEAST_DECADES = 4
"""Bars of less than this many decades would blow harmless differences up."""
UNFOLDED = 24
ENDS = 3


class Scale(NamedTuple):
    """The range of the bars, in log10: ``low`` is an empty bar, ``high`` a full one; and the number types in use."""

    low: float
    high: float
    types: tuple[str, ...] = ()

    def share(self, log10: float) -> float:
        """How far along the bar a value lies, from 0 to 1."""
        return min(max((log10 - self.low) / (self.high - self.low), 0.0), 1.0)


class Fold(NamedTuple):
    """Neighbouring layers shown as one row."""

    layers: tuple[LayerFlow, ...]

    @property
    def verdict(self) -> str:
        """The verdict they share, or "mixed"."""
        words = {layer.verdict for layer in self.layers}
        return words.pop() if len(words) == 1 else "mixed"

    @property
    def span(self) -> str:
        """The range of their signals, such as "10^-9.3 … 0.13"; zeros and unmeasured signals lie outside it."""
        signals = _finite(self.layers)
        if not signals:
            return ""
        low, high = amount(min(signals)), amount(max(signals))
        return low if low == high else f"{low} … {high}"


def bar_scale(layers: Sequence[LayerFlow], types: tuple[str, ...] = ()) -> Scale | None:
    """Whole decades around every finite signal, at least four of them; None where there is no finite signal."""
    signals = _finite(layers)
    if not signals:
        return None
    high = math.ceil(max(signals))
    return Scale(min(math.floor(min(signals)), high - LEAST_DECADES), high, types)


def marks(scale: Scale) -> list[tuple[str, float]]:
    """The number types in use whose smallest normal lies inside the scale, with its log10."""
    known = [(name, place) for name, place in SMALLEST_NORMAL.items() if name in scale.types]
    return [(name, place) for name, place in known if scale.low < place < scale.high]


def bar(log10: float | None, scale: Scale, width: int) -> tuple[str, str]:
    """The filled part of a bar of ``width`` cells, and the empty part with the marks of the number types.

    Exactly zero, nan and not measured have no bar; any other value has at least an eighth of a cell.
    """
    if log10 is None or math.isnan(log10) or log10 == -math.inf:
        filled = ""
    else:
        full, part = divmod(max(round(scale.share(log10) * width * 8), 1), 8)
        filled = BLOCKS[8] * full + (BLOCKS[part] if part else "")
    places = {min(int(scale.share(place) * width), width - 1) for _, place in marks(scale)}
    return filled, "".join("┊" if cell in places else " " for cell in range(len(filled), width))


def fold(layers: Sequence[LayerFlow]) -> list[LayerFlow | Fold]:
    """All layers of a short network; of a long one the ends, the extremes and the changes, the rest folded."""
    if len(layers) <= UNFOLDED:
        return list(layers)
    kept: set[int] = set()
    for place in _interesting(layers):
        if len(kept) < UNFOLDED:
            kept.add(place)
    rows: list[LayerFlow | Fold] = []
    for shown, group in groupby(range(len(layers)), key=kept.__contains__):
        members = tuple(layers[place] for place in group)
        rows.extend(members if shown or len(members) == 1 else [Fold(members)])
    return rows


def _interesting(layers: Sequence[LayerFlow]) -> Iterator[int]:
    """The places worth a row, the most telling first."""
    count = len(layers)
    yield from range(ENDS)
    yield from range(count - ENDS, count)
    signals = [layer.log10_signal for layer in layers]
    finite = [(value, place) for place, value in enumerate(signals) if value is not None and math.isfinite(value)]
    if finite:
        yield min(finite)[1]
        yield max(finite)[1]
    words = [layer.verdict for layer in layers]
    yield from (words.index(word) for word in dict.fromkeys(words))
    zeros = [value == -math.inf for value in signals]
    for marked in (zeros, words):
        for place in range(1, count):
            if marked[place - 1] != marked[place]:
                yield from (place - 1, place)


def _finite(layers: Sequence[LayerFlow]) -> list[float]:
    return [s for layer in layers if (s := layer.log10_signal) is not None and math.isfinite(s)]


def starts(layers: Sequence[LayerFlow]) -> list[int]:
    """The places of layers that no other lies before: no step back leads from there to their neighbour in the list.

    Empty where it was not asked which lies before which.
    """
    return [at for at, each in enumerate(layers) if not each.before] if any(each.before for each in layers) else []
