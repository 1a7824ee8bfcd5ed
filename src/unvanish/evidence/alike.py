"""Rows that become alike: what averages over nodes or tokens, one behind the other, leave of their differences.

Only averages that every path must pass count. Where a skip goes around them, a row keeps what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unvanish.decide.limits import ALIKE, PLATEAU
from unvanish.decide.stationary import floor_of
from unvanish.evidence.output_loss import OutputLoss, minimise, searchable
from unvanish.records import AlikeFacts, CallFlow, LossFacts
from unvanish.trace.calls import Capture
from unvanish.trace.mixing import Mixing
from unvanish.trace.scaled import log10_of


def alike_facts(
    capture: Capture, calls: Sequence[CallFlow], output_loss: OutputLoss | str, loss: LossFacts | None
) -> AlikeFacts | None:
    """The averages without a way around them; None for fewer than two, and where each leaves rows apart."""
    found = [(c, c.mixed.measured()) for c in capture.calls if c.mixed is not None and calls[c.index].trunk]
    through = [(call, mixing) for call, mixing in found if mixing is not None]
    for call in capture.calls:
        call.mixed = None
    rows = {mixing.rows for _, mixing in through}
    if len(through) < 2 or len(rows) > 1 or not min(mixing.after for _, mixing in through) < 10.0**ALIKE:
        return None
    last = through[-1][0]
    facts = AlikeFacts(
        rows=rows.pop(),
        calls=tuple(call.index for call, _ in through),
        log10_spread=tuple(log10_of(mixing.after) for _, mixing in through),
        stable_rank=tuple(mixing.stable_rank for _, mixing in through),
        given=log10_of(through[0][1].before),
        digits=2.0 * math.log10(torch.finfo(last.dtype).eps),
    )
    floor = floor_of(loss)
    if isinstance(output_loss, str) or loss is None or loss.reference is None or floor is None:
        return facts
    best = _best_alike(output_loss, through[-1][1])
    if best is None:
        return facts
    return facts.replace(
        best_alike=best,
        at_alike=loss.value - floor >= PLATEAU * (best - floor),
        out_of_reach=min(1.0, max(0.0, (best - floor) / loss.reference)),
    )


def _best_alike(output_loss: OutputLoss, mixing: Mixing) -> float | None:
    """The lowest loss of outputs that are the same for all rows of a group; None where the outputs are no such rows."""
    shapes = [_grouped(tuple(t.shape), mixing) for t in output_loss.now]
    if None in shapes:
        return None
    grouped = [shape for shape in shapes if shape is not None]
    start = [
        searchable(t).reshape(shape).mean(axis, keepdim=True)
        for t, (shape, axis) in zip(output_loss.now, grouped, strict=True)
    ]

    def at(z: Sequence[Tensor]) -> Tensor:
        return output_loss.at(
            [
                a.expand(shape).reshape(t.shape).to(t.dtype)
                for a, t, (shape, _) in zip(z, output_loss.now, grouped, strict=True)
            ]
        )

    return minimise(at, start)[0]


def _grouped(shape: tuple[int, ...], mixing: Mixing) -> tuple[tuple[int, ...], int] | None:
    """The shape in which the rows have an axis of their own, and that axis: (nodes, …), (texts, …, tokens, …), flat."""
    if not shape:
        return None
    if mixing.groups == 1:
        return (shape, 0) if shape[0] == mixing.rows else None
    axis = next((k for k, size in enumerate(shape) if k and size == mixing.rows), None)
    if axis is not None:
        return shape, axis
    if shape[0] > mixing.rows and shape[0] % mixing.rows == 0:
        return (shape[0] // mixing.rows, mixing.rows, *shape[1:]), 1
    return None
