"""Copies of the watched weights that nothing told of, looked for once, when a run ends.

An average of the weights is often a dict of tensors, or a model that was copied before the watch began. Python's
collector knows all objects that hold others, and what holds tensors of the very names and shapes of a watched model,
and no gradient of its own, is such a copy. What it is for is not known, so nan in it is a note.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unvanish.records import Finding
from unvanish.watching.dated import dated
from unvanish.watching.norms import has_nan
from unvanish.words.numbers import listing


def odd_copies(models: Mapping[str, nn.Module], known: Iterable[nn.Module]) -> list[tuple[str, list[str]]]:
    """Of each copy with nan what it is, and the names under which it stands; ``known``: other models that are known."""
    inside = {id(part) for model in (*models.values(), *known) for part in model.modules()}
    shapes = [
        {name: each.shape for name, each in model.named_parameters() if not is_lazy(each)} for model in models.values()
    ]
    kinds, first = {type(model) for model in models.values()}, {next(iter(each), "") for each in shapes}
    modules: list[tuple[str, dict[Any, Any]]] = []
    dicts: list[tuple[str, dict[Any, Any]]] = []
    for each in gc.get_objects():
        if type(each) is dict:
            if not first.isdisjoint(each) and _is_copy(each, shapes):
                dicts.append(("a dict of tensors with the names of the weights", each))
        elif type(each) in kinds and id(each) not in inside and _is_copy(held := dict(each.named_parameters()), shapes):
            modules.append((f"another {type(each).__name__} of the same shapes", held))
    found: list[tuple[str, list[str]]] = []
    told: set[int] = set()
    for what, held in (*modules, *dicts):
        odd = [name for name in held if isinstance(held[name], Tensor) and has_nan(held[name])]
        if odd and told.isdisjoint(id(held[name]) for name in odd):  # a dict may hold those of such a model
            found.append((what, odd))
        told |= {id(held[name]) for name in odd}
    return found


def _is_copy(held: dict[Any, Any], shapes: list[dict[str, Any]]) -> bool:
    """Whether it holds all weights of one of the models, in tensors of its own that were not trained."""
    for mine in shapes:
        those: list[Any] = [held.get(name) for name in mine]
        if mine and all(type(each) in (Tensor, nn.Parameter) for each in those):
            alike = all(each.shape == shape for each, shape in zip(those, mine.values(), strict=True))
            if alike and not any(each.is_leaf and each.grad is not None for each in those):
                return True
    return False


def of_the_copy(step: int, what: str, names: list[str]) -> Finding:
    text = (
        f"when the run ends there is nan in {what} ({listing(names)}), which no gradient has reached, as in an average"
        " of the weights. Losses and gradients were finite; since when it is so, and what it is for, is not known."
    )
    return Finding(code="UV501", verdict="nonfinite", level="note", cause="copy", message=dated("at", step, text))
