"""Units that a step of the optimizer has thrown off: on before it, off after it, and the step far too large.

A layer whose units are off says that it is dead, and what it is dead of only the run can tell. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from unvanish.decide.limits import DEAD_UNITS
from unvanish.records import Evidence, Finding
from unvanish.rules import rules
from unvanish.watching.carried import TOO_LARGE
from unvanish.watching.history import SHUT, STEP_SIZE
from unvanish.watching.sample import FIELDS, LARGE, Column, Sample, whole_move
from unvanish.words.numbers import number
from unvanish.words.spans import named

DEAD = FIELDS.index("dead_fraction")
OFF = ("dead", "dead_units")
"""Verdicts of units that are off."""

Step = tuple[float, int, float]
"""log10 of a step over the norm of the weights, the step's number, and its learning rate."""


class Thrown:
    """Of each layer the share of its units that were off at first, and the last step before most others were, too."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}
        self.last_on: dict[int, Sample] = {}

    def add(self, sample: Sample) -> None:
        """One more sample."""
        for at in sample.renewed:
            self.first.pop(at, None)
            self.last_on.pop(at, None)
        for at, row in sample.rows.items():
            share = row[DEAD]
            if not math.isnan(share) and share - self.first.setdefault(at, share) <= SHUT:
                self.last_on[at] = sample

    def explains(self, found: Iterable[Finding], sample: Sample, columns: Sequence[Column]) -> Finding | None:
        """That the learning rate is too large, where units that are off now were on before such a step."""
        if not any(each.level == "error" and each.verdict in OFF for each in found):
            return None
        off = [at for at, row in sample.rows.items() if row[DEAD] > DEAD_UNITS and at in self.last_on]
        steps = {at: _step_of(last) for at in off if (last := self.last_on[at]) is not sample}
        steps = {at: step for at, step in steps.items() if step[0] >= LARGE}
        if not steps:
            return None
        move, step, rate = max(steps.values())
        mine = [at for at, each in steps.items() if each[1] == step]
        names = [column.name for column in columns]
        known = next(each for each in rules() if each.code == TOO_LARGE)
        return Finding(
            code=TOO_LARGE, verdict=known.verdict, level="error", cause="learning rate", remedies=known.remedies,
            message=f"The learning rate ({number(rate)}) is too large: step {step:,} moved the weights by"
            f" {10.0**move:.0%} of their norm, where about 0.1% is usual, and since then more than half of the units"
            f" of {named([names[at] for at in mine], names)} that were on before are off.",
            evidence=(Evidence(name=STEP_SIZE, value=move, relation=">", threshold=LARGE),),
        )  # fmt: skip


def _step_of(sample: Sample) -> Step:
    return whole_move(sample.rows), sample.step, sample.series.get("learning_rate", math.nan)
