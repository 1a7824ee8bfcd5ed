"""Less pull of the weights towards zero: no decay, or decay apart from the gradient."""

from __future__ import annotations

from dataclasses import replace

import torch

from unvanish.remedies import Change, Draft, Recipe, Refused, remedy


@remedy(
    "no-weight-decay",
    "no weight decay",
    kind="optimizer",
    answers=("UV402", "UV406"),
    cures_on=("decay-adam",),
    no_help_on=("dead-relu", "lr-too-large", "relu-on-logits"),
    only_for="kind",
)
def no_weight_decay(draft: Draft) -> Change:
    """Nothing pulls the weights towards zero any more.

    What: a weight decay of the optimizer, in every group of parameters, becomes 0; all other settings stay.
    Helps: training that stands still where the pull of the decay and the gradient are equal and opposite.
    Does not help: any other trouble. A network that the decay keeps from learning its data by heart may do worse on
    new data without it; a smaller decay is often right.
    Source: Krogh & Hertz 1992, A simple weight decay can improve generalization.
    """
    before = _decay(draft)
    draft.recipe = draft.recipe.with_options(weight_decay=0.0)
    return Change(sentence=f"no weight decay instead of {before:g}")


@remedy(
    "decoupled-decay",
    "weight decay apart from the gradient",
    kind="optimizer",
    answers=("UV402", "UV406"),
    cures_on=("decay-adam",),
    no_help_on=("decay-coupled", "dead-relu", "lr-too-large"),
    only_for="kind",
)
def decoupled_decay(draft: Draft) -> Change:
    """AdamW in place of an Adam with decay: the weights shrink by learning rate · decay a step, whatever the gradient.

    What: Adam, NAdam and RAdam take their weight decay apart from the gradient; the decay and all other settings stay.
    Helps: Adam divides the gradient by its own size, and with it a decay that was added to it: where the gradient is
    small the weights go to zero at the full learning rate.
    Does not help: SGD, for which both are the same (refused); a decay that is too large in either form.
    Source: Loshchilov & Hutter 2019, Decoupled weight decay regularization.
    """
    before, recipe = _decay(draft), draft.recipe
    if recipe.optimizer is torch.optim.Adam:
        changed = _as_adamw(recipe)
    elif "decoupled_weight_decay" in recipe.options and not recipe.options["decoupled_weight_decay"]:
        changed = recipe.with_options(decoupled_weight_decay=True)
    else:
        raise Refused(f"{recipe.optimizer.__name__} has no form in which the decay stands apart from the gradient")
    draft.recipe = changed
    return Change(sentence=f"a weight decay of {before:g} apart from the gradient ({changed.optimizer.__name__})")


def _decay(draft: Draft) -> float:
    """The largest decay of any group."""
    found = max(float(options.get("weight_decay") or 0.0) for options in draft.recipe.settings)
    if found <= 0.0:
        raise Refused(f"the {draft.recipe.optimizer.__name__} of this network has no weight decay")
    return found


def _as_adamw(recipe: Recipe) -> Recipe:
    def without(options: dict[str, object]) -> dict[str, object]:
        return {key: value for key, value in options.items() if key != "decoupled_weight_decay"}

    groups = tuple((without(options), part) for options, part in recipe.groups)
    return replace(recipe, optimizer=torch.optim.AdamW, options=without(recipe.options), groups=groups)
