"""What goes into a model and comes out of it: tensors in nested tuples, lists, mappings and dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor


def inner_loss(outputs: Any) -> Any:
    """``outputs.loss`` or ``outputs["loss"]``, or None."""
    found = getattr(outputs, "loss", None)
    if found is None and isinstance(outputs, Mapping):
        found = outputs.get("loss")
    return found


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from tensors(value)
    elif hasattr(tree, "__dataclass_fields__") and not isinstance(tree, type):
        for field in fields(tree):
            yield from tensors(getattr(tree, field.name))


def arguments(tree: Any) -> list[Tensor]:
    """Every tensor among the arguments of a call; quick, because it runs for each call."""
    found: list[Tensor] = []
    _gather((tree,), found)
    return found


def _gather(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)


def detached(tree: Any) -> Any:
    """The same structure with every tensor cut off the graph (containers are new, other objects the same)."""
    return rebuild(tree, lambda t: t.detach())


def rebuild(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure with ``change(tensor)`` in place of every tensor."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        parts = [rebuild(value, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [rebuild(value, change) for value in tree]
    if isinstance(tree, dict):
        parts = {key: rebuild(value, change) for key, value in tree.items()}
        return parts if type(tree) is dict else type(tree)(**parts)
    if hasattr(tree, "__dataclass_fields__") and not isinstance(tree, type):
        new = copy.copy(tree)
        for name in tree.__dataclass_fields__:
            object.__setattr__(new, name, rebuild(getattr(tree, name), change))
        return new
    return tree
