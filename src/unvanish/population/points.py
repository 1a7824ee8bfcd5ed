"""Any stretch of a grid's points, worked out when it is needed: a point is known by its number alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from unvanish.population.grid import Axis, Grid
from unvanish.population.names import OUTERMOST

Point = dict[str, Any]


def points(grid: Grid, start: int, stop: int) -> list[Point]:
    """The settings of the points ``start`` … ``stop`` − 1: what varies, without what is fixed."""
    if grid.design == "grid":
        return [_combined(grid, number) for number in range(start, stop)]
    shares = _sobol(grid, start, stop) if grid.design == "sobol" else _random(grid, start, stop)
    return [
        dict(zip(grid.names, (a.at(s) for a, s in zip(grid.axes, row, strict=True)), strict=True)) for row in shares
    ]


def nested(grid: Grid) -> tuple[Axis, ...]:
    """The axes of a grid from the one that changes slowest to the one that changes fastest.

    Networks of one shape must be neighbours to run stacked, so the names that make a shape stand first.
    """
    place = {name: at for at, name in enumerate(OUTERMOST)}
    return tuple(sorted(grid.axes, key=lambda axis: place.get(axis.name, len(place))))


def _combined(grid: Grid, number: int) -> Point:
    point: Point = {}
    for axis in reversed(nested(grid)):
        number, at = divmod(number, len(axis.values))
        point[axis.name] = axis.values[at]
    return {name: point[name] for name in grid.names}


def _random(grid: Grid, start: int, stop: int) -> Iterator[list[float]]:
    for number in range(start, stop):
        source = random.Random(f"{grid.point_seed}/{number}")
        yield [source.random() for _ in grid.axes]


def _sobol(grid: Grid, start: int, stop: int) -> list[list[float]]:
    import torch

    engine = _engine(len(grid.axes), grid.point_seed)
    engine.reset()
    engine.fast_forward(start)
    return engine.draw(stop - start, dtype=torch.float64).clamp(0.0, 1.0).tolist()


@cache
def _engine(dimensions: int, seed: int) -> Any:
    import torch

    return torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)
