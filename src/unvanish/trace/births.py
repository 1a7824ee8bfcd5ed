"""Where numbers that are not finite come from: a mask is meant so, a result that only passes them on is not to blame.

What a call was given is looked at as it runs, and only where its result is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unvanish.trace.scaled import entries_of

if TYPE_CHECKING:
    from unvanish.trace.calls import Call

WRITES = {
    "masked_fill", "masked_fill_", "where", "__setitem__", "index_put", "index_put_", "index_fill", "index_fill_",
    "masked_scatter", "masked_scatter_", "fill_", "copy_", "MaskedFill", "IndexPut", "CopySlices", "Fill", "Copy",
    "IndexFill", "Scatter", "MaskedScatter",
}  # fmt: skip
"""Calls, and nodes of in-place ones, that put given values into places and compute none."""

REDUCES = ("softmax", "logsumexp")
"""Parts of the names of calls that make nan of a row which is -inf throughout, in their result or on the way back."""


@dataclass(slots=True)
class Trouble:
    """What is known of a call whose result is not finite.

    ``nan``: it holds nan, not infinities alone. ``one_sided``: its infinities are all of one sign. ``given``: "nan" or
    "inf" where something that no recorded call made (a mask, the batch, a weight) was not finite already; ``weights``:
    that was computed from weights alone. ``row``: all of a row was masked. ``share``: of its entries, those that are
    not finite. ``nothing``: why what it takes the mean of is nothing.
    """

    nan: bool
    one_sided: bool
    given: str
    weights: bool
    row: bool
    share: float
    nothing: str = ""


def trouble_of(name: str, args: Any, kwargs: Any, constants: Sequence[Tensor], made: Sequence[Tensor]) -> Trouble:
    """``constants``: the tensors among the arguments that no recorded call has made."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        plain = [entries_of(t) for t in made if t.is_floating_point() or t.is_complex()]
        bad = sum(int((~torch.isfinite(t)).sum()) for t in plain)
        nan = any(bool(torch.isnan(t).any()) for t in plain)
        signs = [t for t in plain if not t.is_complex()]
        both = any(bool((t == math.inf).any()) for t in signs) and any(bool((t == -math.inf).any()) for t in signs)
        return Trouble(
            nan=nan,
            one_sided=not nan and not both,
            given=_given(constants, [*args, *kwargs.values()]),
            weights=any(t.grad_fn is not None and not bool(torch.isfinite(entries_of(t)).all()) for t in constants),
            row=_whole_row(name, args, kwargs),
            share=bad / max(1, sum(t.numel() for t in plain)),
            nothing=_nothing(name, args, kwargs) if nan or name == "ctc_loss" else "",
        )


def _nothing(name: str, args: Any, kwargs: Any) -> str:
    """Why a mean is one over nothing: "empty", "ignored" or "weights" of 0, "0/0"; "" where it is none, or unknown.

    "steps": targets that a loss over alignments cannot bring to as many steps as the inputs have.
    """
    if name == "ctc_loss":
        options = dict(zip(("log_probs", "targets", "input_lengths", "target_lengths"), args, strict=False)) | kwargs
        return "steps" if len(options) > 3 and _too_few_steps(options) else ""
    given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if not given or any(t.is_nested or t.layout is not torch.strided for t in given):
        return ""
    if name in ("cross_entropy", "nll_loss") and len(given) > 1 and not given[1].is_floating_point():
        options = dict(zip(("input", "target", "weight", "size_average", "ignore_index"), args, strict=False)) | kwargs
        target, weight = given[1], options.get("weight")
        counted = target[target != options.get("ignore_index", -100)]
        if not counted.numel():
            return "ignored" if target.numel() else "empty"
        return "weights" if isinstance(weight, Tensor) and not bool(weight[counted].any()) else ""
    if name.strip("_") in ("div", "truediv", "true_divide", "divide") and len(given) == 2:
        return "" if bool(given[0].any()) or bool(given[1].any()) else "0/0"
    return "empty" if not given[0].numel() else ""


def _too_few_steps(given: Mapping[str, Any]) -> bool:
    """Whether a sample has fewer steps than labels, with a blank between each two that are equal."""
    targets, *lengths = (torch.as_tensor(given[name]) for name in ("targets", "input_lengths", "target_lengths"))
    steps, sizes = ([int(n) for n in each.reshape(-1).tolist()] for each in lengths)
    rows = targets.tolist() if targets.ndim == 2 else [row.tolist() for row in targets.split(sizes)]
    labels = [row[:size] for row, size in zip(rows, sizes, strict=True)]
    return any(len(row) + sum(a == b for a, b in pairwise(row)) > n for row, n in zip(labels, steps, strict=True))


def origins(calls: Sequence[Call]) -> list[int | None]:
    """For each call, the first one where what is not finite in its result was born.

    None where the result is finite, and where its infinities are meant: put there as a mask, and passed on. What a
    logsumexp makes of a row that is masked whole may do no harm; where it does, it was born there.
    """
    found: list[int | None] = [None] * len(calls)
    empty: list[int | None] = [None] * len(calls)  # the first call behind each that summed up such a row
    for call in calls:
        trouble = call.trouble
        if call.finite or trouble is None:
            continue
        bad = [calls[j] for j in call.inputs if not calls[j].finite]
        with_nan = [each for each in bad if each.trouble is not None and each.trouble.nan]
        before = [found[each.index] for each in (with_nan if trouble.nan and with_nan else bad)]
        born = [index for index in before if index is not None]
        rows = [row for each in bad if (row := empty[each.index]) is not None]
        empty[call.index] = min(rows, default=call.index if trouble.row else None)
        if born:
            found[call.index] = min(born)
        elif not _meant(call, trouble, bool(bad)):
            found[call.index] = min(rows, default=call.index)
    return found


def _meant(call: Call, trouble: Trouble, passed_on: bool) -> bool:
    """Whether the infinities are a mask's: of one sign, given or passed on, and not mixed with others by weights."""
    if not trouble.one_sided:
        return False
    return passed_on or call.name in WRITES or (trouble.given == "inf" and not call.parameters)


def hiders(calls: Sequence[Call], birth: int) -> Iterator[Call]:
    """The calls whose results are finite again although what they are given comes from this birth."""
    spread = {birth}
    for call in calls:
        if spread.intersection(call.inputs):
            if call.finite:
                yield call
            else:
                spread.add(call.index)


def _given(constants: Sequence[Tensor], arguments: Sequence[Any]) -> str:
    numbers = [v for v in arguments if isinstance(v, float) and not math.isfinite(v)]
    plain = [entries_of(t) for t in constants if t.is_floating_point() or t.is_complex()]
    if any(map(math.isnan, numbers)) or any(bool(torch.isnan(t).any()) for t in plain):
        return "nan"
    return "inf" if numbers or any(not bool(torch.isfinite(t).all()) for t in plain) else ""


def _whole_row(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a row of what a softmax is taken of is -inf throughout."""
    if "attention" in name:
        return _masked_whole([m for m in (kwargs.get("attn_mask"), kwargs.get("key_padding_mask")) if m is not None])
    if not any(word in name for word in REDUCES) or not args or not isinstance(args[0], Tensor):
        return False
    axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    try:
        return bool((args[0] == -math.inf).all(-1 if axis is None else axis).any())
    except (RuntimeError, TypeError, IndexError):  # nested tensors, several dimensions at once
        return False


def _masked_whole(masks: Sequence[Any]) -> bool:
    """Whether masks over (…, keys) together leave some query without any key."""
    shut = [m == -math.inf if m.is_floating_point() else m for m in masks if isinstance(m, Tensor) and m.ndim]
    if any(bool(m.all(-1).any()) for m in shut):
        return True
    if len(shut) < 2 or shut[0].ndim != 2 or shut[1].ndim != 2 or shut[0].shape[-1] != shut[1].shape[-1]:
        return False
    return bool((shut[0][None] | shut[1][:, None]).all(-1).any())
