"""Weights held in 32 bits where they were held in 16."""

from __future__ import annotations

import torch

from unvanish.remedies import Change, Draft, Refused, remedy, surgery

NARROW = (torch.float16, torch.bfloat16)


@remedy(
    "float32-weights",
    "weights held in float32",
    kind="numbers",
    answers=("UV503", "UV504", "UV505", "UV506"),
    cures_on=("half-precision-eps",),
    no_help_on=("half-precision-rate", "dead-relu", "lr-too-small"),
    only_for="kind",
)
def float32_weights(draft: Draft) -> Change:
    """Weights, and the optimizer's numbers with them, get 24 bits and a range of 10^±38.

    What: every weight of 16 bits becomes float32, and so do inputs of 16 bits on their way in; the outputs are float32.
    For speed, compute in 16 bits all the same: torch.autocast around the forward and the loss.
    Helps: an eps or an update that 16 bits round to zero, moments and gradients that overflow or underflow.
    Does not help: a learning rate that is too large in any type; weights that are float32 already (refused).
    Source: Micikevicius et al. 2018, Mixed precision training, section 3.1 (a master copy of the weights).
    """
    found = {p.dtype for p in draft.model.parameters() if p.dtype in NARROW}
    if not found:
        raise Refused("no weight is held in 16 bits")
    code = ["model = InFloat32(model.float()).train(model.training)"]
    names = " and ".join(sorted(str(each).removeprefix("torch.") for each in found))
    return draft.apply(f"weights held in float32 instead of {names}", [surgery.InFloat32], code, [""])
