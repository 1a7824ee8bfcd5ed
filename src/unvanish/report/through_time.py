"""The error signal along a sequence, as every form of a report shows it: a line of bars and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unvanish.decide.reach import comes_back
from unvanish.records import TimeFacts
from unvanish.report.staircase import LEAST_DECADES
from unvanish.words.numbers import amount, times

TITLE = "The error signal on its way back through time, first step left"
LEVELS = "▁▂▃▄▅▆▇█"
ZERO = "·"
WIDEST = 64
MOST_SHOWN = 8
"""Sequences: more of them, of a deep stack, are in the JSON."""


def name_of(facts: TimeFacts) -> str:
    return f"{facts.layer} ({facts.kind})" if facts.layer else f"inputs (along {facts.kind})"


def shown(time: Sequence[TimeFacts], dtype: str, width: int = WIDEST) -> list[tuple[str, str, str]]:
    """(name, bars, sentence) of each sequence, the first ones where there are many."""
    parts = [(name_of(each), bars(each, width), told(each, dtype)) for each in time[:MOST_SHOWN]]
    more = len(time) - len(parts)
    return [*parts, (f"and {more:,} more", "", "their numbers are in the JSON report")] if more else parts


def bars(facts: TimeFacts, width: int) -> str:
    """One character for each step or group of steps, the first step first; "·" where the signal is exactly zero."""
    signal = facts.log10_signal
    known = [s for s in signal if s is not None and math.isfinite(s)]
    if not known:
        return ""
    high = max(known)
    low = min(*known, high - LEAST_DECADES)
    count = min(len(signal), width, WIDEST)
    groups = [signal[k * len(signal) // count : (k + 1) * len(signal) // count] for k in range(count)]
    return "".join(_level(group, low, high) for group in groups)


def _level(group: Sequence[float | None], low: float, high: float) -> str:
    seen = [s for s in group if s is not None and s > -math.inf]
    if not seen:
        return ZERO if all(s == -math.inf for s in group) else LEVELS[0]
    share = (sum(seen) / len(seen) - low) / ((high - low) or 1.0)  # none where the numbers are too large for decades
    return LEVELS[max(0, min(int(share * len(LEVELS)), len(LEVELS) - 1))] if math.isfinite(share) else LEVELS[-1]


def told(facts: TimeFacts, dtype: str) -> str:
    """What the bars show, in numbers."""
    if facts.why:
        return f"not looked at: {facts.why}"
    said = [f"{facts.steps:,} steps; beside the last ones the first gets {_end(facts)}"]
    if facts.log10_gain is not None:
        said.append(f"{times(facts.log10_gain)} a step back")
    if comes_back(facts):
        said.append(f"less than a thousandth arrives at {facts.faint:,} of them")
    elif facts.horizon is not None:
        said.append(f"a thousandth is left {_after(facts.horizon, facts.steps)}")
        if facts.smallest_horizon not in (None, facts.horizon):
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
    word = "step" if horizon == 1 else "steps"
    return f"after {horizon:,} {word}" if horizon < steps else f"after about {horizon:,}"


def lines(time: Sequence[TimeFacts]) -> tuple[tuple[int, ...], dict[str, tuple[float | None, ...]]]:
    """What a picture shows: the steps, and by name the log10 signal at inputs and states of the longest sequences."""
    known = [each for each in time if each.at]
    at = max((each.at for each in known), key=lambda at: at[-1], default=())
    signals: dict[str, tuple[float | None, ...]] = {}
    for each in known:
        if each.at == at:
            signals[f"{each.layer} inputs".strip()] = each.log10_signal
            if each.log10_state:
                signals[f"{each.layer} states".strip()] = each.log10_state
    return at, signals
