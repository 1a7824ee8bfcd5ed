"""Normalisers that are given one number at a time, and so give the same whatever comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.shortcuts import shapes_of
from unvanish.rules.wording import listing

INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@remedy(
    "norm-one-group",
    "one group in a normaliser that holds one number a group",
    kind="normalisation",
    answers=("UV101", "UV301", "UV302"),
    cures_on=("norm-of-one",),
    no_help_on=("dead-relu", "small-cnn", "lr-too-small"),
    only_for="fault",
)
def norm_one_group(draft: Draft) -> Change:
    """The channels of a sample are normalised together where each of them was normalised alone.

    What: an nn.GroupNorm that is given one number a group (one channel a group, on a map of 1 × 1) gets one group.
    Helps: a number less its own mean is 0 whatever it is: nothing passes forward but the bias, nothing back at all.
    Does not help: groups of several numbers, where it is refused; layer and instance normalisation, which have no
    groups.
    Source: Wu & He 2018, Group normalization.
    """
    found = {path: each for path, each in _of_one(draft) if isinstance(each, nn.GroupNorm) and each.num_channels > 2}
    if not found:
        raise Refused("no nn.GroupNorm with more than two channels is given one number a group")
    code = [f"model.get_submodule({path!r}).num_groups = 1" for path in found]
    sentence = f"one group in {listing(found)}, whose groups hold one number each"
    return draft.apply(sentence, (), code, found)


@remedy(
    "norm-off",
    "no normaliser where it holds one number",
    kind="normalisation",
    answers=("UV101", "UV301", "UV302"),
    cures_on=("norm-of-one",),
    no_help_on=("dead-relu", "small-cnn", "lr-too-small"),
    only_for="fault",
)
def norm_off(draft: Draft) -> Change:
    """A normaliser that is given one number at a time is taken away.

    What: group, layer and instance normalisation over one number become nn.Identity.
    Helps: a number less its own mean is 0 whatever it is: nothing passes forward but the bias, nothing back at all.
    Does not help: normalisers over several numbers, where it is refused.
    Source: Wu & He 2018, Group normalization.
    """
    found = [path for path, _ in _of_one(draft)]
    if not found:
        raise Refused("no normaliser is given one number at a time")
    code = [f"model = replace(model, {found!r}, nn.Identity)"]
    sentence = f"no normaliser at {listing(found)}, where it holds one number at a time"
    return draft.apply(sentence, [surgery.replace], code, found)


def _of_one(draft: Draft) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of each normaliser that takes the mean over one number."""
    shapes = shapes_of(draft)
    for path, module in draft.model.named_modules():
        if path not in shapes:
            continue
        places = math.prod(shapes[path][0][2:])
        if isinstance(module, nn.GroupNorm):
            numbers = module.num_channels // module.num_groups * places
        elif isinstance(module, nn.LayerNorm):
            numbers = 2 if any(size > 1 for size in module.normalized_shape) else 1
        elif isinstance(module, INSTANCE):
            numbers = places
        else:
            continue
        if numbers == 1:
            yield path, module
