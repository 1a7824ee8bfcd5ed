"""The same norms read off torch's own backward through node hooks, limited by the range of the number type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unvanish.trace.calls import PARAMETERS_ONLY, Capture, Node, Root
from unvanish.trace.scaled import LOG_ZERO, Host, Scaled, norm_of
from unvanish.trace.tape import OnLeaf, Raw, Start, Tape


def plain_walk(capture: Capture, channels: Sequence[Start], on_leaf: OnLeaf | None = None) -> list[Tape]:
    """The tapes of ``backward.walk``; it tells of no node, since none is held when its hook runs."""
    tapes = []
    try:
        for index, channel in enumerate(channels):
            tapes.append(_plain_channel(capture, index, channel, on_leaf) if channel else Tape())
    finally:
        capture.release()
    return tapes


def _plain_channel(capture: Capture, index: int, channel: Start, on_leaf: OnLeaf | None) -> Tape:
    owner, raw, handles = capture.owner, Raw(), []
    incoming: dict[Node, set[int]] = {}
    parameters = [p for p in capture.model.parameters() if p.requires_grad]

    def read(node: Node, me: int) -> Callable[..., None]:
        def hook(sent: Any, got: Any) -> None:
            outside = incoming.get(node, set())
            raw.signals.extend((me, _log2(g)) for nr, g in enumerate(got) if g is not None and nr in outside)
            for (child, _), gradient in zip(node.next_functions, sent, strict=False):
                other = owner.get(child, PARAMETERS_ONLY)
                if gradient is not None and other not in (me, PARAMETERS_ONLY):
                    raw.edges.append(((me, other), _log2(gradient)))

        return hook

    for node, me in owner.items():
        for child, nr in node.next_functions:
            if child is not None and owner.get(child, me) != me:
                incoming.setdefault(child, set()).add(nr)
    for root, _ in channel:
        incoming.setdefault(root.slot[0], set()).add(root.slot[1])
    try:
        handles = [n.register_hook(read(n, me)) for n, me in owner.items() if me != PARAMETERS_ONLY]
        anchors = [_anchor(root) for root, _ in channel]
        gradients = torch.autograd.grad(
            anchors, parameters, [c for _, c in channel], retain_graph=True, allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            raw.leaves.append((id(parameter), _log2(gradient)))
            if on_leaf is not None:
                on_leaf(parameter, index, Scaled(gradient, 0, _log2(gradient)))
    return raw.tape(Host.read)


def _anchor(root: Root) -> Any:
    return torch.autograd.graph.GradientEdge(*root.slot)


def _log2(tensor: Tensor) -> float:
    norm = norm_of(tensor)
    return math.log2(norm) if 0.0 < norm < math.inf else LOG_ZERO if norm == 0.0 else norm
