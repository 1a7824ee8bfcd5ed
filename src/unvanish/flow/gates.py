"""What holds a signal back without it having vanished: gates, and short branches beside a sound trunk."""

from __future__ import annotations

import math

from unvanish.flow.layers import Layer, natural_norm
from unvanish.flow.paths import Paths
from unvanish.trace.calls import Call, Capture
from unvanish.trace.scaled import LOG_ZERO

GATE_SIZE = 0.03  # of its natural norm: below that a trainable tensor is meant to be opened by training
BRANCH_TENSORS = 4  # an attention has four weights
BRANCH_WEIGHTS = 2  # calls with weights between a layer and the trunk: more is a network of its own
BRANCH_LEFT = -2.0  # query and key weights of an ordinary attention lie at -1.2 to -1.8 (16-256 wide, 2-12 blocks)
GATE_LEFT = -1.5  # what must be left of the attenuation once the gate's own factor is taken away


class Gates:
    """The small trainable tensors whose own factors explain an attenuation.

    One tensor anywhere on the way to the output may be a gate (a zero-initialised scale). Inside a residual branch, off
    the trunk, a few may share the role (query, key, value and output weights of an attention that starts small): no
    signal on the trunk is lost, and each opens as the others grow. A long product of small weights is no gate.
    """

    def __init__(self, capture: Capture, paths: Paths, norms: dict[int, float]) -> None:
        """``norms``: of each parameter, by ``id``."""
        self.calls, self.paths = capture.calls, paths
        names = {id(p): n for n, p in capture.model.named_parameters() if p.requires_grad}
        self.sizes = {call.index: _sizes(call, names, norms) for call in capture.calls if call.parameters}
        self.small = {i: [n for n, v in s.items() if v < GATE_SIZE] for i, s in self.sizes.items()}
        self.any_small = any(self.small.values())

    def of(self, layer: Layer, transmission: float | None) -> str:
        """Their names, smallest first; "" where they do not explain it."""
        if transmission is None or not LOG_ZERO < transmission < GATE_LEFT or layer.call is None:
            return ""
        single = self._single(layer, transmission) if self.any_small else ""
        return single or self._branch(layer, transmission) or self._local(layer)

    def _single(self, layer: Layer, transmission: float) -> str:
        here, seen = layer.call, self.paths.seen
        while here is not None and (after := self.paths.next[here]) is not None:
            if names := [n for n in self.small.get(after, ()) if n not in layer.parameters]:
                sent = seen.probe("edges", (after, here)) - seen.probe("signals", after)
                if sent < -1.0 and transmission - sent > GATE_LEFT:
                    return names[0]
            here = after
        return ""

    def _branch(self, layer: Layer, transmission: float) -> str:
        branch, trunk = [layer.calls[-1]], self.paths.trunk
        while not trunk[branch[-1]] and (after := self.paths.next[branch[-1]]) is not None:
            branch.append(after)
        found: set[int] = set()
        sizes: dict[str, float] = {}
        while branch:
            index = branch.pop()
            if index not in found and not trunk[index]:
                found.add(index)
                branch.extend(self.calls[index].inputs)
                sizes.update(self.sizes.get(index, {}))
        small = {n: v for n, v in sizes.items() if 0.0 < v < 1.0 and n not in layer.parameters}
        explained = sum(math.log10(v) for v in small.values())
        if not small or len(small) > BRANCH_TENSORS or transmission - explained <= BRANCH_LEFT:
            return ""
        return ", ".join(sorted(small, key=small.__getitem__))

    def _local(self, layer: Layer) -> str:
        """The call that weakens the signal most between a layer in a short residual branch and a trunk that carries it.

        One factor beside a sound trunk is not a product over depth: query and key weights under an attention that is
        still nearly uniform receive 10^-4 of the signal in transformers that then train well.
        """
        here, trunk, seen = layer.calls[-1], self.paths.trunk, self.paths.seen
        weights, weakest, name = 0, 0.0, ""
        while not trunk[here] and (after := self.paths.next[here]) is not None:
            sent = seen.probe("edges", (after, here)) - seen.probe("signals", after)
            if sent < weakest:
                call = self.calls[after]
                weakest, name = sent, f"{call.name} in {call.module or 'the model'}"
            weights += self.paths.roles[after] == "weights"
            here = after
        carried = self.paths.sensitivity[here]
        sound = carried is not None and carried > GATE_LEFT and here != layer.calls[-1]
        return name if sound and trunk[here] and weights <= BRANCH_WEIGHTS else ""


def _sizes(call: Call, names: dict[int, str], norms: dict[int, float]) -> dict[str, float]:
    """The norms of a call's trainable weights as shares of their natural norms (biases multiply nothing)."""
    own = {names[id(p)]: p for p in call.parameters if id(p) in names and not names[id(p)].endswith("bias")}
    return {n: norms[id(p)] / natural_norm(n, p) for n, p in own.items()}
