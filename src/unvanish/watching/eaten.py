"""Weights that decay has taken away, until no signal came through them any more. Needs no torch.

A check of such a network sees weights that are too small, as of a bad initialisation. That they were larger, and what
took them, only the run can tell.
"""

from __future__ import annotations

import math

from unvanish.records import Evidence, Finding
from unvanish.watching.carried import DECADE
from unvanish.watching.sample import WEIGHT, Sample, total
from unvanish.words.numbers import percent, times

VANISHED = "UV101"


class Eaten:
    """What the weights were in the first sample, and what decay alone has taken of them since, at the least."""

    def __init__(self) -> None:
        self.first: Sample | None = None
        self.alone, self.step, self.share = 0.0, 0, 0.0  # log10; of the last sample

    def add(self, sample: Sample) -> None:
        """One more sample; steps between two of them take the smaller share of the two."""
        share = sample.decay if 0.0 < sample.decay < 1.0 else 0.0
        if self.first is None:
            self.first = sample
        else:
            self.alone -= (sample.step - self.step) * math.log10(1.0 - min(share, self.share))
        self.step, self.share = sample.step, share

    def explains(self, finding: Finding, sample: Sample) -> Finding:
        """A finding of vanishing with the decay as its cause, where that alone takes more than is gone; else as it is.

        A tenfold fall is needed: less is no reason why a signal should be lost.
        """
        first = self.first or sample
        both = [at for at in first.rows if at in sample.rows]
        then, now = (total(each.rows[at][WEIGHT] for at in both) for each in (first, sample))
        gone, alone = then - now, self.alone
        if finding.code != VANISHED or finding.level != "error" or not DECADE <= gone <= alone:
            return finding
        factor = times(gone).removeprefix("×")
        more = (
            f" The norm of the weights has shrunk by a factor of {factor} since step {first.step:,}: weight decay alone"
            f" takes {percent(self.share)} of them at every step, so make that smaller first."
        )
        told = (
            Evidence(name="log10 of what the weights have lost", value=gone, relation=">=", threshold=DECADE),
            Evidence(name="log10 of what decay alone takes in that time", value=alone, relation=">=", threshold=gone),
        )
        return finding.replace(
            message=finding.message.rstrip() + more,
            cause="weight decay",
            evidence=(*finding.evidence, *told),
            remedies=("no-weight-decay", *finding.remedies),
        )
