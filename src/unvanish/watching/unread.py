"""What of a sampled step is not read, and why: notes of the run."""

from __future__ import annotations

from unvanish.watching.signals import Signals
from unvanish.watching.step import Step

NO_BACKWARD = (
    "of a step without a backward of its own (its gradients are those of the step before, or come from"
    " torch.autograd.grad or torch.func) only gradients, weights and updates are read: its loss, error signals and the"
    " gradient before clipping are not known"
)
COMPILED = (
    "inside a compiled module only gradients and weights are read, and its layers are not judged: a hook there would"
    " break its graph; "
)
AS_WRAPPED = COMPILED + "a check of the running batch (check_every=K) runs the module itself, and judges them"
IN_PLACE = COMPILED + (
    "where model.compile() has compiled it in place, or a function that calls it is compiled, its calls are not seen"
    " either, and no step can be run again; torch.compile(model) in its stead lets a check of the running batch"
    " (check_every=K) judge them"
)


def unread(step: Step, signals: Signals) -> list[str]:
    """The notes that hold for this step."""
    compiled = AS_WRAPPED if any(step.samples.values()) else IN_PLACE
    without = [] if step.losses else [NO_BACKWARD]
    return [*without, *signals.unread, *([compiled] if signals.compiled else [])]
