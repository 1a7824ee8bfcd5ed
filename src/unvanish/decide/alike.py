"""Whether rows have become alike, and whether the loss pays for it."""

from __future__ import annotations

from unvanish.decide.limits import ALIKE, MIXED
from unvanish.decide.stationary import has_converged, is_stationary
from unvanish.records import Flow

COSTS = 0.2
"""Share of the achievable reduction that outputs which are the same for all rows put out of reach: as for the range of
the last call."""

STUCK = 100
"""Steps after which a loss no lower than that of the best such outputs counts as staying there."""


def alike_level(flow: Flow) -> str:
    """``error`` where rows are alike and the loss shows it, ``note`` where it will, "" where neither.

    It shows where no better is reached than by outputs that are the same for all rows, although the targets differ: at
    a stationary point, after a hundred steps, or where rounding has already taken what told the rows apart.
    """
    facts = flow.alike
    if facts is None or flow.nonfinite or has_converged(flow.loss) or not facts.given > ALIKE:
        return ""
    if not facts.at_alike or not (facts.out_of_reach or 0.0) > COSTS:
        return ""
    last = facts.log10_spread[-1]
    taken = 0 if flow.step is None else flow.step.taken or 0
    if last < facts.digits or (last < ALIKE and (is_stationary(flow) or taken >= STUCK)):
        return "error"
    return "note" if last < MIXED else ""
