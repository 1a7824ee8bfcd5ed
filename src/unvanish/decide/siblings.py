"""Layers that stand beside each other, one of which may be in use while another is not: experts, heads."""

from __future__ import annotations

import re

from unvanish.records import Flow, LayerFlow


def is_one_of_many(layer: LayerFlow, flow: Flow) -> bool:
    """Whether used layers of the same kind differ from it in one number only, and none of them follows another.

    So do ``experts.0.up`` and ``experts.1.up``; the blocks of a trunk follow each other.
    """
    path = layer.path
    patterns = [
        re.compile(re.escape(path[: number.start()]) + r"\d+" + re.escape(path[number.end() :]))
        for number in re.finditer(r"(?<=\.)\d+(?=\.|$)", path)
    ]
    off = {facts.layer.partition("#")[0] for facts in flow.unused}
    used = [a for a in flow.layers if a.call is not None and a.kind == layer.kind and a.path not in {path, *off}]
    groups = [[other for other in used if pattern.fullmatch(other.path)] for pattern in patterns]
    return any(group and not _in_series(group, flow) for group in groups)


def _in_series(layers: list[LayerFlow], flow: Flow) -> bool:
    """Whether what one of the layers computed reaches another of them."""
    own = {layer.call: layer.path for layer in layers}
    behind: dict[int, set[str]] = {}
    for call in flow.calls:  # in the order of the calls
        before = set[str]().union(*(behind.get(j, ()) for j in call.inputs))
        if call.index in own:
            if before - {own[call.index]}:
                return True
            before = before | {own[call.index]}
        behind[call.index] = before
    return False
