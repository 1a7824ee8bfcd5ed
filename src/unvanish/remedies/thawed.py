"""Layers that were frozen before they had learnt anything."""

from __future__ import annotations

import math

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy

FEWEST = 64
"""Entries of a weight from which on its distribution can be told."""
UNIFORM = (1.5, 2.0)
"""Largest over root mean square of numbers drawn evenly from −a to a: √3 = 1.73, within 0.2 for 64 of them."""


@remedy(
    "train-all",
    "training of the layers that stand still",
    kind="optimizer",
    answers=("UV601", "UV605"),
    cures_on=("frozen-draws",),
    no_help_on=("dead-relu", "lr-too-small", "relu-he-20"),
    only_for="kind",
)
def train_all(draft: Draft) -> Change:
    """All parameters are trained, those that were frozen or were never given to the optimizer, too.

    What: ``requires_grad_(True)`` for the model, and an optimizer that holds all of it.
    Helps: layers frozen by mistake: an optimizer made of the head alone, a loop over parameters that stops too early.
    Does not help: layers that are frozen on purpose. It is refused unless a frozen layer's weights are exactly as torch
    draws them, even over ±1/√fan_in, which no trained weights are: features that somebody has trained are kept.
    Source: Yosinski, Clune, Bengio & Lipson 2014, How transferable are features in deep neural networks?
    """
    still = standing_still(draft.model)
    if not still:
        raise Refused("no layer is frozen or left out of the optimizer")
    drawn = as_drawn(draft.model)
    if draft.pretrained or not drawn:
        raise Refused(
            f"{', '.join(still[:3])} may be frozen on purpose: the weights are not as torch draws them; to train them"
            " call requires_grad_(True) and give them to the optimizer"
        )
    sentence = f"all layers are trained, also {', '.join(drawn)}, whose weights stood still as torch had drawn them"
    return draft.apply(sentence, [], ["model.requires_grad_(True)"], still)


def standing_still(model: nn.Module) -> list[str]:
    """The layers none of whose parameters is trained."""
    owned = {path: list(each.parameters(recurse=False)) for path, each in model.named_modules()}
    return [path for path, own in owned.items() if own and not any(p.requires_grad for p in own)]


def as_drawn(model: nn.Module) -> list[str]:
    """The linear layers and convolutions that stand still with weights as torch draws them."""
    found: list[str] = []
    for path in standing_still(model):
        weight = getattr(model.get_submodule(path), "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and weight.numel() >= FEWEST:
            values = weight.detach().double()
            largest, size = float(values.abs().max()), float(values.square().mean().sqrt())
            bound = 1.0 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(weight)[0])
            if size > 0.0 and UNIFORM[0] < largest / size < UNIFORM[1] and 0.9 * bound < largest <= 1.0001 * bound:
                found.append(path)
    return found
