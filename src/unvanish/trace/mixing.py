"""Calls that average over rows: the neighbours of a node, the tokens of a text. What they do no weight can undo.

A layer that treats every row alone may make rows nearly alike and a later one may tell them apart again. A mean over
rows is different: a product of many such means tends to a single row, whatever the weights between them are.

Source: Li, Han & Wu 2018, Deeper insights into graph convolutional networks for semi-supervised learning; Dong,
Cordonnier & Loukas 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

PRODUCTS = ("matmul", "__matmul__", "mm", "bmm", "spmm", "_sparse_mm", "mv", "__rmatmul__")
ATTENTIONS = ("scaled_dot_product_attention", "multi_head_attention_forward")
GATHERED = ("index_add", "scatter_add", "scatter_reduce", "index_reduce", "segment_reduce")
LEAST = 4
"""Rows: of fewer the mean cosine says nothing about depth."""
MOST_GROUPS, MOST_ROWS = 16, 512
"""Of more, so many at even distances are copied."""
TURNS = 20
"""Of power iteration: of singular values a tenth apart the square of the largest is right to a thousandth."""


class Mixing(NamedTuple):
    """What a mean over ``rows`` did: their spread before and after it, 1 less the mean cosine between two rows.

    ``stable_rank``: of the rows after it, ‖H‖²_F / σ₁². ``groups``: in how many groups the rows are (texts of a batch).
    """

    rows: int
    groups: int
    before: float
    after: float
    stable_rank: float


class Mixed(NamedTuple):
    """Rows that a call was given and those it made of them, each (groups, rows, width); of many some of them."""

    rows: int
    groups: int
    given: Tensor
    made: Tensor

    def measured(self) -> Mixing | None:
        """What the call did to the rows; None where they have no direction."""
        given, made = self.given.double(), self.made.double()
        before, after = spread(given), spread(made)
        if before is None or after is None:
            return None
        return Mixing(self.rows, self.groups, before, after, stable_rank(made))


def mixed_of(
    name: str, args: Any, kwargs: Any, made: list[Tensor], of_weights: Callable[[Tensor], bool]
) -> Mixed | None:
    """Copies of the rows of a call; None where it does not average over them.

    ``of_weights``: whether a tensor is made of weights alone, which are no rows.
    """
    name = name.rstrip("_") if not name.startswith("__") else name
    try:
        found = _operands(name, args, kwargs, made)
        if found is None or of_weights(found[0]):
            return None
        count = found[1].numel() // max(1, found[1].shape[-1] * found[1].shape[-2])
        return Mixed(found[1].shape[-2], count, _rows(found[0]), _rows(found[1]))
    except (IndexError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return None  # operands of a form that is not known, or that cannot be copied: this call is not looked at


def spread(rows: Tensor) -> float | None:
    """1 less the mean cosine between two rows of ``rows`` (groups, rows, width), in float64; zero rows are left out.

    The mean of ‖u − ū‖² over the rows' directions u, which is free of the cancellation in 1 − cos.
    """
    lengths = rows.norm(dim=-1, keepdim=True)
    there = (lengths > 0.0) & lengths.isfinite()
    units = torch.where(there, rows / lengths.clamp(min=1e-300), torch.zeros_like(rows))
    counts = there.sum(-2, keepdim=True)
    mean = units.sum(-2, keepdim=True) / counts.clamp(min=1)
    apart = ((units - mean).square().sum(-1, keepdim=True) * there).sum(-2) / counts.clamp(min=1).squeeze(-2)
    enough = (counts >= LEAST).flatten()
    return float(apart.flatten()[enough].mean()) if bool(enough.any()) else None


def stable_rank(rows: Tensor) -> float:
    """‖H‖²_F / σ₁² of each group, its mean over the groups; σ₁ by power iteration from the mean row."""
    square = rows.square().sum((-2, -1))
    # Of size 1 neither the rows nor twenty products with them leave float64: no turn need be scaled by itself.
    unit = rows / square.sqrt().clamp(min=1e-300)[..., None, None]
    vector = unit.mean(-2, keepdim=True) + 1e-3 * unit[..., :1, :]
    for _ in range(TURNS - 1):
        vector = vector @ unit.mT @ unit
    vector = vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    vector = vector @ rows.mT @ rows
    top = vector.norm(dim=-1).flatten()
    found = (square / top.clamp(min=1e-300))[top > 0.0]
    return float(found.mean()) if found.numel() else 1.0


def _rows(tensor: Tensor) -> Tensor:
    """(groups, rows, width), copied; of a large tensor some groups and rows at even distances."""
    rows = tensor.detach().reshape(-1, *tensor.shape[-2:])
    rows = rows[:: -(-rows.shape[0] // MOST_GROUPS), :: -(-rows.shape[1] // MOST_ROWS)]
    return rows.clone()


def _operands(name: str, args: Any, kwargs: Any, made: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """The rows that the call averages and those it gives, each (…, rows, width)."""
    if name in ATTENTIONS:
        value = args[2] if len(args) > 2 else kwargs["value"]
        result = made[0]
        if name == "multi_head_attention_forward":  # (tokens, texts, width)
            value, result = (t.transpose(0, 1) if t.ndim == 3 else t for t in (value, result))
        return _if_rows(value, result)
    if name in GATHERED:
        source = next((t for t in (*args[1:], *kwargs.values()) if isinstance(t, Tensor) and t.requires_grad), None)
        axis = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, int)), 0)
        along_rows = axis % made[0].ndim == made[0].ndim - 2
        return _if_rows(source, made[0]) if source is not None and along_rows else None
    if name == "einsum":
        return _summed(args, made[0])
    if name not in PRODUCTS:
        return None
    operator, rows = (args[1], args[0]) if name == "__rmatmul__" else (args[0], args[1])
    if not rows.requires_grad or operator.shape[-1] != operator.shape[-2] or not _not_negative(operator):
        return None
    return _if_rows(rows, made[0])


def _if_rows(given: Tensor, result: Tensor) -> tuple[Tensor, Tensor] | None:
    fit = min(given.ndim, result.ndim) >= 2 and given.shape[-1] == result.shape[-1] > 1
    return (given, result) if fit and result.shape[-2] >= LEAST and result.is_floating_point() else None


def _summed(args: Any, made: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of ``einsum("bij,bjd->bid", means, rows)``: the operator has the axis that is summed and the one that stays."""
    match = re.fullmatch(r"([a-zA-Z.]+),([a-zA-Z.]+)->([a-zA-Z.]+)", str(args[0]).replace(" ", ""))
    operands = args[1:] if len(args) == 3 else args[1]
    if match is None or len(operands) != 2:
        return None
    first, second, out = match.groups()
    for means, rows, means_axes, rows_axes in ((*operands, first, second), (*operands[::-1], second, first)):
        summed, kept = set(means_axes) & set(rows_axes) - set(out), set(means_axes) & set(out) - set(rows_axes)
        if len(summed) == len(kept) == 1 and rows.requires_grad and "." not in rows_axes + out:
            (j,), (i,) = summed, kept
            width = [axis for axis in out if axis in rows_axes and axis not in means_axes]
            if (
                len(width) != 1
                or rows.shape[rows_axes.index(j)] != made.shape[out.index(i)]
                or not _not_negative(means)
            ):
                continue
            return _if_rows(_last(rows, rows_axes, j, width[0]), _last(made, out, i, width[0]))
    return None


def _last(tensor: Tensor, axes: str, rows: str, width: str) -> Tensor:
    return tensor.detach().movedim((axes.index(rows), axes.index(width)), (-2, -1))


def _not_negative(operator: Tensor) -> bool:
    """Whether its entries are weights of a mean: a product with signs may tell rows apart as well."""
    values = operator.detach()
    if values.layout is not torch.strided:
        values = values.values() if values.layout is not torch.sparse_coo else values.coalesce().values()
    return values.is_floating_point() and bool((values >= 0.0).all())
