"""Was the optimizer made before some of the model's parameters were replaced? And what frozen layers still change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from unvanish.flow.layers import Layer
from unvanish.flow.updates import Updates
from unvanish.trace.calls import Capture
from unvanish.trace.places import module_path


def partly_left_out(updates: Updates, called: Iterable[Layer]) -> dict[str, nn.Parameter]:
    """Trainable parameters that no optimizer holds, by name, of layers of which one holds others."""
    found: dict[str, nn.Parameter] = {}
    for layer in called:
        live = {name: p for name, p in layer.parameters.items() if p.requires_grad}
        missing = {name: p for name, p in live.items() if not updates.held(p)}
        if layer.first and len(missing) < len(live):
            found |= missing
    return found


def stale(updates: Updates, capture: Capture, missing: Sequence[nn.Parameter]) -> int:
    """Entries of what the optimizer holds, and the model has no more, in the place of parameters that it should hold.

    Those that the forward pass uses, though no module of the model owns them, are in use.
    """
    own = {id(p) for p in capture.model.parameters()} | set(capture.outside)
    groups = updates.optimizer.param_groups
    return in_the_place_of(missing, [p for group in groups for p in group["params"] if id(p) not in own])


def in_the_place_of(missing: Sequence[Tensor], strange: Sequence[Tensor]) -> int:
    """How many entries of ``strange`` tensors stand for the missing; 0 unless each of these has one of its own.

    A new head has other classes: of the same number of axes all but one must be as long.
    """
    left = list(strange)
    for parameter in sorted(missing, key=lambda p: -p.ndim):
        match = next((k for k, p in enumerate(left) if _alike(p, parameter)), None)
        if match is None:
            return 0
        del left[match]
    return sum(p.numel() for p in strange) - sum(p.numel() for p in left)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.ndim == other.ndim and sum(a != b for a, b in zip(one.shape, other.shape, strict=True)) <= 1


def drifting(capture: Capture, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The frozen normalisations whose running statistics each forward pass moves on, beside layers that are trained."""
    frozen = {a.name for a in layers if a.first and not a.live}
    if not frozen:
        return ()
    norms = {
        module_path(path): module
        for path, module in capture.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and path in capture.module_calls
    }
    return tuple(name for name, m in norms.items() if name in frozen and m.training and m.running_mean is not None)
