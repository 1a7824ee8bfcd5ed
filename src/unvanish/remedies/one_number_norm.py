"""Normalisers that are given one number at a time, or two, and so give the same whatever comes in, or a sign."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.shortcuts import shapes_of
from unvanish.words.numbers import listing

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

    What: an nn.GroupNorm that is given one number a group, or two (one channel a group, on a map of 1 × 1) gets one
    group.
    Helps: a number less its own mean is 0 whatever it is: nothing passes forward but the bias, nothing back at all.
    Does not help: groups of several numbers, where it is refused; layer and instance normalisation, which have no
    groups.
    Source: Wu & He 2018, Group normalization.
    """
    few = ((path, each) for path, each, _ in _of_few(draft))
    found = {path: each for path, each in few if isinstance(each, nn.GroupNorm) and each.num_channels > 2}
    if not found:
        raise Refused("no nn.GroupNorm with more than two channels is given one number a group, or two")
    code = [f"model.get_submodule({path!r}).num_groups = 1" for path in found]
    sentence = f"one group in {listing(found)}, whose groups hold one number or two each"
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
    """A normaliser that is given one number at a time, or two, is taken away.

    What: group, layer and instance normalisation over one number or two become nn.Identity.
    Helps: a number less its own mean is 0 whatever it is: nothing passes forward but the bias, nothing back at all. Of
    two numbers only which is the larger passes forward.
    Does not help: normalisers over more numbers, where it is refused.
    Source: Wu & He 2018, Group normalization.
    """
    numbers = {path: count for path, _, count in _of_few(draft)}
    if not (found := list(numbers)):
        raise Refused("no normaliser is given one number or two at a time")
    code = [f"model = replace(model, {found!r}, nn.Identity)"]
    held = " or ".join(("one", "two")[count - 1] for count in sorted(set(numbers.values())))
    plural = "s" if max(numbers.values()) > 1 else ""
    sentence = f"no normaliser at {listing(found)}, where it holds {held} number{plural} at a time"
    return draft.apply(sentence, [surgery.replace], code, found)


def _of_few(draft: Draft) -> Iterator[tuple[str, nn.Module, int]]:
    """Path, module and count for each normaliser that takes the mean over one number, or over two."""
    shapes = shapes_of(draft)
    for path, module in draft.model.named_modules():
        if path not in shapes:
            continue
        shape = shapes[path][0]
        places = math.prod(shape[2:])
        if isinstance(module, nn.GroupNorm):
            numbers = module.num_channels // module.num_groups * places
        elif isinstance(module, nn.LayerNorm):
            numbers = math.prod(module.normalized_shape)
        elif isinstance(module, INSTANCE):
            numbers = places
        else:
            continue
        if numbers in (1, 2):
            yield path, module, numbers
