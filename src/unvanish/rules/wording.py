"""How the rules say things: who, where, how much. No rule lives here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from unvanish.records import CallFlow, Flow, LayerFlow
from unvanish.words.numbers import number, percent, times
from unvanish.words.spans import named


def judged(flow: Flow, verdict: str) -> tuple[LayerFlow, ...]:
    """The layers with this verdict, input side first."""
    return tuple(layer for layer in flow.layers if layer.verdict == verdict)


def names(layers: Iterable[LayerFlow]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def subject(flow: Flow, layers: Sequence[LayerFlow], one: str, many: str) -> str:
    """The folded names with a verb that agrees: "fc1 learns", "layers 0 … 8 (9 layers) learn"."""
    return f"{together(names(layers), flow)} {one if len(layers) == 1 else many}"


def together(those: Sequence[str], flow: Flow) -> str:
    """The folded names in running text, where bare numbers have to be said to be layers: "layers 0, 2", "fc1, fc2"."""
    return named(those, names(flow.layers))


def sources(layers: Iterable[LayerFlow]) -> str:
    """A closing sentence with the distinct source lines, or "" where none is known."""
    lines = list(dict.fromkeys(layer.source for layer in layers if layer.source))
    if not lines:
        return ""
    return f" Called at {', '.join(lines) if len(lines) <= 3 else f'{lines[0]}, {lines[1]} … {lines[-1]}'}."


def call_place(call: CallFlow | None) -> str:
    """What a call is and where it stands, such as "log in head at net.py:12"."""
    if call is None:
        return "an unknown call"
    return call.name + (f" in {call.module}" if call.module else "") + (f" at {call.source}" if call.source else "")


def factor(log10: float | None) -> str:
    """A factor from its logarithm: "0.11" near one, "10^-13.2" far from it, "0" for a true zero."""
    return times(log10).removeprefix("×")


def place(call: CallFlow | None) -> str:
    """What a call is and where it stands, with its module even where that is the whole model."""
    return call_place(call) if call is None or call.module else call_place(call.replace(module="the model"))


def about(count: float) -> str:
    """A count to two digits: "2,000,000"; "more than can be counted" for an infinite one."""
    return number(float(f"{count:.2g}")) if math.isfinite(count) else "more than can be counted"


def not_converged(flow: Flow) -> str:
    """A sentence that excludes the other reason for small gradients; "" where the gap is unknown."""
    gap = None if flow.loss is None else flow.loss.relative_gap
    if gap is None or not math.isfinite(gap):
        return ""
    return f" It is not converged: {percent(gap)} of the achievable reduction of the loss remains."


def weakest(layers: Iterable[LayerFlow]) -> float | None:
    """The smallest log10 transmission among the layers, None where one was not measured."""
    known = [layer.log10_transmission for layer in layers]
    finite = [value for value in known if value is not None and math.isfinite(value)]
    return min(finite) if finite and len(finite) == len(known) else None
