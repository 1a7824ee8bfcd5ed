"""What holds a signal back without it having vanished: gates, and short branches beside a sound trunk."""

from __future__ import annotations

import math

from unvanish.decide.limits import EACH_OTHER, GATE_SIZE, OWN_BRANCH, SOUND, VANISHED
from unvanish.flow.layers import Layer, natural_norm
from unvanish.flow.paths import Paths
from unvanish.trace.calls import Call, Capture
from unvanish.trace.scaled import LOG_ZERO

BRANCH_TENSORS = 4  # an attention has four weights
BRANCH_WEIGHTS = 2  # calls with weights between a layer and the trunk: more is a network of its own
BRANCH_LEFT = -2.0  # query and key weights of an ordinary attention lie at -1.2 to -1.8 (16-256 wide, 2-12 blocks)
IN_SERIES = 3  # small scales on one way to the output: a branch in a branch in a branch


class Gates:
    """The small trainable tensors whose own factors explain an attenuation.

    One tensor anywhere on the way to the output may be a gate (a zero-initialised scale), or a few scales in series, if
    the layer would not be called vanished without them. Inside a residual branch, off
    the trunk, a few may share the role (query, key, value and output weights of an attention that starts small): no
    signal on the trunk is lost, and each opens as the others grow. A long product of small weights is no gate, nor is a
    small tensor that a layer as small leaves nothing to learn by: the text then begins with ``EACH_OTHER``.

    Where none of these is as small as a gate, or a call of the branch does it, nothing needs to be opened: the text
    then begins with ``OWN_BRANCH``.
    """

    def __init__(self, capture: Capture, paths: Paths, norms: dict[int, float]) -> None:
        """``norms``: of each parameter, by ``id``."""
        self.calls, self.paths = capture.calls, paths
        named = list(capture.model.named_parameters())
        names = {id(p): n for n, p in named if p.requires_grad}
        self.sizes = {call.index: _sizes(call, names, norms) for call in capture.calls if call.parameters}
        self.small = {i: [n for n, v in s.items() if v < GATE_SIZE] for i, s in self.sizes.items()}
        self.scales = {n for n, p in named if p.numel() == max(p.shape, default=1)}
        self.any_small = any(self.small.values())
        self.lost: dict[int, float] = {}

    def of(self, layer: Layer, transmission: float | None) -> str:
        """Their names, smallest first; "" where they do not explain it."""
        if transmission is None or not LOG_ZERO < transmission < SOUND or layer.call is None:
            return ""
        single = self._single(layer, transmission) if self.any_small else ""
        if gate := single or self._branch(layer, transmission):
            return gate
        own = self._local(layer) or self._aside(layer, transmission)
        return self._smallest_on_branch(layer) or OWN_BRANCH + own if own else ""

    def _smallest_on_branch(self, layer: Layer) -> str:
        """The smallest gate between a layer and the trunk, or the output where there is no trunk."""
        here, found = layer.calls[-1], dict[str, float]()
        while not self.paths.trunk[here] and (after := self.paths.next[here]) is not None:
            found.update({n: self.sizes[after][n] for n in self.small.get(after, ()) if n not in layer.parameters})
            here = after
        return min(found, key=found.__getitem__, default="")

    def _single(self, layer: Layer, transmission: float) -> str:
        """One small tensor on the dominant path, or a few small scales in series; what they leave must transmit.

        A branch under a scale may hold blocks with scales of their own. Scales multiply entry by entry: a chain of
        small matrices, or of more scales than a few, is a product over depth.
        """
        here, seen = layer.call, self.paths.seen
        scales, explained = list[str](), 0.0
        while here is not None and (after := self.paths.next[here]) is not None:
            if names := [n for n in self.small.get(after, ()) if n not in layer.parameters]:
                sent = seen.probe("edges", (after, here)) - seen.probe("signals", after)
                if sent < -1.0 and transmission - sent > VANISHED:
                    return names[0] if self._is_fed(after, layer) else EACH_OTHER + names[0]
                if sent < -1.0 and names[0] in self.scales:
                    scales.append(names[0])
                    explained += sent
            here = after
        found = 1 < len(scales) <= IN_SERIES and transmission - explained > VANISHED
        return ", ".join(scales) if found else ""

    def _is_fed(self, gate: int, layer: Layer) -> bool:
        """Whether a gate is given something to learn by, by this layer: its gradient is the signal times that.

        Factors near zero that are multiplied with each other wait for each other.
        """
        given = max((self.calls[k].rms for k in self.calls[gate].inputs if k >= 0), default=1.0)
        return given >= GATE_SIZE or not any(self.small.get(k) for k in layer.calls)

    def _branch(self, layer: Layer, transmission: float) -> str:
        branch, trunk = [layer.calls[-1]], self.paths.trunk
        while not trunk[branch[-1]] and (after := self.paths.next[branch[-1]]) is not None:
            branch.append(after)
        visited: set[int] = set()
        sizes: dict[str, float] = {}
        while branch:
            index = branch.pop()
            if index not in visited and not trunk[index]:
                visited.add(index)
                branch.extend(self.calls[index].inputs)
                sizes.update(self.sizes.get(index, {}))
        small = {n: v for n, v in sizes.items() if 0.0 < v < 1.0 and n not in layer.parameters}
        explained = sum(math.log10(v) for v in small.values())
        if not small or len(small) > BRANCH_TENSORS or transmission - explained <= BRANCH_LEFT:
            return ""
        found = ", ".join(sorted(small, key=small.__getitem__))
        return found if min(small.values()) < GATE_SIZE else OWN_BRANCH + found

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
                weakest, name = sent, self.calls[after].place
            weights += self.paths.roles[after] == "weights"
            here = after
        carried = self.paths.sensitivity[here]
        sound = carried is not None and carried > SOUND and here != layer.calls[-1]
        return name if sound and trunk[here] and weights <= BRANCH_WEIGHTS else ""

    def _aside(self, layer: Layer, transmission: float) -> str:
        """A call close behind the layer that passes the signal on to another of its inputs, if that alone explains it.

        As an attention that is still nearly uniform does to its values. The blocks before it learn by that other way.
        Where they are frozen no trunk is left in the graph by which one could see that.
        """
        here, weights = layer.calls[-1], 0
        while weights <= BRANCH_WEIGHTS and (after := self.paths.next[here]) is not None:
            lost = self._lost(here, after)
            if lost < -1.0 and transmission - lost > VANISHED:
                return self.calls[after].place
            weights += self.paths.roles[after] == "weights"
            here = after
        return ""

    def _lost(self, here: int, after: int) -> float:
        """How many decades less comes back to a call than to another input of the next on its path; 0 without one.

        Of many layers the ways lead over the same calls: each is looked at once.
        """
        if here not in self.lost:
            seen = self.paths.seen
            others = [seen.probe("edges", (after, j)) for j in self.calls[after].inputs if j != here]
            most = max(others, default=LOG_ZERO)
            self.lost[here] = seen.probe("edges", (after, here)) - most if most > LOG_ZERO else 0.0
        return self.lost[here]


def _sizes(call: Call, names: dict[int, str], norms: dict[int, float]) -> dict[str, float]:
    """The norms of a call's trainable weights as shares of their natural norms (biases multiply nothing)."""
    weights = {names[id(p)]: p for p in call.parameters if id(p) in names and not names[id(p)].endswith("bias")}
    return {n: norms[id(p)] / natural_norm(n, p) for n, p in weights.items()}
