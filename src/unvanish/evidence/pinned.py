"""Bounded activations on their flat ends before a loss without a scale: are they where the loss wants them?

With a scale, a loss no better than that of a constant output tells flat and wrong from sure and right. Without one, the
direction tells: what the loss asks of a flat entry either keeps it on its end or moves it away. Of outputs whose loss
is no better than that of a constant only what can still be followed counts: a few that are right, and pushed on into
their end, may have nearly all of the gradient, as an empty mask has under a Dice loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from unvanish.evidence.last import Last
from unvanish.flow.paths import Observed
from unvanish.records import Flow, PinnedFacts
from unvanish.trace.calls import Call, Capture
from unvanish.trace.scaled import normal_like


def pinned_facts(
    seen: Observed, capture: Capture, flow: Flow, lasts: Sequence[Last], seed: int
) -> tuple[PinnedFacts, ...]:
    """A record for each bounded activation that is flat for most entries, and each softmax among the last calls.

    Where the loss has a scale, only of the last calls, and only at a loss no better than that of the best constant.
    """
    if flow.loss is None or (flow.loss.relative_gap is not None and not flow.loss.at_constant):
        return ()
    found = list[PinnedFacts]()
    for index, (anywhere, within, undone) in seen.pinned.items():
        if capture.calls[index].part == "model":
            last = next((each for each in lasts if any(call.index == index for call in each.calls)), None)
            if last is None and flow.loss.relative_gap is not None:
                continue
            asked = anywhere if flow.loss.relative_gap is None else within
            passed = None if last is None else _passed(last, capture.calls[index], seen, seed)
            found.append(PinnedFacts(call=index, asked=asked, passed=passed, rows=seen.rows.get(index), undone=undone))
    return tuple(found)


def _passed(last: Last, call: Call, seen: Observed, seed: int) -> float | None:
    """The gradient at what goes into one of the last calls, over the one there for inputs N(0, 1)."""
    if len(call.inputs) != 1:
        return None
    now = seen.loss.edges.get((call.index, call.inputs[0]))
    through = last.through_from(call)
    with torch.enable_grad():
        z = normal_like(through.now[0], torch.Generator().manual_seed(seed)).requires_grad_(True)
        try:
            (usual,) = torch.autograd.grad(through.at([z]), z)
        except Exception:  # a loss that refuses other outputs
            return None
    size = float(usual.double().norm())
    return None if now is None or not 0.0 < size < math.inf else 10.0**now / size
