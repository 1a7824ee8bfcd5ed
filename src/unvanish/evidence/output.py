"""What the last call can give the loss: the lowest loss that any input of that call could reach.

A sigmoid under an unbounded target, a softmax before a loss that makes its own, a ReLU on logits: the layers may
transmit perfectly and the loss still cannot be won. Only the loss that stays out of reach is evidence, not the pairing
of names.
"""

from __future__ import annotations

from unvanish.evidence.free import lowest
from unvanish.evidence.last import Last
from unvanish.records import LossFacts, OutputFacts


def output_facts(last: Last, loss: LossFacts) -> OutputFacts:
    """The range of the last call, and the share of L_ref that lies outside of it."""
    now = last.free.now[0].double()
    best, at = lowest(last.free, loss.value)
    facts = OutputFacts(call=last.call.index, kind=last.kind, low=last.low, high=last.high)
    facts = facts.replace(rms=float(now.pow(2).mean().sqrt()))
    # What a positive loss does outside of its domain, below zero, is no goal.
    if at is not None and best is not None and not best < 0.0 < loss.value:
        facts = facts.replace(wanted=float((at[0].double() - now).pow(2).mean().sqrt()))
    if not last.kind or best is None or loss.best_constant is None:
        return facts
    if loss.value > 0.0:
        best = max(best, 0.0)
    reference, reached = max(loss.value, loss.best_constant) - best, last.reach()
    if reached is None or not reference > 0.0:
        return facts
    return facts.replace(unreachable=max(0.0, (reached - best) / reference))
