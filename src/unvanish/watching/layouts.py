"""Which layers ran together, in what order: a GAN's steps have two layouts, and so has a run whose model changes.

Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from unvanish.watching.sample import FIELDS, Sample

MOST = 64
"""Layouts that are kept, the newest: a network that draws its own order has more of them than are worth keeping."""

SIGNAL = FIELDS.index("log10_signal")
Groups = list[tuple[int, ...]]
Layout = tuple[list[int], Groups]


class Layouts:
    """The layouts of a run that is being written."""

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        """``facts``: those of a run that goes on."""
        self.known = layouts_of(facts or {})
        self.last: tuple[Any, ...] = ()

    def news(self, sample: Sample, gone: Set[int], left_out: list[int]) -> dict[str, Any]:
        """The facts that this sample changes; none where all was there before.

        ``gone``: layers whose model is; ``left_out``: those to which a gradient came and which no optimizer holds.
        """
        now = (sample.order, sample.groups, sample.before, sorted(gone), left_out)
        if now == self.last:
            return {}
        found: dict[str, Any] = {}
        if now[2:] != self.last[2:]:
            found = {"before": sorted(sample.before.items()), "gone": sorted(gone), "left_out": left_out}
        self.last = now
        layout = list(sample.order), [tuple(group) for group in sample.groups]
        if layout not in self.known:
            self.known = [*self.known[1 - MOST :], layout]
            found |= {"order": sample.order, "groups": sample.groups, "layouts": self.known}
        return found


def layouts_of(facts: Mapping[str, Any]) -> list[Layout]:
    """Those of a run, in the order in which they came; an older file holds the last one alone."""
    kept = facts.get("layouts") or ([[facts["order"], facts["groups"]]] if "order" in facts else [])
    return [(list(order), [tuple(group) for group in groups]) for order, groups in kept]


def laid_out(sample: Sample, facts: Mapping[str, Any]) -> Sample:
    """The sample with the newest layout that has the very layers it has; a stretch of several steps, with all."""
    here = {*sample.rows}
    fits = [each for each in layouts_of(facts) if here == {at for group in each[1] for at in group}]
    sample.order, sample.groups = fits[-1] if fits else together(facts, max(here, default=-1) + 1)
    sample.before = dict(facts.get("before") or ())
    return sample


def together(facts: Mapping[str, Any], count: int) -> Layout:
    """All layers of the run in one order; each in its newest group."""
    order: dict[int, None] = {}
    groups: Groups = []
    for ran, of_it in reversed(layouts_of(facts)):
        order |= dict.fromkeys(_below(ran, count))
        taken = {at for group in groups for at in group}
        groups += [group for each in of_it if (group := _below(each, count)) and taken.isdisjoint(group)]
    return [*order, *(at for at in range(count) if at not in order)], groups or [tuple(range(count))]


def _below(places: Iterable[int], count: int) -> tuple[int, ...]:
    """A damaged file may name layers that are not there."""
    return tuple(at for at in places if 0 <= at < count)


def rows_of(numbers: Sequence[float]) -> dict[int, tuple[float, ...]]:
    """The layers of a sample that have a number, from all numbers in a row."""
    width = len(FIELDS)
    rows = {at: tuple(numbers[at * width : (at + 1) * width]) for at in range(len(numbers) // width)}
    return {at: row for at, row in rows.items() if not all(map(math.isnan, row))}
