"""Layers that a forward pass makes anew: whatever a step did to their weights is thrown away with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from unvanish.evidence.moving import fresh, or_none
from unvanish.flow.look import Look
from unvanish.preserve import seeded
from unvanish.trace.calls import Capture
from unvanish.trace.capture import autocast
from unvanish.trace.recorder import Recorder


def drawn_anew(look: Look) -> int:
    """Entries of trainable weights of layers that no module of the model owns, other and drawn anew in each pass.

    Told by a second pass with other random numbers. A layer that is kept in a list is the same object there; weights
    that the pass makes and does not draw (a fixed filter, a normaliser's ones) have the same values, and a parameter
    that belongs to no layer (a first state, noise) may be meant.
    """
    first = [p for p, _ in look.capture.outside.values() if p.requires_grad]
    if not first:
        return 0
    second = or_none(lambda: _of_layers(look))
    if second is None or [p.shape for p in first] != [p.shape for p, _ in second]:
        return 0
    known = set(map(id, first))
    if any(id(p) in known for p, _ in second):
        return 0
    drawn = [a for a, (b, owned) in zip(first, second, strict=True) if owned and not torch.equal(a, b)]
    return sum(p.numel() for p in drawn) if any(p.ndim > 1 for p in drawn) else 0


def _of_layers(look: Look) -> list[tuple[nn.Parameter, bool]]:
    """The same parameters in one more pass, each with whether a layer that runs owns it."""
    recorder, owned = Recorder(Capture(look.model)), set[int]()

    def enter(module: nn.Module, _: Any) -> None:
        owned.update(id(p) for p in module._parameters.values() if p is not None)

    hook = hooks.register_module_forward_pre_hook(enter)
    try:
        with seeded(look.seed + 1), autocast(look.problem, look.model), recorder.watching_modules(), recorder:
            fresh(look.problem).outputs(look.model)
    finally:
        hook.remove()
        recorder.capture.release()
    return [(p, id(p) in owned) for p, _ in recorder.capture.outside.values() if p.requires_grad]
