"""Two runs of a folder beside each other: where they part, one staircase over the other, their losses, their gap."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from unvanish.lab.outcome import Drawing, drawn_at
from unvanish.report import Report
from unvanish.server.view.answers import sentence
from unvanish.server.view.history import KEPT, Array, History
from unvanish.server.view.over_steps import SHARES, lines, logarithms, shaded, shown
from unvanish.watching.against import Against
from unvanish.watching.sample import SERIES
from unvanish.words.markup import visible
from unvanish.words.numbers import raise_powers

WORDS = {
    "signal": "error signal", "gradient": "gradient's norm", "update": "update over the weights",
    "saturated": "share of saturated entries", "dead": "share of units that are off",
}  # fmt: skip
"""What the map compares: the numbers as they are, not over others of their own run."""


class Pair(NamedTuple):
    """Two runs: where they part, what each says of the step that is shown (None where it has none), their histories."""

    found: Against
    reports: tuple[Report | None, Report | None]
    histories: tuple[History, History]

    @property
    def names(self) -> tuple[str, str]:
        return self.found.one, self.found.other

    @property
    def verdicts(self) -> list[str]:
        """What is said of each run."""
        return ["no step was sampled" if each is None else sentence(each) for each in self.reports]

    def staircases(self) -> list[Drawing]:
        """One staircase over the other."""
        return [each for each in [_staircases(self.reports, self.names)] if each is not None]

    def series(self) -> list[Drawing]:
        """The losses and the learning rates."""
        return _series(self.histories, self.names)


def compared(pair: Pair, seen: str, wide: int, half: int) -> dict[str, Any]:
    """What the page shows of two runs; ``wide``, ``half``: pixels of a picture, and of one beside another."""
    with drawn_at(wide):
        drawings = pair.staircases()
    with drawn_at(half):
        small = pair.series()
    found = pair.found
    answer: dict[str, Any] = {
        "sentence": raise_powers(found.sentence), "answer": found.answer,
        "sides": [
            {"run": name, "verdict": said, "of": history.run}
            for name, said, history in zip(pair.names, pair.verdicts, pair.histories, strict=True)
        ],
        "notes": [raise_powers(each) for each in found.notes],
        "step": found.parting.step if found.parting else None,
        "pictures": [shown(each) for each in (*drawings, *small)], "small": len(small),
    }  # fmt: skip
    shades = difference(*pair.histories, seen, pair.names)
    return {**answer, "heat": shades} if shades is not None else answer


def _staircases(reports: tuple[Report | None, Report | None], names: tuple[str, str]) -> Drawing | None:
    one, other = reports
    if one is None or other is None:
        return None
    mine, theirs = one.layers, other.layers
    if not any(each.log10_signal is not None for each in mine) or not theirs:
        return None
    return Drawing.of(
        "staircase", "Both staircases",
        f"The error signal of each layer in {names[0]} and in {names[1]}, from the output on the right back.",
        [visible(each.name) for each in mine], [each.log10_signal for each in mine], None,
        one.setting.autocast or one.setting.dtype,
        compare=[(names[1], [each.log10_signal for each in theirs])], line=names[0],
    )  # fmt: skip


def _series(histories: tuple[History, History], names: tuple[str, str]) -> list[Drawing]:
    """The losses, on the steps of the first run."""
    one, other = histories
    places = one.places
    if not len(places) or not len(other.places):
        return []
    steps = one.first[places]
    drawings: list[Drawing] = []
    for name, title in (("loss", "Both losses"), ("learning_rate", "Both learning rates")):
        at = SERIES.index(name)
        low, high = (
            np.stack([getattr(one, side)[:, at], np.full(len(one.first), np.nan)], axis=1)
            for side in ("series_low", "series_high")
        )
        low[places, 1], high[places, 1] = (
            _at(other, getattr(other, side)[:, at], steps) for side in ("series_low", "series_high")
        )
        if not np.isfinite(low).any():
            continue
        low, high, as_log = logarithms(low, high)
        shown, values = lines(one, low, high)
        words = name.replace("_", " ")
        drawings.append(Drawing.of(
            "speeds", title, f"The {words} of {names[0]} and of {names[1]}.",
            shown, list(names), values, quantity=words, log=as_log,
        ))  # fmt: skip
    return drawings


def _at(history: History, values: Array, steps: Array) -> Array:
    """The values of a run's stretches in which these steps lie, NaN beyond its end."""
    place = np.minimum(steps // history.width, len(history.first) - 1)
    inside = (steps <= history.last)[(...,) + (None,) * (values.ndim - 1)]
    return np.where(inside, values[place], np.nan)


def difference(one: History, other: History, seen: str, names: tuple[str, str]) -> dict[str, Any] | None:
    """The map of the first run less the second, in shades; None where there is nothing to show."""
    found = gap(one, other, seen)
    if found is None:
        return None
    values, layers = found
    shades = shaded(values, layers, one.places, one, share=seen in SHARES, words=told(seen, names))
    return {"quantity": seen, **shades}


def told(seen: str, names: tuple[str, str]) -> str:
    """What the map of the difference shows, in words."""
    return f"{WORDS[seen]} of {names[0]} {'less' if seen in SHARES else 'over'} that of {names[1]}"


def gap(one: History, other: History, seen: str) -> tuple[Array, list[str]] | None:
    """The first run less the second, layer × stretch of the first, of the layers that both have; and their names."""
    field = KEPT.index(seen)
    mine = [at for at in one.layout.order if one.layout.names[at] in set(other.layout.names)]
    theirs = [other.layout.names.index(one.layout.names[at]) for at in mine]
    places = one.places
    if not mine or not len(places) or not len(other.places):
        return None
    with np.errstate(invalid="ignore"):  # -inf less -inf: both are exactly zero, which is no number's difference
        middle = _middle(one, places, mine, field)
        there = _at(other, _middle(other, np.arange(len(other.first)), theirs, field), one.first[places])
        return (middle - there).T.astype(np.float64), [visible(one.layout.names[at]) for at in mine]


def _middle(history: History, places: Array, layers: list[int], field: int) -> Array:
    low, high = (each[places][:, layers, field] for each in (history.low, history.high))
    return np.where(low == high, low, 0.5 * (low + high))
