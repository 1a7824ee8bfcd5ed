"""A momentum that forgets within the training."""

from __future__ import annotations

from typing import Any

from unvanish.remedies import Change, Draft, Refused, remedy

USUAL = 0.9


@remedy(
    "short-momentum",
    "a momentum that forgets within the training",
    kind="optimizer",
    answers=("UV402", "UV704"),
    cures_on=("long-momentum",),
    no_help_on=("dead-relu", "lr-too-small", "relu-he-20"),
    only_for="fault",
)
def short_momentum(draft: Draft) -> Change:
    """A momentum of 0.9 where the one there is remembers more steps than the training has.

    What: a momentum m with 1/(1 − m) above the planned number of steps becomes 0.9; all other settings stay.
    Helps: the first, largest gradients are added to every step to the end, and the weights swing far past any minimum.
    Does not help: any other trouble; a memory shorter than the training (refused), and Adam's betas.
    Source: Polyak 1964, Some methods of speeding up the convergence of iteration methods; Goh 2017, Why momentum really
    works.
    """
    momenta = [options.get("momentum") for options in draft.recipe.settings]
    found = [value for value in momenta if value and _is_long(draft, value)]
    if not found:
        raise Refused("no momentum remembers more steps than the training has")
    draft.recipe = draft.recipe.with_options(momentum=USUAL)
    memory = f"{1.0 / (1.0 - max(found)):,.0f} steps" if max(found) < 1.0 else "everything"
    sentence = f"a momentum of {USUAL:g} instead of {max(found):g}, which remembers {memory} in {draft.steps:,} steps"
    return Change(sentence=sentence)


def _is_long(draft: Draft, momentum: Any) -> bool:
    return isinstance(momentum, float) and draft.steps is not None and (1.0 - momentum) * draft.steps < 1.0
