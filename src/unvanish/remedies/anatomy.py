"""What a network is made of, read off one forward pass: its weight layers, its activations, and who feeds whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from unvanish.preserve import untouched
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.remedies.draft import Draft, Refused
from unvanish.trace.calls import Call
from unvanish.trace.capture import record
from unvanish.trace.structure import tensors
from unvanish.words.activations import ENTRIES

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BETWEEN_LAYERS = {each.call: each for each in reversed(ENTRIES) if each.between_layers}
"""By the name of their calls."""
ACTIVATIONS = {*BETWEEN_LAYERS, "exp"}
GATES = {call for call, each in BETWEEN_LAYERS.items() if each.gate}
RELUS = {call for call, each in BETWEEN_LAYERS.items() if each.rectifies}
SQUASHES = {"softmax", "log_softmax"}
NEXT_LAYER = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
MODULE_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
PASSES = {
    "dropout", "feature_dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "view", "reshape", "flatten",
    "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "clone", "float", "to", "T",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "boolean_dispatch", "fn",
}  # fmt: skip


def plain(name: str) -> str:
    """A call's name without the marks of operators and in-place versions."""
    return name.strip("_")


@dataclass(frozen=True)
class Site:
    """One activation at one place: a module that is nothing but an activation, or a function in a module's forward.

    ``path``: of the activation module, or of the module whose forward calls the function. ``calls``: those of it that
    are alike in what follows. ``hidden``: a weight layer comes after it; else it makes an output. ``gate``: its result
    multiplies another one, as in attention or a gated unit.
    """

    path: str
    name: str
    module: bool
    calls: tuple[int, ...]
    hidden: bool
    gate: bool


@dataclass(frozen=True)
class Layer:
    """A Linear or convolution at work: its path, its calls, what feeds it, what follows, and whether it is the last."""

    path: str
    module: Any
    calls: tuple[int, ...]
    fed_by: frozenset[str]
    followed_by: frozenset[str]
    last: bool
    ndim: int


@dataclass
class Anatomy:
    """The calls of one forward pass, read as layers and activations."""

    model: nn.Module
    calls: list[Call]
    modules: dict[str, nn.Module]
    consumers: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, draft: Draft) -> Anatomy:
        """Run the draft's model once on its batch. Raises Refused where that fails."""
        return draft.cached("anatomy", lambda: cls._read(draft))

    @classmethod
    def _read(cls, draft: Draft) -> Anatomy:
        model = draft.model
        problem = Problem(model, draft.inputs, None, _any_loss)
        with untouched(model, 0):
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            try:
                capture = record(problem, model)
            except UnvanishError as error:
                raise Refused(f"the model cannot be run once on its batch: {error}") from error
            calls = [call for call in capture.calls if call.part == "model"]
            capture.release()
        anatomy = cls(model, calls, dict(model.named_modules()))
        for call in calls:
            for index in call.inputs:
                anatomy.consumers.setdefault(index, []).append(call.index)
        return anatomy

    @cached_property
    def before_weights(self) -> set[int]:
        """The calls that a call with a trainable matrix still comes after."""
        found: set[int] = set()
        for call in reversed(self.calls):
            after = self.consumers.get(call.index, ())
            if any(index in found or self._has_matrix(self.calls[index]) for index in after):
                found.add(call.index)
        return found

    def _has_matrix(self, call: Call) -> bool:
        return any(parameter.ndim > 1 for parameter in call.parameters)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every Linear and convolution that was called, in the order of the first call."""
        own: dict[str, list[Call]] = {}
        for call in self.calls:
            module = self.modules.get(call.module)
            if isinstance(module, LINEAR) and any(p is module.weight for p in call.parameters):
                own.setdefault(call.module, []).append(call)
        return tuple(
            Layer(
                path=path,
                module=self.modules[path],
                calls=tuple(call.index for call in calls),
                fed_by=frozenset(name for call in calls for name in self._sources(call)),
                followed_by=frozenset(name for call in calls for name in self._followers(call)),
                last=all(call.index not in self.before_weights for call in calls),
                ndim=max(len(call.shape) for call in calls),
            )
            for path, calls in own.items()
        )

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every activation, in the order of the first call."""
        found: dict[tuple[str, str, bool], list[Call]] = {}
        for call in self.calls:
            name = plain(call.name)
            if name not in ACTIVATIONS and name not in SQUASHES:
                continue
            module = is_activation(self.modules.get(call.module))
            if module or name != "exp":
                found.setdefault((call.module, name, module), []).append(call)
        sites: list[Site] = []
        for (path, name, module), calls in found.items():
            kinds = [(call.index in self.before_weights, self._is_gate(call)) for call in calls]
            for hidden, gate in dict.fromkeys(kinds):
                group = tuple(c.index for c, kind in zip(calls, kinds, strict=True) if kind == (hidden, gate))
                sites.append(Site(path, name, module, group, hidden, gate))
        return tuple(sorted(sites, key=lambda site: site.calls))

    @property
    def hidden(self) -> tuple[Site, ...]:
        """The activations between layers: no outputs, no gates, no attention weights."""
        found = (site for site in self.sites if site.hidden and not site.gate)
        return tuple(site for site in found if site.name not in SQUASHES or self._is_between_layers(site))

    def _is_between_layers(self, site: Site) -> bool:
        """Whether a softmax module stands where an activation should: what it gives goes into layers alone."""
        return site.module and all(set(self._followers(self.calls[i])) <= NEXT_LAYER for i in site.calls)

    @property
    def without_activation(self) -> tuple[Layer, ...]:
        """Layers that go straight into the next one."""
        return tuple(layer for layer in self.layers if layer.followed_by and layer.followed_by <= NEXT_LAYER)

    @property
    def at_output(self) -> Site | None:
        """The one activation or softmax that the outputs come straight out of; None where there is none or several."""
        ends = [call for call in self.calls if call.index not in self.consumers]
        found = [site for site in self.sites if any(end.index in site.calls for end in map(self.behind, ends))]
        return found[0] if len(found) == 1 and not found[0].gate else None

    def behind(self, call: Call) -> Call:
        """The call itself, or what comes before it where it only changes the shape."""
        while plain(call.name) in PASSES and len(call.inputs) == 1:
            call = self.calls[call.inputs[0]]
        return call

    def _sources(self, call: Call) -> Iterator[str]:
        """The names of the calls that a call's inputs come from."""
        if not call.inputs:
            yield "input"
        for index in call.inputs:
            yield plain(self.behind(self.calls[index]).name)

    def _followers(self, call: Call) -> Iterator[str]:
        """The names of what consumes a call, past calls that only change the shape."""
        for index in self.consumers.get(call.index, ()):
            after = self.calls[index]
            if plain(after.name) in PASSES:
                yield from self._followers(after)
            else:
                yield plain(after.name)

    def _is_gate(self, call: Call) -> bool:
        """Whether its bounded result multiplies another call's, outside of an activation module such as a Swish."""
        if plain(call.name) not in GATES:
            return False
        own = is_activation(self.modules.get(call.module))
        after = [self.calls[index] for index in self.consumers.get(call.index, ())]
        outside = [each for each in after if not (own and each.module == call.module)]
        return any(plain(each.name) == "mul" and len(each.inputs) > 1 for each in outside)


def is_activation(module: nn.Module | None) -> bool:
    """Whether a module has nothing of its own, and so can only be a function: an activation, or a softmax."""
    if module is None or any(True for _ in module.children()):
        return False
    return not module._parameters and not module._buffers


def _any_loss(outputs: Any, _: Any) -> Tensor:
    # no plain sum, which would hand on what a model has computed as its loss: its calls would be no more the model's
    parts = [tensor.float().abs().sum() for tensor in tensors(outputs) if tensor.requires_grad]
    if not parts:
        raise UnvanishError("its outputs do not depend on any parameter")
    return sum(parts[1:], start=parts[0])
