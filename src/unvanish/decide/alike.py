"""Whether rows have become alike, and whether the loss pays for it."""

from __future__ import annotations

from unvanish.decide.limits import ALIKE, MIXED, STUCK, TRAINED_ALIKE
from unvanish.decide.stationary import has_converged, is_stationary
from unvanish.records import AlikeFacts, Flow

COSTS = 0.2
"""Share of the achievable reduction that outputs which are the same for all rows put out of reach: as for the range of
the last call."""

WON = 0.1
"""Share of what such outputs leave that a network may have won in the meantime. Rows that differ in length alone, as a
symmetric normalisation leaves them, tell how many neighbours a node has: that is worth some hundredths."""


def alike_level(flow: Flow) -> str:
    """``error`` where rows are alike and the loss shows it, ``note`` where it will, "" where neither.

    It shows where hardly better is reached than by outputs that are the same for all rows, although the targets differ:
    at a stationary point or after a hundred steps. Before that, only where rounding has taken what told the rows apart.
    The narrowest place counts: what later layers make of the rows comes through it.
    """
    facts = flow.alike
    if facts is None or flow.nonfinite or has_converged(flow.loss) or not facts.given > ALIKE:
        return ""
    if not (facts.out_of_reach or 0.0) > COSTS:
        return ""
    narrowest = min(facts.log10_spread)
    stays = narrowest < ALIKE and (is_stationary(flow) or flow.steps_taken >= STUCK)
    if facts.at_alike and narrowest < facts.digits:
        return "error"
    if stays and narrowest < TRAINED_ALIKE and _won(flow, facts) < WON:
        return "error"
    return "note" if facts.at_alike and (stays or narrowest < MIXED) else ""


def _won(flow: Flow, facts: AlikeFacts) -> float:
    """What the loss is below that of the best outputs that are the same for all rows, as a share of what they leave."""
    loss = flow.loss
    if loss is None or loss.reference is None or loss.relative_gap is None or facts.best_alike is None:
        return 1.0
    gap = loss.relative_gap * loss.reference
    left = facts.best_alike - (loss.value - gap)
    return 1.0 - gap / left if left > 0.0 else 1.0
