"""Which parameters make up a layer, and which calls are that layer at work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from unvanish.trace.calls import Call, Capture
from unvanish.trace.places import module_path


@dataclass(slots=True)
class Layer:
    """One module that owns parameters, in one of its calls.

    ``calls``: those that consume its parameters; only those that the loss uses, if it uses any.
    """

    name: str
    kind: str
    parameters: dict[str, nn.Parameter]
    calls: list[int]
    first: bool = True  # of several calls of one module

    @property
    def live(self) -> list[nn.Parameter]:
        return [p for p in self.parameters.values() if p.requires_grad]

    @property
    def call(self) -> int | None:
        """The call whose output is the layer's own: the last of them."""
        return self.calls[-1] if self.calls else None


def layers_of(capture: Capture) -> list[Layer]:
    """Every layer in the order of its call; those that were not called stand last."""
    users: dict[int, list[Call]] = {}
    for call in capture.calls:
        for parameter in call.parameters:
            users.setdefault(id(parameter), []).append(call)
    used = None if capture.loss_index is None else capture.leading_to([capture.loss_index])
    found = [a for name, kind, owned in owners(capture.model) for a in _at_work(users, name, kind, owned, used)]
    return sorted(found, key=lambda each: math.inf if each.call is None else each.call)


def owners(model: nn.Module) -> list[tuple[str, str, dict[str, nn.Parameter]]]:
    """Name, kind and parameters of what owns parameters; those of the root and of parameter lists stand for themselves.

    Parameters by their full names. A root that is itself a layer, as a single nn.Linear, has the name of its kind.
    """
    if _is_one_layer(model):
        kind = type(model).__name__
        return [(kind, kind, dict(model.named_parameters()))]
    found: dict[str, tuple[str, dict[str, nn.Parameter]]] = {}
    for path, module in model.named_modules():
        name = module_path(path)
        own = {id(p): (k, p) for k, p in reversed(module._parameters.items()) if p is not None}  # under one name
        alone = not name or isinstance(module, (nn.ParameterList, nn.ParameterDict))
        for key, parameter in reversed(own.values()):
            full = f"{path}.{key}" if path else key
            if alone:
                found[full] = ("Parameter", {full: parameter})
            else:
                kind = type(model.get_submodule(name) if name != path else module).__name__
                found.setdefault(name, (kind.removeprefix("Parametrized"), {}))[1][full] = parameter
    return [(name, kind, owned) for name, (kind, owned) in found.items()]


def _is_one_layer(model: nn.Module) -> bool:
    """Whether it is one of torch's own modules that have parameters and no modules inside."""
    own = type(model).__module__.startswith("torch.nn.modules.") and next(model.children(), None) is None
    return own and next(model.parameters(), None) is not None


def _at_work(
    users: dict[int, list[Call]], name: str, kind: str, owned: dict[str, nn.Parameter], used: set[int] | None
) -> list[Layer]:
    found = {c.index: c for p in owned.values() for c in users.get(id(p), ())}
    inside = [c for c in found.values() if any(frame[0] == name for frame in c.frames)]
    groups: dict[int, list[int]] = {}
    for call in sorted(inside or found.values(), key=lambda c: c.index):
        turn = next((count for path, count in call.frames if path == name), 0)
        groups.setdefault(turn, []).append(call.index)
    if not groups:
        return [Layer(name, kind, owned, [])]
    return [
        Layer(name if k == 1 else f"{name}#{k}", kind, owned, [i for i in calls if i in (used or ())] or calls, k == 1)
        for k, calls in enumerate((groups[turn] for turn in sorted(groups)), start=1)
    ]


def natural_norm(name: str, parameter: nn.Parameter) -> float:
    """The norm a tensor would have at an ordinary initialisation: U(±1/√fan_in) weights, unit gains, small biases."""
    if parameter.ndim > 1:
        return math.sqrt(max(1, parameter.shape[0]) / 3.0)
    return math.sqrt(max(1, parameter.numel())) * (0.1 if name.endswith("bias") else 1.0)
