"""The backward staircase in characters: numbers as powers of ten, bars on a log scale, long networks folded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from unvanish.records import LayerFlow
from unvanish.words.numbers import SMALLEST_NORMAL

BLOCKS = " ▏▎▍▌▋▊▉█"
LEAST_DECADES = 4
"""A bar chart of less than this many decades would blow harmless differences up."""
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
        """The range of their signals, such as "10^-9.3 … 10^-2.1"; zeros and unmeasured signals lie outside it."""
        found = _finite(self.layers)
        if not found:
            return ""
        low, high = power(min(found)), power(max(found))
        return low if low == high else f"{low} … {high}"


def power(log10: float | None) -> str:
    """A power of ten from its logarithm: "10^-27.3", "10^-600", "0 exactly"; "–" where it was not measured."""
    if log10 is None:
        return "–"
    if not math.isfinite(log10):
        return "0 exactly" if log10 == -math.inf else str(log10)
    # adding zero turns -0.0 into 0.0
    return f"10^{round(log10) + 0.0:.0f}" if abs(log10) >= 99.95 else f"10^{round(log10, 1) + 0.0:.1f}"


def times(log10: float | None) -> str:
    """A factor from its logarithm: "×0.25", "×12", far from one "×10^-6.2"; "–" where it was not measured."""
    if log10 is None:
        return "–"
    if not math.isfinite(log10):
        return "×0" if log10 == -math.inf else f"×{log10}"
    if not -2 <= log10 < 3:
        return f"×{power(log10)}"
    factor = 10**log10
    digits = 3 if factor < 0.0995 else 2 if factor < 9.995 else 1 if factor < 99.95 else 0
    return f"×{factor:.{digits}f}"


def number(value: float | None, digits: int = 4) -> str:
    """A plain number with a few digits, without exponent below 10^9; whole numbers in full."""
    if value is None:
        return "not measured"
    if not 1 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    if value == round(value, 0):
        return f"{value:,.0f}"
    short = float(f"{value:.{digits}g}")
    return f"{short:,.0f}" if short == round(short, 0) else f"{short:,.{digits}g}"


def size(log10: float | None) -> str:
    """A number from its logarithm: "0.57", "21", far from one "10^-11.6"; "0 exactly" for a true zero."""
    if log10 is None:
        return "not measured"
    return number(10**log10, 2) if -2 <= log10 < 3 else power(log10)


def percent(share: float | None) -> str:
    """A share as a percentage, "23%"; as a power of ten where that would take too many zeros."""
    if share is None:
        return "not measured"
    return power(math.log10(share)) if 0 < share < 1e-5 else f"{number(100 * share, 3)}%"


def bar_scale(layers: Sequence[LayerFlow], types: tuple[str, ...] = ()) -> Scale | None:
    """Whole decades around every finite signal, at least four of them; None where there is no finite signal."""
    found = _finite(layers)
    if not found:
        return None
    high = math.ceil(max(found))
    return Scale(min(math.floor(min(found)), high - LEAST_DECADES), high, types)


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
