"""How far back along a sequence the error signal counts as reaching, and whether the targets need more."""

from __future__ import annotations

import math

from unvanish.decide.limits import STUCK
from unvanish.decide.stationary import has_converged, is_stationary
from unvanish.records import Flow, TimeFacts

THOUSANDTH = -3.0
"""log10 of the share of the last steps' signal below which a step of a sequence is faint. Of LSTMs, GRUs and RNNs whose
target was an input 5 … 30 steps back, all learned it in 2,000 steps where 10^-3.4 or more arrived there at the start,
and none where it was 10^-4.9 or less; between, it depended on the learning rate."""

OUT_OF_REACH = -4.0
"""log10 of the share from which on a step that is needed counts as lost: between those two limits."""

CHANCE = 0.01
"""Share of shuffles that may give as much before a dependence counts as shown."""


def time_level(flow: Flow, facts: TimeFacts) -> str:
    """``error`` where what training needs is lost along a sequence, ``note`` where part of it is, "" where it is not.

    A note, too, where real steps of the optimizer, tried and taken back, have brought it within reach, or bring more
    and more steps there.

    Needed: the loss stays at its best constant although steps are lost to rounding; or what the targets ask depends on
    the inputs of a step that gets less than 10^-4 of the last steps' signal, and less on those of any other.
    """
    if facts.why or not facts.faint or has_converged(flow.loss) or flow.nonfinite:
        return ""
    at_constant = flow.loss is not None and flow.loss.at_constant
    if is_stationary(flow) and not at_constant:
        return ""
    stays = at_constant and (is_stationary(flow) or flow.steps_taken >= STUCK)
    if depends_beyond(facts) or (stays and facts.lost):
        return "note" if facts.in_reach or facts.rising else "error"
    return "note" if facts.lost else ""


def comes_back(facts: TimeFacts) -> bool:
    """Whether the first step hears more than a thousandth again, although some between it and the last do not.

    Read from both ends, or looked up by what stands there: no distance from the end is a horizon then.
    """
    first = facts.log10_signal[0] if facts.log10_signal else None
    return bool(facts.faint) and first is not None and first >= THOUSANDTH


def depends_beyond(facts: TimeFacts) -> bool:
    """Whether what the targets ask demonstrably depends on a step out of reach, and more than on any within."""
    if facts.beyond is None or facts.within is None or facts.by_chance is None or facts.beyond_chance is None:
        return False
    # of a dependence spread evenly over all steps, the best of many far ones is above the best of a few near ones
    return facts.beyond_chance <= CHANCE and _z(facts.beyond) - _z(facts.within) > _z(facts.by_chance)


def _z(squared: float) -> float:
    """Fisher's z of a correlation, of which the square is given: its spread by chance is the same for all sizes."""
    return math.atanh(min(math.sqrt(max(squared, 0.0)), 1.0 - 1e-12))
