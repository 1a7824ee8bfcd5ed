"""The calls between the outputs of a model and its loss, which run outside of every module: read off the graph."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

MOST = 200
"""Nodes that are looked at: a loss is small, and what is larger holds a model nobody watches."""

STEEP = ("sqrt", "pow", "norm", "log", "div", "acos", "asin", "atanh", "acosh", "rsqrt", "reciprocal", "cdist", "std")
"""Calls with an infinite slope at some input at which their value is finite."""


def between(root: Any, ends: Collection[int]) -> list[Any]:
    """The nodes from the loss back to the outputs of the model, those nearest to the model first.

    ``ends``: the numbers of the nodes that made the outputs; they count up in the thread that runs the forward pass.
    """
    found: dict[Any, None] = {}
    waiting = [] if root is None else [root]
    while waiting and len(found) < MOST:
        node = waiting.pop()
        if node in found or node._sequence_nr() in ends:
            continue
        found[node] = None
        waiting.extend(
            ahead for ahead, _ in node.next_functions if ahead is not None and not hasattr(ahead, "variable")
        )
    return sorted(found, key=lambda node: node._sequence_nr())


def birth(nodes: list[Any]) -> str:
    """The first call whose slope is not finite, while the graph still holds what it needs; "" where there is none."""
    for node in nodes:
        try:
            given = [torch.ones(meta.shape, dtype=meta.dtype, device=meta.device) for meta in node._input_metadata]
            with torch.no_grad():
                slopes = node(*given)
        except Exception:  # a node that cannot be asked alone tells nothing
            continue
        slopes = slopes if isinstance(slopes, tuple) else (slopes,)
        if any(isinstance(each, Tensor) and not bool(torch.isfinite(each).all()) for each in slopes):
            return name_of(node)
    return ""


def steep(nodes: list[Any]) -> list[str]:
    """The names of the calls that can have made an infinite slope."""
    return list(dict.fromkeys(name for node in nodes if (name := name_of(node)).startswith(STEEP) or "norm" in name))


def name_of(node: Any) -> str:
    """The call that made a node, such as "log_softmax" for LogSoftmaxBackward0."""
    plain = re.sub(r"Backward\d*$", "", node.name().split("::")[-1])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
