"""The rows of a stretch of points, whatever becomes of the process that works on it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

from unvanish.population.grid import Grid
from unvanish.population.points import points
from unvanish.population.row import Row, failed
from unvanish.workers.local import cores
from unvanish.workers.memory import share
from unvanish.workers.process import Limits, LostError, Process, UnstartedError, Work

Stretch = tuple[int, int]
TRIES = 2


def work_on(grid: Grid) -> Work:
    """What a process is started for."""
    return Work("unvanish.population.work:answer", pickle.dumps(replace(grid, lines={})))


def limits_of(grid: Grid, workers: int) -> Limits:
    """What a network of the user's may take where so many processes share the machine; those of the package: all."""
    if not grid.model[0]:
        return Limits()
    return Limits(grid.timeout, grid.memory * 2**30 if grid.memory else share(workers))


@cache
def _known(work: Work) -> tuple[Grid, Limits]:
    """The grid that a worker of Ray's was sent, and what a network may take on its machine."""
    grid: Grid = pickle.loads(work.shared)
    return grid, limits_of(grid, cores())


def on_ray(process: Process, work: Work, stretch: Stretch) -> list[Row]:
    """What is called on Ray for each stretch."""
    grid, limits = _known(work)
    return lasting(process, grid, stretch, limits)


def lasting(process: Process, grid: Grid, stretch: Stretch, limits: Limits) -> list[Row]:
    """The rows of the points from the first of a stretch to the one before its end.

    Networks of the package are tried again where the process dies, then in halves; one that takes its process with it
    twice is recorded as such. Networks of the user's go one by one.
    """
    start, stop = stretch
    if grid.model[0]:
        return [_alone(process, grid, at, seed, limits) for at in range(start, stop) for seed in range(grid.seeds)]
    said = ""
    for _ in range(TRIES):
        try:
            return process.ask((start, stop, range(grid.seeds)))
        except (LostError, UnstartedError) as error:
            said = str(error)
    if stop - start > 1:
        middle = (start + stop) // 2
        halves = (start, middle), (middle, stop)
        return [row for half in halves for row in lasting(process, grid, half, limits)]
    return lost(grid, start, stop, said)


def lost(grid: Grid, start: int, stop: int, said: str) -> list[Row]:
    """The rows of points that nothing could be found out about."""
    return [_lost(grid, at, seed, said) for at in range(start, stop) for seed in range(grid.seeds)]


def _alone(process: Process, grid: Grid, at: int, seed: int, limits: Limits) -> Row:
    try:
        return process.ask((at, at + 1, range(seed, seed + 1)), limits)[0]
    except (LostError, UnstartedError) as error:
        return _lost(grid, at, seed, str(error))


def _lost(grid: Grid, at: int, seed: int, said: str) -> Row:
    return (at, seed, *points(grid, at, at + 1)[0].values(), *failed(said))
