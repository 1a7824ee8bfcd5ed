"""One stretch of a sweep: from the numbers of its points to the rows that are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unvanish.decide.limits import EXPLODING, VANISHED
from unvanish.population import chains, data, factory, stacked
from unvanish.population.grid import Grid
from unvanish.population.names import ACTIVATIONS, NAMES
from unvanish.population.points import points
from unvanish.population.row import Row, failed
from unvanish.population.shape import Array, Shape, numbers_of, shape_of
from unvanish.population.training import Recipe, Trained, train
from unvanish.records import UnvanishError
from unvanish.theory.activations import CENTRED
from unvanish.theory.deep import log10_signal_ratio

TRAINING_BATCH = 32
SECOND = 5e9
"""Operations a second that a core gets through at the least; only the size of a stretch depends on it."""
LONGEST, LARGEST = 2.0, 4_096
"""Seconds and rows of a stretch: what a kill can cost, and what is held at once."""


def stretch(grid: Grid) -> int:
    """How many points are worked on at once: about two seconds of the dearest networks of the grid."""
    if grid.model[0]:
        return 1
    largest = {axis.name: max(axis.values, key=_size) if axis.values else axis.high for axis in grid.axes}
    settings = {**grid.fixed, **largest}
    whole = {key: int(value) if NAMES[key].whole else value for key, value in settings.items()}
    inputs, outputs = _sizes(grid)
    cost = shape_of(_trained(grid, whole), inputs, outputs).cost * grid.seeds
    if grid.train:
        cost *= 1.5 * grid.steps
    return max(1, min(LARGEST // grid.seeds, int(LONGEST * SECOND / cost)))


def _size(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _trained(grid: Grid, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the batch of a training; UnvanishError for more samples than there are images."""
    if not grid.train:
        return dict(settings)
    there = len(data.load(grid.data).train[1])
    if settings.get("batch", 0) > there:
        raise UnvanishError(
            f"{grid.place('batch')} = {settings['batch']} is more than the {there} images of {grid.data!r} to train on"
        )
    return {"batch": min(TRAINING_BATCH, there), **settings}


def _sizes(grid: Grid) -> tuple[int, int]:
    """Inputs and outputs of the networks, 0 where there are no data to say."""
    images = data.load(grid.data) if grid.train else None
    return (images.inputs, images.classes) if images else (0, 0)


def answer(grid: Grid, question: tuple[int, int, Sequence[int]]) -> list[Row]:
    """What a process that works for a sweep is asked: first point, the one behind the last, and seeds."""
    return rows(grid, *question)


def rows(grid: Grid, start: int, stop: int, seeds: Sequence[int] = ()) -> list[Row]:
    """The rows of the points ``start`` … ``stop`` − 1, seed by seed; a point that raises has its error in the row.

    ``seeds``: some of the grid's, for networks of the user's alone; the package's are worked on with all of them.
    """
    some = points(grid, start, stop)
    settings = [{**grid.fixed, **each} for each in some]
    seeds = seeds or range(grid.seeds)
    if grid.model[0]:
        measured = [factory.checked(grid.model, each, seed) for each in settings for seed in seeds]
    else:
        measured = _plain(grid, settings)
    heads = [(start + at, seed, *each.values()) for at, each in enumerate(some) for seed in seeds]
    return [(*head, *row) for head, row in zip(heads, measured, strict=True)]


def _plain(grid: Grid, settings: Sequence[dict[str, Any]]) -> list[Row]:
    """Networks of the package, those of one shape together."""
    together: dict[tuple[Shape, str], list[int]] = {}
    inputs, outputs = _sizes(grid)
    for at, each in enumerate(settings):
        shape = shape_of(_trained(grid, each), inputs, outputs)
        together.setdefault((shape, str(each.get("optimizer", NAMES["optimizer"].default))), []).append(at)
    rows_at: dict[int, list[Row]] = {}
    for (shape, optimizer), places in together.items():
        for at, seen in zip(places, _tried(grid, shape, optimizer, [settings[at] for at in places]), strict=True):
            rows_at[at] = seen
    return [row for at in range(len(settings)) for row in rows_at[at]]


def _tried(grid: Grid, shape: Shape, optimizer: str, some: list[dict[str, Any]]) -> Iterable[list[Row]]:
    """The rows of each point; where a group raises, its points are tried one by one."""
    try:
        return _group(grid, shape, optimizer, some)
    except Exception as error:
        if len(some) > 1:
            return [row for each in some for row in _tried(grid, shape, optimizer, [each])]
        return [[failed(error)] * grid.seeds]


def _group(grid: Grid, shape: Shape, optimizer: str, some: Sequence[dict[str, Any]]) -> list[list[Row]]:
    numbers = np.array([numbers_of(each) for each in some]).T
    variances, skip, seeds = numbers[:2], numbers[2], range(grid.seeds)
    images = data.load(grid.data) if grid.train else None
    seen = None if images is None else images.train[0][: shape.batch].numpy()
    if chains.is_chain(shape, seen is not None):
        flow = chains.flows(shape, variances, seeds)
    else:
        flow = stacked.flows(shape, variances, skip, seeds, seen)
    expected = predicted(shape, variances, skip, 1.0 if seen is None else float((seen.astype(np.float64) ** 2).mean()))
    learned = None
    if images is not None:
        rates = np.array([float(each.get("lr", NAMES["lr"].default)) for each in some])
        learned = train(shape, variances, skip, seeds, images, Recipe(optimizer, rates, grid.steps))
    tables = [expected.tolist(), *(t.tolist() for t in (flow.ratio, flow.transmission, flow.lowest, flow.rise))]
    alive = flow.finite.tolist()
    return [
        [_row(shape, tables, alive[at][seed], at, seed, learned) for seed in seeds] for at in range(len(some))
    ]  # fmt: skip


def _row(shape: Shape, tables: Sequence[Any], finite: bool, at: int, seed: int, learned: Trained | None) -> Row:
    expected, ratio, transmission, lowest, rise = (
        tables[0][at], *(table[at][seed] for table in tables[1:])
    )  # fmt: skip
    said = verdict(finite, lowest, rise)
    measured = (None,) * 5 if not finite else (ratio, ratio / shape.depth, transmission, lowest, rise)
    trained = (None, None, None)
    if learned is not None:
        speeds = ",".join(f"{each:.4g}" for each in learned.log10_speeds[:, at, seed])
        loss = float(learned.loss[at, seed])
        trained = (float(learned.accuracy[at, seed]), loss if math.isfinite(loss) else math.inf, speeds)
    return (measured[0], None if math.isnan(expected) else expected, *measured[1:], said, *trained, "")


def verdict(finite: bool, lowest: float, rise: float) -> str:
    """The word of a check for a network before its training, by the limits of a check."""
    if not finite:
        return "nonfinite"
    if lowest == -math.inf:
        return "dead"
    if lowest < VANISHED:
        return "vanished"
    return "exploding" if rise > EXPLODING else "healthy"


def predicted(shape: Shape, variances: Array, skip: Array, inputs: float = 1.0) -> Array:
    """What mean-field theory says of the signal ratio of each point, (P,); ``inputs``: their mean square.

    The networks of a grid repeat few pairs of variances and factors, and each pair is worked out once.
    """
    pairs = np.concatenate([variances, skip[None]])
    single, back = np.unique(pairs, axis=1, return_inverse=True)
    given = single[:2]
    inside, first = shape.variances(1, given), shape.variances(0, given)
    if shape.depth == 1:
        inside = first
    last, _ = shape.variances(shape.depth, given)
    phi = ACTIVATIONS[shape.activation].name
    if shape.centred:  # W = 4 W₀ on σ is W₀ on 4 (σ − ½)
        phi, inside, last = CENTRED, (inside[0] / 16, inside[1]), last / 16
    ratios = log10_signal_ratio(
        phi, shape.depth, first, inside, last, inputs=inputs, norm=shape.norm, skip=single[2] if shape.skip else None
    )
    return ratios[back.reshape(-1)]
