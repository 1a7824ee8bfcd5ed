"""Gradients clipped tensor by tensor, each against the size of its own weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from unvanish.remedies import Change, Draft, Refused, remedy

SHARE = 0.01


@remedy(
    "clip-layers",
    "gradients clipped layer by layer",
    kind="clip",
    answers=("UV201", "UV704"),
    cures_on=("lr-too-large", "relu-he-20 with SGD 1"),
    no_help_on=("sigmoid-50", "dead-relu"),
)
def clip_layers(draft: Draft) -> Change:
    """The gradient of each tensor of weights is cut to a share of the tensor's own size.

    What: the norm of each tensor's gradient is kept below what makes a step of SGD change it by 1% at most, and below
    1% of its norm for other optimizers; a tensor of zeros counts as one of norm 0.001.
    Helps: gradients that explode on their way back: cut all together, the largest leave nothing of the others.
    Does not help: vanished gradients; adaptive optimizers much, which do not see the gradient's length.
    Source: Brock, De, Smith & Simonyan 2021, High-performance large-scale image recognition without normalization
    (adaptive gradient clipping); You, Gitman & Ginsburg 2017, Large batch training of convolutional networks.
    """
    recipe = draft.recipe
    share = SHARE
    if recipe.optimizer is torch.optim.SGD and recipe.lr > 0.0:
        share = float(f"{SHARE / recipe.lr:.2g}")
    if recipe.clip_layers is not None and recipe.clip_layers <= share:
        raise Refused(f"the gradient of each tensor is clipped at {recipe.clip_layers:g} of its size already")
    draft.recipe = replace(recipe, clip_layers=share)
    return Change(sentence=f"the gradient of each tensor clipped to {share:g} of its norm")
