"""The file of a sweep for an experiment to show: its points, each with the mean over its seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from unvanish.lab.parameters import Settings
from unvanish.population.grid import Grid
from unvanish.population.sweeping import opened
from unvanish.records import UnvanishError

MOST = 2_000
"""Points of a file that a table and a picture can hold."""
LISTED = 12
"""Values of a name that are listed; of more only the ends are told."""


@dataclass(frozen=True)
class Point:
    """One point of a sweep: what was set, and the rows of its seeds that did not fail."""

    settings: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    def mean(self, name: str) -> float | None:
        """Of a column over the seeds; None where no seed has a finite number there."""
        known = [row[name] for row in self.rows if row[name] is not None and math.isfinite(row[name])]
        return fmean(known) if known else None


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


def held(path: str, grid: Grid, points: Sequence[Point]) -> dict[str, Any]:
    """The settings of an outcome that shows these points: the file, and all values of each name in it."""
    named = {name: list(dict.fromkeys(point.settings[name] for point in points)) for name in (*grid.fixed, *grid.names)}
    run = {"seeds": grid.seeds} | ({"data": grid.data, "steps": grid.steps} if grid.train else {})
    return {"sweep": path, **{name: _told(values) for name, values in named.items()}, **run}


def _told(values: list[Any]) -> Any:
    """One value alone, some as a list, and of many numbers the ends."""
    if len(values) <= LISTED or any(isinstance(value, str) for value in values):
        return values[0] if len(values) == 1 else values
    return f"{min(values):.6g} … {max(values):.6g} ({len(values):,} values)"


def refuse_others(s: Settings, experiment: str, allowed: Collection[str] = ()) -> None:
    """UnvanishError where settings are given that a file of results leaves nothing to do for."""
    if others := [name for name in sorted(s.given) if name not in {"sweep", *allowed}]:
        raise UnvanishError(
            f"lab {experiment}: {others[0]} was given beside a sweep, whose networks have been measured already;"
            " leave one of the two out"
        )


def _points(rows: Any, grid: Grid) -> Iterator[Point]:
    names = (*grid.fixed, *grid.names)
    for _, some in groupby(rows, key=lambda row: row["point"]):
        own = tuple(some)
        yield Point({name: own[0][name] for name in names}, tuple(row for row in own if not row["error"]))
