"""A design trained at many learning rates from several seeds, side by side, and the rate that does best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np

from unvanish.population.data import Images
from unvanish.population.designs import Design
from unvanish.population.names import OPTIMIZERS
from unvanish.population.shape import Array, Shape
from unvanish.population.training import Recipe, Stack, Tell, together

LOWEST = {"SGD": 0.01, "momentum": 0.001, "Adagrad": 0.001, "RMSprop": 0.0001, "Adam": 0.0001}
"""The smallest learning rate of each optimizer; all are tried over the same three decades above it."""


@dataclass(frozen=True)
class Tuned:
    """A design trained at every rate from every seed. Accuracies: per rate, then per seed.

    ``rate`` is the one with the best mean ``chosen_by``; ``scores`` are its accuracies on images that had no say.
    """

    rates: tuple[float, ...]
    chosen_by: tuple[tuple[float, ...], ...]
    judged: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def best(self) -> int:
        """Index of the chosen rate. Of equals the one with the lower training loss, so that chance decides nothing."""
        return max(range(len(self.rates)), key=lambda i: (fmean(self.chosen_by[i]), -_finite(self.losses[i])))

    @property
    def rate(self) -> float:
        return self.rates[self.best]

    @property
    def scores(self) -> tuple[float, ...]:
        return self.judged[self.best]


def spread(lowest: float, count: int) -> tuple[float, ...]:
    """``count`` learning rates over three decades from ``lowest``, evenly in the logarithm; one: the middle."""
    if count == 1:
        return (lowest * 10**1.5,)
    return tuple(lowest * 10 ** (3 * place / (count - 1)) for place in range(count))


def tuned(
    design: Design,
    data: Images,
    optimizer: str,
    *,
    rates: int,
    seeds: int,
    steps: int,
    batch: int = 100,
    seed: int = 0,
    progress: Tell = lambda share: None,
) -> Tuned:
    """Train ``seeds`` networks at each of so many ``rates``, all at once, on the same batches.

    Cross-entropy, float32; ``optimizer`` is a key of LOWEST. ``progress`` is told the share that is done.
    """
    tried = spread(LOWEST[optimizer], rates)
    name = next(name for name, title in OPTIMIZERS.items() if title == optimizer)
    shape = Shape(
        design.hidden, design.width, data.inputs, data.classes, design.activation, design.init, design.norm, batch,
        design.skip > 0, design.after,
    )  # fmt: skip
    drawn = [[*design.build(data.inputs, data.classes, seed + s).parameters()] for s in range(seeds)]
    pairs = [(rate, own) for rate in tried for own in drawn]
    size = together(shape)
    losses, chosen, judged = (np.empty(len(pairs)) for _ in range(3))
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        here = slice(start, start + len(some))
        stack = Stack(shape, np.full(len(some), design.skip), ([p.detach() for p in own] for _, own in some))
        recipe = Recipe(name, np.array([rate for rate, _ in some]), steps)
        tell = partial(_tell, progress, start / len(pairs), len(some) / len(pairs))
        losses[here], _ = stack.train(data, recipe, seed, tell)
        chosen[here], judged[here] = stack.accuracy(*data.choose), stack.accuracy(*data.judge)
    return Tuned(tried, *(_tuples(table.reshape(rates, seeds)) for table in (chosen, judged, losses)))


def _tell(progress: Tell, begin: float, size: float, share: float) -> None:
    progress(begin + size * share)


def _tuples(table: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def _finite(losses: Sequence[float]) -> float:
    mean = fmean(losses)
    return mean if math.isfinite(mean) else math.inf
