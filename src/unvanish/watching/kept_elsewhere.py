"""Copies of the watched weights that nothing told of, looked for once, when a run ends.

An average of the weights is often a dict of tensors, or a model that was copied before the watch began. Python's
collector knows all objects that hold others, and what holds tensors of the very names and shapes of a watched model,
and no gradient of its own, is such a copy. What it is for is not known, so nan in it is a note.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from unvanish.records import Finding
from unvanish.watching.dated import dated
from unvanish.watching.gradients import held
from unvanish.watching.norms import has_nan
from unvanish.words.numbers import listing

_watched: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()


def was_watched(models: Iterable[nn.Module]) -> None:
    """These are no copies of what is trained later, as the folds of a cross-validation: their own runs tell of them."""
    _watched.update({id(each): each for each in models})


def odd_copies(models: Mapping[str, nn.Module], known: Iterable[nn.Module]) -> list[tuple[str, list[str]]]:
    """Of each copy with nan what it is, and the names under which it stands; ``known``: other models that are known.

    What the program holds may be anything, so it is looked at by its true type, and none of its own code runs: an
    object may take another's ``__class__``, its class may have no hash, and reading its attributes may start something.
    """
    inside = {id(part) for model in (*models.values(), *known, *_watched.values()) for part in _parts(model)}
    shapes = [
        {name: each.shape for name, each in _weights(each).items() if not is_lazy(each)} for each in [*models.values()]
    ]
    kinds, first = {id(type(model)) for model in models.values()}, {next(iter(each), "") for each in shapes}
    modules: list[tuple[str, dict[Any, Any]]] = []
    dicts: list[tuple[str, dict[Any, Any]]] = []
    moved = {id(p) for model in models.values() for p in _weights(model).values()}
    for each in gc.get_objects():
        if type(each) is dict:
            if any(name in each for name in first):
                dicts.append(("a dict of tensors with the names of the weights", each))
        elif id(type(each)) in kinds:
            if id(each) not in inside:
                modules.append((f"another {type(each).__name__} of the same shapes", _weights(each)))
        elif issubclass(type(each), Optimizer):
            moved |= _held(each)
    found: list[tuple[str, list[str]]] = []
    told: set[int] = set()
    for what, those in (*modules, *dicts):
        if not _is_copy(those, shapes, moved):
            continue
        odd = {name: each for name, each in [*those.items()] if type(name) is str and _is_odd(each)}
        if odd and told.isdisjoint(map(id, odd.values())):  # a dict may hold those of such a model
            found.append((what, [*odd]))
        told |= {*map(id, odd.values())}
    return found


def _parts(model: nn.Module) -> list[nn.Module]:
    try:
        return [*model.modules()]
    except Exception:
        return [model]


def _weights(model: nn.Module) -> dict[Any, Any]:
    """Its parameters by name; none where its own code fails, as of one that was never made whole."""
    try:
        return dict(model.named_parameters())
    except Exception:
        return {}


def _held(optimizer: Optimizer) -> set[int]:
    try:
        return {id(each) for each in held(optimizer)}
    except Exception:
        return set()


def _is_copy(those: dict[Any, Any], shapes: list[dict[str, Any]], moved: Collection[int]) -> bool:
    """Whether it holds all weights of one of the models, in tensors of its own that were not trained.

    ``moved``: the ids of what an optimizer holds. A training may end with ``zero_grad()``, which leaves no gradient.
    """
    for mine in shapes:
        alike: list[Any] = [those.get(name) for name in mine]
        if mine and all(type(each) in (Tensor, nn.Parameter) for each in alike):
            same = all(each.shape == shape for each, shape in zip(alike, mine.values(), strict=True))
            if same and not any(id(each) in moved or (each.is_leaf and each.grad is not None) for each in alike):
                return True
    return False


def _is_odd(value: Any) -> bool:
    """Whether it is a tensor that holds nan; what a transform of torch.func has left behind cannot be read."""
    try:
        return type(value) in (Tensor, nn.Parameter) and has_nan(value)
    except RuntimeError:
        return False


def of_the_copy(step: int, what: str, names: list[str]) -> Finding:
    text = (
        f"when the run ends there is nan in {what} ({listing(names)}), which holds no gradient, as an average of the"
        " weights. Losses and gradients were finite; since when it is so, and what it is for, is not known."
    )
    return Finding(code="UV501", verdict="nonfinite", level="note", cause="copy", message=dated("at", step, text))
