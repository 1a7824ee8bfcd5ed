"""What the optimizer's next step leaves behind: as it arrives in the weights' own type, and against their decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from unvanish.evidence.anew import drawn_anew
from unvanish.evidence.replaced import drifting, partly_left_out, stale
from unvanish.flow.arrived import Arrival
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.flow.updates import NARROW, Updates
from unvanish.problem import rate_of
from unvanish.records import NextStep
from unvanish.trace.calls import Capture


def next_step(updates: Updates | None, look: Look) -> NextStep | None:
    """The next step as it arrives; None where it cannot be looked at, and where there is nothing to say about it."""
    anew = drawn_anew(look)
    if updates is None:
        return NextStep(anew=anew, outside=anew, outside_at=_place(look.capture)) if anew else None
    called = [layer for layer in look.layers if layer.call is not None and layer.live]
    left_out = tuple(a.name for a in called if a.first and not any(map(updates.held, a.live)))
    partly = partly_left_out(updates, called)
    missing = [p for a in called if a.name in left_out and a.first for p in a.live] + list(partly.values())
    outside, place = _outside(updates, look.capture)
    standing = _standing(updates, called)
    held_back = NextStep(
        left_out=left_out,
        partly=tuple(partly),
        stale=stale(updates, look.capture, missing),
        standing=standing,
        drifting=drifting(look.capture, look.layers),
        outside=outside,
        outside_at=place,
        anew=anew,
    )
    if updates.refused or not updates.keep:
        return None if held_back == NextStep() else held_back
    held = {id(p): p for layer in called for p in layer.live if id(p) in updates.changes}
    bad = {key: count for key, p in held.items() if (count := _not_finite(updates, key, p))}
    broken = set(bad) | {key for key, each in updates.arrivals.items() if each.bad_state}
    entries = sum(p.numel() for p in held.values())
    arrived = [updates.arrivals[key] for key, p in held.items() if key in updates.arrivals and p.dtype in NARROW]
    moving, wanted = sum(each.asked for each in arrived), sum(each.wanted for each in arrived)
    without, whole, weights, taken = (math.hypot(*(pull[k] for pull in updates.pull)) for k in range(4))
    arrival = held_back.replace(
        nonfinite=tuple(layer.name for layer in called if any(id(p) in broken for p in layer.live)),
        nonfinite_share=sum(bad.values()) / max(1, entries),
        reason=_reason(updates, [updates.arrivals.get(key) for key in broken], [held[k] for k in broken if k in held]),
        moved=sum(each.moved for each in arrived) / moving if moving else None,
        arrives=sum(each.given for each in arrived) / wanted if 0.0 < wanted < math.inf else None,
        narrow=next((str(p.dtype).removeprefix("torch.") for p in held.values() if p.dtype in NARROW), ""),
        decay_balance=whole / without if without > 0.0 and math.isfinite(whole / without) else None,
        decay_share=taken / weights if weights > 0.0 and math.isfinite(taken / weights) else None,
    )
    return None if arrival == NextStep() else arrival


def _standing(updates: Updates, called: Sequence[Layer]) -> tuple[str, ...]:
    """The layers held at a rate of 0 throughout, beside others that are not."""
    rates = {a.name: [rate_of(updates.group(p)) for p in a.live if updates.held(p)] for a in called if a.first}
    zero = tuple(name for name, each in rates.items() if each and all(rate == 0.0 for rate in each))
    return zero if any(rate != 0.0 for each in rates.values() for rate in each) else ()


def _outside(updates: Updates, capture: Capture) -> tuple[int, str]:
    """Entries of trainable parameters that neither the model nor the optimizer holds; where the first is used."""
    found = [(p, place) for p, place in capture.outside.values() if p.requires_grad and not updates.held(p)]
    return sum(p.numel() for p, _ in found), found[0][1] if found else ""


def _place(capture: Capture) -> str:
    return next((place for p, place in capture.outside.values() if p.requires_grad), "")


def _not_finite(updates: Updates, key: int, parameter: torch.nn.Parameter) -> int:
    if key in updates.arrivals:
        return updates.arrivals[key].bad
    if math.isfinite(updates.found[key]) and updates.found[key] < 0.1 * torch.finfo(parameter.dtype).max:
        return 0
    return int((~torch.isfinite(parameter.detach() + updates.changes[key])).sum())


def _reason(updates: Updates, arrivals: Sequence[Arrival | None], parameters: Sequence[torch.nn.Parameter]) -> str:
    if not parameters:
        return ""
    if any(each is not None and each.bad_gradient for each in arrivals):
        return "gradient"
    if any(each is not None and each.bad_state for each in arrivals):
        return "state"
    for parameter in parameters:
        eps = updates.group(parameter).get("eps")
        single = isinstance(eps, (float, int, torch.Tensor))  # Adafactor has a pair: no number to divide by
        if single and float(torch.tensor(float(eps)).to(parameter.dtype)) == 0.0:
            return "eps"
    return "rate"
