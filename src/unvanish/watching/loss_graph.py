"""The calls between the outputs of a model and its loss, which run outside of every module: read off the graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

MOST = 200
"""Nodes that are looked at: a loss is small, and what is larger holds a model nobody watches."""

STEEP = ("sqrt", "pow", "norm", "log", "div", "acos", "asin", "atanh", "acosh", "rsqrt", "reciprocal", "cdist", "std")
"""Calls with an infinite slope at some input at which their value is finite."""

SMOOTH = ("log_softmax", "log_sigmoid", "logsumexp")
"""Calls whose names begin so, and whose slope is finite everywhere."""


FACTORS = ("mul", "div", "mean", "sum", "to_copy", "view", "squeeze", "clone", "alias")
"""Calls between one call of a loss and the whole that multiply it by a number, or leave it as it is."""

MEAN = 1
"""The reduction of a loss that divides by the sum of the weights of its targets, as a node keeps it."""


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


def past_the_outputs(nodes: Iterable[Any], weights: Collection[int]) -> bool:
    """Whether some of these nodes, from ``between``, take one of the weights (by its id) itself.

    So does what a gradient penalty makes of the gradients of the model, and a penalty on the weights.
    """
    return any(
        id(getattr(ahead, "variable", None)) in weights for node in nodes for ahead, _ in node.next_functions if ahead
    )


def birth(nodes: list[Any]) -> str:
    """The first call with a result or a slope that is not finite, while the graph still holds them; "" for none."""
    for node in nodes:
        if _given_what_is_not_finite(node):
            return f"{name_of(node)}, which was given numbers that are not finite from elsewhere (a target, a factor)"
        if (reason := _made(node)) is not None:
            return name_of(node) + (reason or _of_what(node))
        if (what := _of_what(node)).endswith("negative number"):  # its slope is finite all the same
            return name_of(node) + what
        try:
            given = [torch.ones(meta.shape, dtype=meta.dtype, device=meta.device) for meta in node._input_metadata]
            with torch.no_grad():
                slopes = node(*given)
        except Exception:  # a node that cannot be asked alone tells nothing
            continue
        slopes = slopes if isinstance(slopes, tuple) else (slopes,)
        if any(isinstance(each, Tensor) and not bool(torch.isfinite(each).all()) for each in slopes):
            return name_of(node) + _of_what(node)
    return ""


ZEROS = {"log": ("_saved_self", "of"), "log2": ("_saved_self", "of"), "log10": ("_saved_self", "of"),
         "div": ("_saved_other", "by"), "sqrt": ("_saved_result", "of")}  # fmt: skip
"""Calls that have no finite value or slope at zero, and where a node keeps that zero."""


def _of_what(node: Any) -> str:
    """What in its input explains a call that is not finite, such as " of an exact 0"; "" where that is not kept."""
    name, word = ZEROS.get(name_of(node), ("", ""))
    try:
        given = getattr(node, name, None) if name else None
        if not isinstance(given, Tensor) or given.is_complex():
            return ""
        if bool((given == 0).any()):
            return f" {word} an exact 0"
        return f" {word} a negative number" if name == "_saved_self" and bool((given < 0).any()) else ""
    except RuntimeError:  # a backward before this one has freed it
        return ""


def _made(node: Any) -> str | None:
    """What is to be said of a result that is not finite; None where it is, or where it was not kept.

    Infinities of one sign may be a mask's, which a softmax passes on; of a row that is masked whole logsumexp does.
    """
    try:
        result, weight = getattr(node, "_saved_result", None), getattr(node, "_saved_total_weight", None)
        if weight is not None and node._saved_reduction == MEAN and float(weight) == 0.0:
            return ", a mean of nothing (no target counts)"
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return None
        if name_of(node) == "logsumexp" and bool(result.isneginf().any()):
            return ", of a row that is -inf throughout"
        return "" if bool((result.isnan() | result.isposinf()).any()) else None
    except RuntimeError:  # a backward before this one has freed it
        return None


def _given_what_is_not_finite(node: Any) -> bool:
    """Whether a tensor that comes from no call of the graph, and is kept, holds nan or inf."""
    for name in dir(node):
        if name.startswith("_saved_"):
            try:
                kept = getattr(node, name)
            except RuntimeError:  # a backward before this one has freed it
                return False
            plain = isinstance(kept, Tensor) and kept.is_floating_point() and not kept.requires_grad
            if plain and not bool(torch.isfinite(kept).all()):
                return True
    return False


def steep(nodes: list[Any]) -> list[str]:
    """The names of the calls that can have made an infinite slope."""
    names = [name_of(node) for node in nodes if not _gentle(node)]
    return list(dict.fromkeys(name for name in names if name.startswith(STEEP) or "norm" in name))


def _gentle(node: Any) -> bool:
    """Whether its slope is finite wherever its value is, as that of a square, or of a softmax's logarithm."""
    power = getattr(node, "_saved_exponent", None)
    return (isinstance(power, int | float) and power >= 1) or name_of(node).startswith(SMOOTH)


def name_of(node: Any) -> str:
    """The call that made a node, such as "log_softmax" for LogSoftmaxBackward0."""
    plain = re.sub(r"Backward\d*$", "", node.name().split("::")[-1])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()


def signed(number: int) -> int:
    """A node keeps -1 as a number without a sign."""
    return number - 2**64 if number >= 2**63 else number


def kept(node: Any, name: str) -> Any:
    """What a node keeps under this name; None where it keeps nothing there, or holds it no more.

    What was put away by a hook is not asked for: a checkpoint would run its part of the forward pass again.
    """
    try:
        raw = getattr(node, f"_raw{name}", None)
        return getattr(node, name, None) if getattr(raw, "unpack_hook", raw) is None else None
    except RuntimeError:  # a backward before this one has freed it, or it was written over
        return None


def below_factors(root: Any) -> Any:
    """The node of the one call that a loss comes from, but for means, sums and plain factors; None where there is none.

    Of the names of means and sums, those over single axes count as well: a loss has no axes left.
    """
    node = root
    while node is not None and name_of(node) in FACTORS:
        other = kept(node, "_saved_other")
        if isinstance(other, Tensor) and other.numel() > 1:  # a weight of each entry
            return None
        ahead = [each for each, _ in node.next_functions if each is not None]
        node = ahead[0] if len(ahead) == 1 else None
    return node
