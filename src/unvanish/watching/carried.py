"""Weights that the steps of the optimizer have carried away, shortly before something broke or died.

What broke is named by whoever saw it; that it followed from steps that were too large only the run can tell. The norm
of all weights hardly changes from one sample to the next: a step moves them by about a thousandth of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unvanish.records import Evidence, Finding
from unvanish.rules import rules
from unvanish.watching.dated import undated
from unvanish.watching.sample import LARGE, WEIGHT, Sample, total, whole_move
from unvanish.words.numbers import number, times

Rows = Mapping[int, Sequence[float]]
FOLLOWS = ("nonfinite", "dead", "exploding")
"""Verdicts of what follows from weights that are far too large."""

BEGIN = "The norm of the weights has grown by a factor of"
GROWTH = "log10 of the growth of the weights"

DECADE = 1.0
"""log10 of the growth from which on it is the steps: a norm that grows tenfold is made of the steps, no more of what
the weights were before."""


LOOK = "Look at the steps first:"
TOO_LARGE = "UV704"


def explained(
    finding: Finding, recent: Sequence[Sample], now: Rows, rate: float, optimizer: str, large: Finding | None = None
) -> Finding:  # fmt: skip
    """The finding with what became of the weights since one of the last samples; as it is where that is little.

    ``now``: the layers in the step of the finding. ``rate``: the learning rate there. ``large``: what was found of
    steps that are too large, where that still holds.
    """
    if not _follows(finding):
        return finding
    growth, since = max(((_growth(each.rows, now), each.step) for each in recent), default=(0.0, 0))
    if not growth >= DECADE:
        return _after_large_steps(finding, large)
    steps = f"the steps of {optimizer or 'the optimizer'} (learning rate {number(rate)})"
    if thrown := any(whole_move(each.rows) >= LARGE for each in recent):
        why = f"{steps} carry them away, so try a smaller rate, warm-up or clipping first"
    else:
        why = f"either {steps} carry them away, or something else wrote into them"
    told = Evidence(name=GROWTH, value=growth, relation=">", threshold=DECADE)
    factor = times(growth).removeprefix("×")
    return finding.replace(
        message=f"{finding.message.rstrip()} {BEGIN} {factor} since step {since}: {why}.",
        evidence=(*finding.evidence, told),
        remedies=next(each.remedies for each in rules() if each.code == TOO_LARGE) if thrown else finding.remedies,
    )


def _follows(finding: Finding) -> bool:
    return finding.level == "error" and finding.verdict in FOLLOWS


def _after_large_steps(finding: Finding, large: Finding | None) -> Finding:
    """Steps that were too large may be long ago; while the loss stays above its start, that is where they threw it."""
    if large is None or LOOK in finding.message:
        return finding
    message = f"{finding.message.rstrip()} {LOOK} {undated(large.message)}"
    return finding.replace(message=message, remedies=large.remedies)


def handed_on(finding: Finding, earlier: Finding, large: Finding | None = None) -> Finding:
    """A finding of the last step, with what was known of the weights when it was found first; ``large``: as above."""
    told = tuple(each for each in earlier.evidence if each.name == GROWTH)
    if not told:
        return _after_large_steps(finding, large) if _follows(finding) else finding
    if told[0] in finding.evidence:
        return finding
    message = f"{finding.message.rstrip()} {earlier.message[earlier.message.index(BEGIN) :]}"
    return finding.replace(message=message, evidence=(*finding.evidence, *told), remedies=earlier.remedies)


def _growth(then: Rows, now: Rows) -> float:
    """log10, over the layers that both have with a number that is finite."""
    both = [at for at in then if at in now and math.isfinite(then[at][WEIGHT]) and math.isfinite(now[at][WEIGHT])]
    return total(now[at][WEIGHT] for at in both) - total(then[at][WEIGHT] for at in both) if both else 0.0
