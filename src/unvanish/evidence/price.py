"""Why a check cost more than a few training steps: what could only be seen by really taking steps.

Most of a check is one recorded forward pass, one walk back and a few forward passes. What a few real steps of the
optimizer do to the signal or to the loss cannot be read off one point: they are taken, and taken back.
"""

from __future__ import annotations

from unvanish.evidence.step import REAL_STEPS
from unvanish.records import Flow

DEAR = 10
"""Steps from which on the report says what they were for: they then are the larger part of what a check costs."""


def with_price(flow: Flow) -> Flow:
    """The flow with a note on the steps of the optimizer that were really taken, where there were DEAR or more."""
    step = flow.step
    taken = {"whether the signal survives the first steps": sum(trial.steps for trial in flow.rates)}
    if flow.inputs is not None:
        taken["whether standardised inputs are learned from"] = (flow.inputs.steps or 0) + (
            flow.inputs.steps_standardised or flow.inputs.steps or 0
        )
    if step is not None:
        taken["whether full steps let the signal through by themselves"] = step.arrived_after or 0
        taken["whether the optimizer makes good for a start that is far off"] = step.regained_after or 0
        taken["whether samples not seen are learned"] = step.unseen_after or 0
        taken["what the weight decay does"] = 2 * (step.decayed_after or 0)
        walks = (step.walked is not None and not flow.rates) + (step.walked_scaled is not None)
        taken["whether the learning rate is of the right size"] = walks * REAL_STEPS
    taken["whether they reach further back in time"] = max((facts.tried for facts in flow.time), default=0)
    total = sum(taken.values())
    if total < DEAR:
        return flow
    what = [(steps, question) for question, steps in taken.items() if steps]
    if len(what) == 1:
        said = f"taken and taken back to see {what[0][1]},"
    else:
        said = f"taken and taken back ({' and '.join(f'{steps} to see {question}' for steps, question in what)}),"
    note = f"{total} steps of the optimizer, {said} are most of what this check cost"
    return flow.replace(notes=(*flow.notes, note))
