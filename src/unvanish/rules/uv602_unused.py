"""UV602: layers that take no part in computing the loss."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, sources, subject


@rule(
    "UV602",
    "unused",
    "unused layers",
    tier="unused",
    levels=("error", "note"),
    needs=(),
    fires_on=("unused-layer", "unused-expert"),
    silent_on=(
        "relu-he-20",
        "frozen-backbone",
        "shared-module-twice",
        "two-branch",
        "unet-small",
        "lora-zero-b",
        "small-gpt",
    ),
)
def unused(flow: Flow) -> list[Statement]:
    """The layer takes no part in computing the loss, so it has no gradient at all.

    Example: a ``Linear`` made in ``__init__`` and forgotten in ``forward``. A mixture of experts that sent no sample
    of this batch to one of its experts looks the same to the gradient, and is fine.

    Why: parameters outside the graph of the loss never change. That is a mistake where the forward pass can never use
    them, and an accident of the batch where it chooses among equals.

    Evidence: the layer has no call from which the loss can be reached. It is a note where a numbered sibling of the
    same kind is used (experts), or where the layer is a side branch off a used layer whose result this loss does not
    need (poolers), and an error otherwise. Of a running training, a layer that had neither signal nor gradient in a
    step; always a note.

    What helps: call the layer, or remove it; for a result cut off on the way, look for ``detach``, ``no_grad`` and
    conversions to numbers.

    Source: Shazeer et al. 2017, Outrageously large neural networks: the sparsely-gated mixture-of-experts layer
    (experts without a sample).
    """
    layers = judged(flow, "unused")
    if not flow.asks("calls"):
        why = "without a signal and a gradient in this step; others may use"
        return [_finding(flow, list(layers), "note", "this step", f"{why} {_them(layers)}")] if layers else []
    excused = [layer for layer in layers if _has_used_sibling(layer, flow) or _is_side_branch(layer, flow)]
    called = {call.module for call in flow.calls}
    cut = [layer for layer in layers if layer not in excused and _path(layer) in called]
    never = [layer for layer in layers if layer not in excused and layer not in cut]
    findings: list[Statement] = []
    if never:
        findings.append(_finding(flow, never, "error", "never called", "never called in the forward pass"))
    if cut:
        why = "called, but nothing of the result reaches the loss"
        findings.append(_finding(flow, cut, "error", "cut off", why))
    if excused:
        why = "not part of this loss on this batch; other batches or losses may use"
        findings.append(_finding(flow, excused, "note", "this batch", f"{why} {_them(excused)}"))
    return findings


def _finding(flow: Flow, layers: list[LayerFlow], level: str, cause: str, why: str) -> Statement:
    parameters = sum(layer.parameters for layer in layers)
    return Statement(
        level=level,
        layers=names(layers),
        cause=cause,
        message=f"{subject(flow, layers, 'is', 'are')} {why} ({parameters:,} parameters).{sources(layers)}",
        evidence=(Evidence(name="parameters without a gradient", value=float(parameters)),),
    )


def _them(layers: Sequence[LayerFlow]) -> str:
    return "it" if len(layers) == 1 else "them"


def _path(layer: LayerFlow) -> str:
    """The module path: the name without the number of the call."""
    return layer.name.partition("#")[0]


def _has_used_sibling(layer: LayerFlow, flow: Flow) -> bool:
    """Whether a used layer of the same kind differs in one number only, as ``experts.0.up`` and ``experts.1.up`` do."""
    path = _path(layer)
    patterns = [
        re.compile(re.escape(path[: number.start()]) + r"\d+" + re.escape(path[number.end() :]))
        for number in re.finditer(r"(?<=\.)\d+(?=\.|$)", path)
    ]
    used = {_path(other) for other in flow.layers if other.call is not None and other.kind == layer.kind} - {path}
    return any(pattern.fullmatch(other) for pattern in patterns for other in used)


def _is_side_branch(layer: LayerFlow, flow: Flow) -> bool:
    """Whether the layer was called on what a used layer computed; what is cut off has no used layer before it."""
    calls = {call.index: call for call in flow.calls}
    used = {each.call for each in flow.layers if each.call is not None}
    waiting = [call.index for call in flow.calls if call.module == _path(layer)]
    seen: set[int] = set()
    while waiting:
        index = waiting.pop()
        if index in used:
            return True
        if index not in seen and index in calls:
            seen.add(index)
            waiting += calls[index].inputs
    return False
