"""Outputs that a cross-entropy takes its classes of along no axis of theirs, as after a view in place of a transpose.

Logits of shape (N, T, C) viewed as (N, C, T), or (N, C, T) viewed as rows of C, have the right shape, and the entries
of one row come from several steps. Which entries these are is asked of the loss: a row of classes goes back to one
entry of each class, all else about them the same.
"""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor

from unvanish.evidence.closed import known_call, taken_from
from unvanish.evidence.moving import or_none
from unvanish.evidence.output_loss import OutputLoss
from unvanish.records import LabelFacts
from unvanish.trace.calls import Call, Capture


def class_axis_facts(capture: Capture, output_loss: OutputLoss | str) -> LabelFacts | None:
    """Of three rows of classes the share that is none of the outputs; None where all are, or it cannot be told.

    Only of outputs that a layer with a unit for each class gives in the shape they have: of others a view may be what
    makes the axes.
    """
    call = next((each for each in capture.calls if each.name == "cross_entropy" and each.part == "loss"), None)
    if call is None or isinstance(output_loss, str):
        return None
    layers = [each for each in capture.calls if each.part == "model" and each.parameters and len(each.shape) > 2]
    units = {each.shape: each.shape[1 if "conv" in each.name else -1] for each in layers if _has_units(each)}
    mixed = or_none(lambda: _mixed(output_loss, units)) if units else None  # a loss may refuse detached outputs
    return LabelFacts(call=call.index, kind="mixed", share=mixed) if mixed else None


def _has_units(call: Call) -> bool:
    """Whether the axis of its units is known: the first after that of the samples, or the last."""
    return "conv" in call.name or call.name == "linear"


def _mixed(output_loss: OutputLoss, units: dict[tuple[int, ...], int]) -> float:
    with torch.enable_grad():
        z = [t.detach().clone().requires_grad_(True) for t in output_loss.now]
        found = known_call(output_loss.at, z)
        if found is None or found[0] is not F.cross_entropy:
            return 0.0
        given = inspect.signature(F.cross_entropy).bind(*found[1], **found[2]).arguments
        rows = given["input"]
        place = taken_from(rows, z)
        if place is None or given["target"].is_floating_point() or rows.ndim < 2:
            return 0.0
        output, classes = z[place], rows.shape[1]
        if units.get(tuple(output.shape)) != classes or classes < 2:
            return 0.0
        flat = rows.movedim(1, -1).reshape(-1, classes)
        asked = sorted({0, len(flat) // 2, len(flat) - 1})
        parts = [torch.autograd.grad(flat[k].sum(), output, retain_graph=True)[0] for k in asked]
    return sum(not _is_line(part, classes) for part in parts) / len(parts)


def _is_line(part: Tensor, classes: int) -> bool:
    """Whether the entries that are not zero lie along one whole axis that is as long as there are classes."""
    varying = [len(places.unique()) for places in part.nonzero().T]
    return [(n, size) for n, size in zip(varying, part.shape, strict=True) if n > 1] == [(classes, classes)]
