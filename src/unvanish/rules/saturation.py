"""Which bounded activations lie on their flat ends, and which of them are gates beside another way."""

from __future__ import annotations

from unvanish.records import CallFlow, Flow
from unvanish.rules.conditions import (
    attends,
    feeding,
    goes_around,
    inputs_saturate,
    is_piecewise_linear,
    makes_outputs,
    settled,
)
from unvanish.rules.wording import names

FLAT = 0.5
"""Share of an activation's entries on its flat ends from which on it counts as saturated."""


def saturated_calls(flow: Flow, threshold: float = FLAT) -> list[CallFlow]:
    """Those within the network whose flat ends keep the signal from the layers before them."""
    excused = flow.inputs.layer if flow.inputs is not None and inputs_saturate(flow) else ""
    return [
        call for call in flow.calls
        if call.part == "model" and call.bounded and not is_piecewise_linear(call) and not makes_outputs(flow, call)
        and (call.saturated_fraction or 0.0) > threshold
        and excused not in names(feeding(flow, call)) and not goes_around(flow.calls, call)
    ]  # fmt: skip


def copying_calls(flow: Flow, share: float) -> list[CallFlow]:
    """Attention of which more than this share of the queries look at one entry alone."""
    return [call for call in flow.calls if attends(call) and (call.saturated_fraction or 0.0) > share]


def only_gates(flow: Flow) -> bool:
    """Whether all that is saturated multiplies something else: where there is a way past it, the rest may well learn.

    A gate of a highway network that is shut lets its input through; one of a recurrent cell may keep all inputs out.
    The graph does not tell the two apart.
    """
    if flow.loss is None or not flow.loss.at_constant or settled(flow):
        return False
    calls = saturated_calls(flow)
    return bool(calls) and all(_multiplies(flow, call) for call in calls)


def _multiplies(flow: Flow, call: CallFlow) -> bool:
    consumers = (each for each in flow.calls if call.index in each.inputs)
    return any(each.name.strip("_") in ("mul", "multiply") and len(each.inputs) > 1 for each in consumers)
