"""The file of a sweep for an experiment to show: its points, each with the mean over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from unvanish.population.grid import Grid
from unvanish.population.sweeping import opened
from unvanish.records import UnvanishError

MOST = 2_000
"""Points of a file that a table and a picture can hold."""


@dataclass(frozen=True)
class Point:
    """One point of a sweep: what was set, and the rows of its seeds that did not fail."""

    settings: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def mean(self, name: str) -> float | None:
        """Of a column over the seeds; None where no seed has a finite number there."""
        found = [row[name] for row in self.rows if row[name] is not None and math.isfinite(row[name])]
        return fmean(found) if found else None


def swept(path: str, experiment: str) -> tuple[Grid, list[Point], str]:
    """The grid of a file, its points, and a note of what is missing, or "".

    Raises UnvanishError for what is no file of a sweep, one with too many points, and one of models of one's own.
    """
    done = opened(path)
    if done.grid.model[0]:
        raise UnvanishError(f"lab {experiment}: {path!r} is a sweep over models of your own, which this does not know")
    if done.grid.points > MOST:
        raise UnvanishError(f"lab {experiment}: {path!r} has {done.grid.points:,} points; it shows {MOST:,} at most")
    points = list(_points(done.points, done.grid))
    whole = sum(bool(point.rows) for point in points)
    missing = f"{done.grid.points - whole:,} of {done.grid.points:,} points are not in the file, or failed."
    return done.grid, [point for point in points if point.rows], missing if whole < done.grid.points else ""


def _points(rows: Any, grid: Grid) -> Iterator[Point]:
    names = (*grid.fixed, *grid.names)
    for _, some in groupby(rows, key=lambda row: row["point"]):
        own = tuple(some)
        yield Point({name: own[0][name] for name in names}, tuple(row for row in own if not row["error"]))
