"""Which factor shrinks or grows the error signal between a layer and the output. No rule lives here."""

from __future__ import annotations

import math
from typing import NamedTuple

from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules.wording import factor
from unvanish.words.spans import called

FACTORS = {"slopes": "slopes", "weights": "weights", "norm": "normalisers", "join": "joins"}
"""The role of a call -> the word for what it multiplies the error signal by."""

ROUNDING = 1e-3
"""In decades: a rest below this is rounding and no factor of its own."""


class Route(NamedTuple):
    """The dominant path from a layer (left out) to the last layer before the output (``end``, taken in).

    ``steps`` counts the layers on it; ``gains`` is the sum of log10 gains by factor; ``change`` is log10 of the error
    signal at the layer over that at ``end``. ``end`` is "" where no layer follows or the path was not measured.
    """

    end: str
    steps: int
    gains: dict[str, float]
    change: float


def route(flow: Flow, start: LayerFlow) -> Route:
    """Follow ``CallFlow.next`` from a layer's call to the last layer, summing the gains of what lies between.

    Where the calls were not looked at, follow the layers that name each other as the one ``before`` instead.

    A call's ``log10_gain`` is what the step back to it from its ``next`` multiplies by: it is the factor of ``next``.
    """
    if not flow.asks("calls"):
        return _along_layers(flow, start)
    calls = {call.index: call for call in flow.calls}
    owners = {layer.call: layer for layer in flow.layers if layer.call is not None}
    best = Route("", 0, {}, 0.0)
    gains: dict[str, float] = {}
    steps, seen = 0, {start.call}
    here = None if start.call is None else calls.get(start.call)
    while here is not None and here.next is not None and here.next not in seen and here.next in calls:
        seen.add(here.next)
        after = calls[here.next]
        if after.role in FACTORS and here.log10_gain is not None and not math.isnan(here.log10_gain):
            gains[FACTORS[after.role]] = gains.get(FACTORS[after.role], 0.0) + here.log10_gain
        if (end := owners.get(after.index)) is not None:
            steps += 1
            best = _completed(Route(end.name, steps, dict(gains), 0.0), start, end)
        here = after
    return best


def _along_layers(flow: Flow, start: LayerFlow) -> Route:
    """The route by the layers' own gains, each the step back to the layer before; where it forks, by the strongest."""
    after: dict[str, list[LayerFlow]] = {}
    for layer in flow.layers if flow.asks("log10_gain", "log10_signal") else ():
        if layer.before and layer.log10_signal is not None:
            after.setdefault(layer.before, []).append(layer)
    gains: dict[str, float] = {}
    here, steps = start, 0
    while ways := after.pop(here.name, None):
        here, steps = max(ways, key=lambda layer: layer.log10_signal or -math.inf), steps + 1
        for role, gain in zip(FACTORS.values(), _gains(here), strict=True):
            if gain is not None and not math.isnan(gain) and gain != 0.0:
                gains[role] = gains.get(role, 0.0) + gain
    return _completed(Route(here.name, steps, gains, 0.0), start, here) if steps else Route("", 0, {}, 0.0)


def _gains(layer: LayerFlow) -> tuple[float | None, ...]:
    return layer.log10_slope_gain, layer.log10_weight_gain, layer.log10_norm_gain, layer.log10_join_gain


def cause(path: Route, *, shrinking: bool) -> str:
    """The factor that shrinks (or grows) the signal most; "" where none does."""
    sign = -1 if shrinking else 1
    guilty = {name: sign * gain for name, gain in path.gains.items() if sign * gain > 0}
    return max(guilty, key=lambda name: guilty[name], default="")


def each_step(path: Route) -> str:
    """What one step back multiplies by and its factors, strongest first, such as "0.11 (slopes 0.22, weights 0.5)"."""
    steps = max(path.steps, 1)
    strongest = sorted(path.gains.items(), key=lambda named: -abs(named[1]))
    parts = ", ".join(f"{name} {factor(gain / steps)}" for name, gain in strongest)
    return factor(path.change / steps) + (f" ({parts})" if len(path.gains) > 1 else f" (the {parts})" if parts else "")


def because(path: Route) -> str:
    """The clause "each of the 19 steps back multiplies it by about 0.11 (…)"."""
    steps = "the one step back" if path.steps == 1 else f"each of the {path.steps} steps back"
    return f"{steps} multiplies it by about {each_step(path)}"


def gain_evidence(path: Route) -> tuple[Evidence, ...]:
    """The change of the error signal along the route and its factors, as logarithms."""
    if not path.end:
        return ()
    change = Evidence(name=f"log10 of the error signal over that at {called(path.end)}", value=path.change)
    return (change, *(Evidence(name=f"log10 gain of the {name}", value=gain) for name, gain in path.gains.items()))


def _completed(path: Route, start: LayerFlow, end: LayerFlow) -> Route:
    """The route with its change; what other branches add or cancel on the way is the joins' share of it."""
    along = sum(path.gains.values())
    if start.log10_signal is None or end.log10_signal is None:
        return path._replace(change=along)
    change = start.log10_signal - end.log10_signal
    rest = change - along
    if not math.isfinite(rest):
        return path._replace(change=along if math.isnan(change) else change)
    if path.gains and abs(rest) > ROUNDING:
        joins = path.gains.get("joins", 0.0) + rest
        return path._replace(change=change, gains=path.gains | {"joins": joins})
    return path._replace(change=change)
