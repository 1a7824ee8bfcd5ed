"""An eps that the weights' number type can hold."""

from __future__ import annotations

import torch

from unvanish.remedies import Change, Draft, Recipe, Refused, remedy

EPS = 1e-4


@remedy(
    "optimizer-eps",
    "an eps that the weights' type can hold",
    kind="optimizer",
    answers=("UV505",),
    cures_on=("half-precision-eps",),
    no_help_on=("half-precision-moment", "lr-too-large", "dead-relu"),
    only_for="fault",
)
def optimizer_eps(draft: Draft) -> Change:
    """The small number that keeps the optimizer from dividing by zero, made large enough not to be rounded to zero.

    What: an eps that is exactly 0 in the type of a trained weight becomes 1e-4; all other settings stay.
    Helps: Adam, AdamW, RMSprop and their like on float16 weights, in which torch's 1e-8 is 0: the next step divides
    0 by 0.
    Does not help: moments that overflow, a loss that underflows, weights in any other type (refused).
    Source: Micikevicius et al. 2018, Mixed precision training; Kingma & Ba 2015, Adam, algorithm 1.
    """
    recipe = draft.recipe
    before = recipe.options.get("eps")
    if not isinstance(before, float):
        raise Refused(f"{recipe.optimizer.__name__} has no eps")
    found = {p.dtype for p in draft.model.parameters() if p.requires_grad and _is_lost(recipe, p.dtype)}
    if not found:
        raise Refused(f"an eps of {before:g} is not rounded to zero in the type of any trained weight")
    draft.recipe = recipe.with_options(eps=EPS)
    dtype = str(found.pop()).removeprefix("torch.")
    return Change(sentence=f"eps = {EPS:g} instead of {before:g}, which is 0 in {dtype}")


def _is_lost(recipe: Recipe, dtype: torch.dtype) -> bool:
    return any(float(torch.tensor(each["eps"], dtype=dtype)) == 0.0 < each["eps"] for each in recipe.settings)
