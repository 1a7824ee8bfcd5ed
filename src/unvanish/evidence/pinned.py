"""Bounded activations on their flat ends before a loss without a scale: are they where the loss wants them?

With a scale, a loss no better than that of a constant output tells flat and wrong from sure and right. Without one, the
direction tells: what the loss asks of a flat entry either keeps it on its end or moves it away.
"""

from __future__ import annotations

import math

import torch

from unvanish.evidence.last import Last
from unvanish.flow.paths import Observed
from unvanish.records import Flow, PinnedFacts
from unvanish.trace.calls import Capture
from unvanish.trace.scaled import normal_like


def pinned_facts(seen: Observed, capture: Capture, flow: Flow, last: Last | None, seed: int) -> tuple[PinnedFacts, ...]:
    """A record for each bounded activation that is flat for most entries; none where the loss has a scale."""
    if flow.loss is None or flow.loss.relative_gap is not None:
        return ()
    found = list[PinnedFacts]()
    for index, asked in seen.pinned.items():
        if capture.calls[index].part == "model":
            before = last is not None and any(call.index == index for call in last.calls)
            passed = _passed(last, seen, capture, seed) if before and last is not None else None
            found.append(PinnedFacts(call=index, asked=asked, passed=passed))
    return tuple(found)


def _passed(last: Last, seen: Observed, capture: Capture, seed: int) -> float | None:
    """The gradient at what goes into the last calls, over the one there for inputs N(0, 1)."""
    first = last.calls[0]
    if len(first.inputs) != 1:
        return None
    now = seen.loss.edges.get((first.index, first.inputs[0]))
    through = last.through
    with torch.enable_grad():
        z = normal_like(through.now[0], torch.Generator().manual_seed(seed)).requires_grad_(True)
        try:
            (usual,) = torch.autograd.grad(through.at([z]), z)
        except Exception:  # a loss that refuses other outputs
            return None
    size = float(usual.double().norm())
    return None if now is None or not 0.0 < size < math.inf else 10.0**now / size
