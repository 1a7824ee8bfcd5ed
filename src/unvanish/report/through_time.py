"""The error signal along a sequence, as every form of a report shows it: a line of bars and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unvanish.records import TimeFacts
from unvanish.words.numbers import amount, times

TITLE = "The error signal on its way back through time"
LEVELS = "▁▂▃▄▅▆▇█"
ZERO = "·"
LEAST_DECADES = 4
"""Bars of less than this many decades would blow harmless differences up."""
WIDEST = 64


def name_of(facts: TimeFacts) -> str:
    return f"{facts.layer} ({facts.kind})" if facts.layer else f"inputs (along {facts.kind})"


def bars(facts: TimeFacts, width: int = WIDEST) -> str:
    """One character for each step or group of steps, the first step first; "·" where the signal is exactly zero."""
    signal = facts.log10_signal
    known = [s for s in signal if s is not None and math.isfinite(s)]
    if not known:
        return ""
    high = max(known)
    low = min(*known, high - LEAST_DECADES)
    count = min(len(signal), width)
    groups = [signal[k * len(signal) // count : (k + 1) * len(signal) // count] for k in range(count)]
    return "".join(_level(group, low, high) for group in groups)


def _level(group: Sequence[float | None], low: float, high: float) -> str:
    seen = [s for s in group if s is not None and s > -math.inf]
    if not seen:
        return ZERO if all(s == -math.inf for s in group) else LEVELS[0]
    share = (sum(seen) / len(seen) - low) / (high - low)
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]


def told(facts: TimeFacts, dtype: str) -> str:
    """What the bars show, in numbers."""
    if facts.why:
        return f"not looked at: {facts.why}"
    said = [f"{facts.steps:,} steps, {_end(facts)} at the first beside the last"]
    if facts.log10_gain is not None:
        said.append(f"{times(facts.log10_gain)} a step back")
    if facts.horizon is None:
        said.append("it does not fall")
    else:
        said.append(f"a thousandth is left {_after(facts.horizon, facts.steps)}")
        if facts.smallest_horizon is not None:
            said.append(f"the smallest {dtype} {_after(facts.smallest_horizon, facts.steps)}")
    states = [s for s in facts.log10_state if s is not None and s > -math.inf]
    if states:
        said.append(f"at the states {amount(states[0])}")
    return "; ".join([*said, *filter(None, [facts.states_unseen])])


def _end(facts: TimeFacts) -> str:
    first = facts.log10_signal[0] if facts.log10_signal else None
    return "too little for its number type" if first is None else amount(first)


def _after(horizon: int, steps: int) -> str:
    """Beyond the sequence a horizon is a guess from its mean step."""
    return f"after {horizon:,} steps" if horizon < steps else f"after about {horizon:,}"
