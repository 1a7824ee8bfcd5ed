"""Numbers in the blobs of a run file: little-endian, float32 of the layers, float64 of the whole step."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from unvanish.watching.sample import SERIES


def extremes(rows: Iterable[tuple[bytes, bytes | None]]) -> tuple[bytes, bytes]:
    """Of several rows the lowest and the highest of each number; NaN, not measured, counts for neither."""
    lows, highs = zip(*((numbers(low), numbers(high or low)) for low, high in rows), strict=True)
    return blob(_least(lows, min, math.inf)), blob(_least(highs, max, -math.inf))


def _least(rows: Sequence[Sequence[float]], least: Any, end: float) -> list[float]:
    """Of each number the least of all rows, or with ``max`` the largest; a row may be shorter than the others."""
    length = max(len(row) for row in rows)
    known = [[each if each == each else end for each in row] + [end] * (length - len(row)) for row in rows]
    found = list(map(least, *known)) if len(known) > 1 else known[0]
    for at in [at for at, value in enumerate(found) if value == end]:  # infinite, or nowhere measured
        if all(at >= len(row) or row[at] != row[at] for row in rows):
            found[at] = math.nan
    return found


def blob(values: Iterable[float], kind: str = "f") -> bytes:
    """Numbers as a run file holds them."""
    made = array.array(kind, values)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def numbers(data: bytes, kind: str = "f") -> array.array[float]:
    """What a blob of a run file holds."""
    found = array.array(kind)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def series_of(data: bytes) -> array.array[float]:
    """The numbers of ``sample.SERIES`` in a row; NaN for those that are younger than the file, none of later ones."""
    found = numbers(data, "d")[: len(SERIES)]
    found.extend([math.nan] * (len(SERIES) - len(found)))
    return found
