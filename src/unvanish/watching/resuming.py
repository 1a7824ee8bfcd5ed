"""A run that goes on in its file: what its watching knew of the steps so far. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from unvanish.records import Finding, UnvanishError
from unvanish.watching.history import WARM_UP, Episode, History
from unvanish.watching.layouts import laid_out, rows_of
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import SERIES, Sample

FIRST, LAST = 4 * WARM_UP, 64
"""Samples that are read again: the first make the baselines, the last the episodes that are open."""


def refuse_another_model(path: Path, names: Sequence[str]) -> None:
    """UnvanishError where the run in this file was of other layers than these."""
    before = [column.name for column in Reader(path).columns()]
    for at, (one, other) in enumerate(zip(before, names, strict=False)):
        if one != other:
            raise UnvanishError(
                f"{str(path)!r} cannot go on: its layer {at} is {one!r}, and that of this model {other!r}; watch the"
                " model it was made with, or name a new file"
            )


def remembered(file: Reader) -> tuple[History, list[Finding], dict[str, Episode]]:
    """The baselines of the layers, all findings so far, and those of the rules that still hold, by code."""
    history = History()
    rows = list(file.samples())
    columns = file.columns()
    for step, _, series, _, numbers in rows if len(rows) <= FIRST + LAST else [*rows[:FIRST], *rows[-LAST:]]:
        sample = Sample(step, rows_of(numbers), dict(zip(SERIES, series, strict=False)))
        history.watch(laid_out(sample, file.facts), columns)
    rates = [series[SERIES.index("learning_rate")] for _, _, series, _, _ in rows]
    history.highest_rate = max([history.highest_rate, *(rate for rate in rates if not math.isnan(rate))])
    known = file.findings()
    open_ones = {
        finding.code: Episode(step, told=True)
        for step, until, finding in known
        if until is None and finding.code < "UV8" and finding.verdict != "nonfinite"
    }
    return history, [finding for _, _, finding in known], open_ones
