"""Flows of a running training: what a full look measured, less what only a walk of its own can tell."""

from __future__ import annotations

from typing import Any

from unvanish.records import LIVE, Flow

STRUCTURE = ("name", "kind", "source", "parameters", "frozen", "call", "before", "dtype")
PARTS = ("calls", "loss", "zeros", "step", "next_step", "rates", "output", "inputs", "decrement")
GAINS = ("log10_weight_gain", "log10_slope_gain", "log10_norm_gain", "log10_join_gain")


def stripped(flow: Flow, asked: tuple[str, ...] = LIVE) -> Flow:
    """Of the layers only the structure and the fields asked for; of the rest nothing; no verdicts."""
    kept = {*STRUCTURE, *asked, *(GAINS if "log10_gain" in asked else ())}
    kept |= {"gate"} if "log10_transmission" in asked else set()
    layers = tuple(
        type(layer)(**{field: getattr(layer, field) for field in layer.__struct_fields__ if field in kept})
        for layer in flow.layers
    )
    more: dict[str, Any] = {name: getattr(flow, name) for name in PARTS if name in asked}
    if "nonfinite" in asked:
        more |= {"nonfinite": flow.nonfinite, "nonfinite_call": flow.nonfinite_call}
    more |= {"decrement_refused": flow.decrement_refused} if "decrement" in asked else {}
    return Flow(setting=flow.setting, layers=layers, asked=asked, **more)
