"""From the tapes of a walk to plain numbers: one LayerFlow a layer, one CallFlow a call. All logarithms are base 10."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unvanish.backward import Tape, norm_together
from unvanish.capture import Call, Capture
from unvanish.layers import Layer, natural_norm
from unvanish.records import CallFlow, LayerFlow, LossFacts
from unvanish.scaled import norm_of
from unvanish.slopes import role, slope_of

NONE = -math.inf
ROLES = ("weights", "slopes", "norm", "join")

GATE_SIZE = 0.03  # of its natural norm: below that a trainable tensor is meant to be opened by training
BRANCH_TENSORS = 4  # an attention has four weights
BRANCH_LEFT = -2.0  # query and key weights of an ordinary attention lie at -1.2 to -1.8 (16-256 wide, 2-12 blocks)
GATE_LEFT = -1.5  # what must be left of the attenuation once the gate's own factor is taken away


@dataclass(slots=True)
class Observed:
    """What one walk left behind: the tapes of the loss and of random output cotangents, and what leaves showed."""

    loss: Tape
    probes: list[Tape]
    outputs: int  # how many output entries the probes' cotangents had
    saturated: dict[int, tuple[float, float]] = field(default_factory=dict)  # by call: entries, whole units
    underflow: dict[int, tuple[float, float]] = field(default_factory=dict)  # by parameter: entries below, non-zero
    updates: dict[int, tuple[float, float]] | None = None  # by parameter: ‖Δw‖, ‖w‖
    log10_output_rms: float = 0.0  # what the probes' cotangents were divided by

    def probe(self, read: str, key: object) -> float:
        """Root mean square over the probes of one of their readings."""
        found = [getattr(tape, read).get(key, NONE) for tape in self.probes]
        return norm_together(found) - 0.5 * math.log10(max(1, len(found))) if found else NONE


def measure(
    capture: Capture, layers: list[Layer], seen: Observed, batch_size: int, loss: LossFacts | None = None
) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
    """The flow of each layer and each call. Nothing in it needs the graph any more."""
    roles = [role(call) for call in capture.calls]
    paths = _Paths(capture.calls, seen, roles, capture.loss_index)
    calls = tuple(_call_flow(c, roles[c.index], paths, seen, batch_size) for c in capture.calls)
    transmission = _transmission(capture.calls, layers, seen, paths.consumers)
    at = {layer.call: layer.name for layer in layers if layer.call is not None}
    gates = _Gates(capture, paths)
    flows = tuple(
        _layer_flow(layer, capture, seen, paths, gates, at, batch_size, transmission.get(layer.name), loss)
        for layer in layers
    )
    return flows, calls


class _Paths:
    """Who consumes whom, and along which consumer most of the signal comes back."""

    def __init__(self, calls: list[Call], seen: Observed, roles: list[str], end: int | None) -> None:
        self.calls, self.seen, self.roles = calls, seen, roles
        self.consumers: list[list[int]] = [[] for _ in calls]
        for call in calls:
            for producer in call.inputs:
                self.consumers[producer].append(call.index)
        self.next = [self._dominant(call.index) for call in calls]
        self.trunk = _trunk(calls, end)
        self.sensitivity = [self._sensitivity(call) for call in calls]
        self.rises = self._rises()

    def _dominant(self, index: int) -> int | None:
        def strength(consumer: int) -> tuple[float, float]:
            probe, loss = self.seen.probe("edges", (consumer, index)), self.seen.loss.edges.get((consumer, index), NONE)
            return probe, loss

        kids = [k for k in self.consumers[index] if strength(k) != (NONE, NONE)] or self.consumers[index]
        return max(kids, key=strength, default=None)

    def _sensitivity(self, call: Call) -> float | None:
        """log10 of |∂f/∂h|·|h|: how far the outputs move, relative to themselves, when this call's result does."""
        signal = self.seen.probe("signals", call.index)
        if not math.isfinite(signal) or not call.finite or call.norm <= 0.0 or call.part == "loss":
            return None
        return signal + math.log10(call.norm) - 0.5 * math.log10(max(1, self.seen.outputs))

    def _rises(self) -> list[float]:
        """How much the sensitivity grows from each call's output back to it, in decades, outside normalised layers.

        Between one call with weights and the next the growth counts, unless a normaliser stands between them: weights
        that are normalised afterwards have a gradient at right angles to themselves that shrinks as they grow, so that
        training scales its own step down (Arora, Li & Lyu 2019, Theoretical analysis of auto rate-tuning by batch
        normalization). Falls count too, but never below zero: what is lost further on cannot hurt before it.
        """
        # Per call: sensitivity at the nearest call with weights from here on, the rise there, and whether a normaliser
        # stands on the way to it.
        state: list[tuple[float | None, float, bool]] = [(None, 0.0, False)] * len(self.calls)
        for index in range(len(self.calls) - 1, -1, -1):
            mine, after = self.sensitivity[index], self.next[index]
            last = after is None or self.calls[after].part == "loss"
            ahead, rise, normed = (None, 0.0, False) if after is None or last else state[after]
            if mine is not None and (last or self.roles[index] == "weights"):
                grown = 0.0 if ahead is None or normed else mine - ahead
                state[index] = (mine, max(0.0, grown + rise), False)
            else:
                state[index] = (ahead, rise, normed or self.roles[index] == "norm")
        return [rise for _, rise, _ in state]

    def rise(self, index: int) -> float | None:
        return None if self.sensitivity[index] is None else self.rises[index]

    def back(self, index: int, stops: dict[int, str]) -> tuple[int | None, dict[str, float]]:
        """From a layer's call to the layer before it: that call (or None) and the log10 factor of each role between."""
        factors: dict[str, float] = dict.fromkeys(ROLES, 0.0)
        edges, signals = self.seen.loss.edges, self.seen.loss.signals
        here = index
        while True:
            inputs = self.calls[here].inputs
            if not inputs:
                return None, factors
            prior = max(inputs, key=lambda j: (edges.get((here, j), NONE), j))
            sent, mine = edges.get((here, prior), NONE), signals.get(here, NONE)
            arrived = signals.get(prior, NONE)
            factors[self.roles[here]] += NONE if sent == NONE else sent - mine
            if sent != NONE:
                factors["join"] += arrived - sent  # what the other consumers of the same result add or cancel
            if prior in stops:
                return prior, factors
            here = prior


def _trunk(calls: list[Call], end: int | None) -> list[bool]:
    """A call is on the trunk when it leads to the loss and no edge of the graph jumps over it."""
    alive = [False] * len(calls)
    for call in reversed(calls):
        alive[call.index] = alive[call.index] or call.index == end
        if alive[call.index]:
            for producer in call.inputs:
                alive[producer] = True
    jumps = [0] * (len(calls) + 1)
    for call in calls:
        if alive[call.index] and call.inputs:
            jumps[min(call.inputs) + 1] += 1
            jumps[call.index] -= 1
    over, trunk = 0, []
    for call in calls:
        over += jumps[call.index]
        trunk.append(alive[call.index] and over == 0)
    return trunk


def _call_flow(call: Call, kind: str, paths: _Paths, seen: Observed, batch_size: int) -> CallFlow:
    signal, after = seen.loss.signals.get(call.index), paths.next[call.index]
    step = None
    if after is not None and seen.loss.signals.get(after, NONE) > NONE:
        step = seen.loss.edges.get((after, call.index), NONE) - seen.loss.signals[after]
    entries, units = seen.saturated.get(call.index, (None, None))
    return CallFlow(
        index=call.index,
        name=call.name,
        module=call.module,
        source=call.source,
        part=call.part,
        role=kind,
        inputs=tuple(call.inputs),
        next=after,
        trunk=paths.trunk[call.index],
        finite=call.finite,
        log10_rms=(math.log10(call.rms) if call.rms > 0 else NONE) if call.finite else None,
        log10_signal=None if signal is None else signal + 0.5 * math.log10(batch_size),
        log10_gain=step,
        log10_sensitivity=paths.sensitivity[call.index],
        saturated_fraction=entries,
        dead_fraction=units,
        bounded=(slope := slope_of(call)) is not None and slope.bounded,
    )


def _layer_flow(
    layer: Layer,
    capture: Capture,
    seen: Observed,
    paths: _Paths,
    gates: _Gates,
    at: dict[int, str],
    batch_size: int,
    transmission: float | None,
    loss: LossFacts | None,
) -> LayerFlow:
    flow = LayerFlow(
        name=layer.name,
        kind=layer.kind,
        source=capture.calls[layer.call].source if layer.call is not None else "",
        parameters=sum(p.numel() for p in layer.parameters.values()),
        frozen=not layer.live,
        log10_weight_norm=norm_together([_log(norm_of(p.detach())) for p in layer.parameters.values()]),
    )
    reached = [seen.loss.leaves[id(p)] for p in layer.live if id(p) in seen.loss.leaves]
    if layer.call is None or (layer.live and not reached):
        return flow
    call = capture.calls[layer.call]
    signal = seen.loss.signals.get(layer.call)
    flow = flow.replace(
        call=layer.call,
        dtype=_narrowest(layer, call),
        log10_signal=None if signal is None else signal + 0.5 * math.log10(batch_size),
        log10_sensitivity_rise=paths.rise(layer.call),
        **_activation_after(layer.call, paths, seen),
    )
    before, factors = paths.back(layer.call, at)
    if before is not None and signal is not None and signal > NONE:
        flow = flow.replace(
            before=at[before],
            log10_gain=seen.loss.signals.get(before, NONE) - signal,
            log10_weight_gain=factors["weights"],
            log10_slope_gain=factors["slopes"],
            log10_norm_gain=factors["norm"],
            log10_join_gain=factors["join"],
        )
    if not layer.live:
        return flow
    flow = flow.replace(
        log10_grad_norm=norm_together(reached),
        log10_jacobian_norm=norm_together([seen.probe("leaves", id(p)) for p in layer.live]),
        log10_transmission=transmission,
        underflow_fraction=_share([seen.underflow.get(id(p)) for p in layer.live]),
        update_to_weight_ratio=_update_ratio(layer, seen),
        **_against_the_loss(layer, seen, loss),
    )
    return flow.replace(gate=gates.of(layer, transmission))


def _log(value: float) -> float:
    return math.log10(value) if value > 0.0 else NONE


def _narrowest(layer: Layer, call: Call) -> str:
    kinds = {
        t for t in (call.dtype, *(p.dtype for p in layer.parameters.values())) if t.is_floating_point or t.is_complex
    }
    widest_first = sorted(kinds, key=lambda t: (torch.finfo(t).smallest_normal, str(t)))
    return str(widest_first[-1]).removeprefix("torch.") if widest_first else ""


def _activation_after(index: int, paths: _Paths, seen: Observed) -> dict[str, float]:
    """Saturation of the first activation between a layer and the next one."""
    here = paths.next[index]
    while here is not None and paths.roles[here] != "weights":
        if here in seen.saturated:
            entries, units = seen.saturated[here]
            return {"saturated_fraction": entries, "dead_fraction": units}
        here = paths.next[here]
    return {}


def _share(counts: Sequence[tuple[float, float] | None]) -> float | None:
    known = [pair for pair in counts if pair is not None]
    total = sum(of for _, of in known)
    return (sum(below for below, _ in known) / total if total else 0.0) if known else None


def _update_ratio(layer: Layer, seen: Observed) -> float | None:
    known = [seen.updates[id(p)] for p in layer.live if seen.updates is not None and id(p) in seen.updates]
    weights = math.hypot(*(w for _, w in known))
    return math.hypot(*(u for u, _ in known)) / weights if weights > 0.0 else None


def _against_the_loss(layer: Layer, seen: Observed, loss: LossFacts | None) -> dict[str, float | None]:
    """How well the layer's Jacobian meets what the loss asks, and how many steps of the optimizer it would take.

    Alignment: |Jᵀr| √(NC) / (|J|_F |r|), 1 for a random r. Steps: |r| / h / (|J|_F |Δw|), the outputs' way to go by the
    curvature h of the loss over what one update moves them, all linearised.
    """
    jacobian = norm_together([seen.probe("leaves", id(p)) for p in layer.live]) + seen.log10_output_rms
    if loss is None or not loss.residual_norm or not math.isfinite(jacobian):
        return {}
    residual = math.log10(loss.residual_norm)
    gradient = norm_together([seen.loss.leaves.get(id(p), NONE) for p in layer.live])
    found: dict[str, float | None] = {
        "log10_alignment": gradient - jacobian - residual + 0.5 * math.log10(max(1, seen.outputs))
    }
    if seen.updates is not None and loss.curvature is not None and loss.curvature > 0.0:
        update = _log(math.hypot(*(seen.updates.get(id(p), (0.0, 0.0))[0] for p in layer.live)))
        log = residual - math.log10(loss.curvature) - jacobian - update
        found["steps_to_learn"] = max(1.0, 10.0**log) if log < 300.0 else math.inf
    return found


def _transmission(
    calls: list[Call], layers: list[Layer], seen: Observed, consumers: list[list[int]]
) -> dict[str, float]:
    """T_rel: how much of what the best layer downstream transmits this layer does (0: as much; -2.5: 300 times less).

    T = ‖∂f/∂w‖·‖w‖ with f probed by random cotangents; a tensor below an ordinary initialisation counts with that
    norm, so that a zero or tiny start is not called vanished. Compared by norm and per parameter; the larger counts.
    Downstream is whatever can be reached through any branch.
    """
    own, full, size = {}, {}, {}
    for layer in layers:
        live = {n: p for n, p in layer.parameters.items() if p.requires_grad}
        if layer.call is None or not live:
            continue
        slope = {n: seen.probe("leaves", id(p)) for n, p in live.items()}
        norms = {n: norm_of(p.detach()) for n, p in live.items()}
        own[layer.name] = norm_together([slope[n] + _log(norms[n]) for n in live])
        full[layer.name] = norm_together([slope[n] + _log(max(norms[n], natural_norm(n, p))) for n, p in live.items()])
        size[layer.name] = 0.5 * math.log10(max(1, sum(p.numel() for p in live.values())))
    best = [(NONE, NONE)] * len(calls)
    by_call: dict[int, list[Layer]] = {}
    for layer in layers:
        if layer.name in own:
            for index in layer.calls:
                by_call.setdefault(index, []).append(layer)
    for index in range(len(calls) - 1, -1, -1):
        here = [(own[a.name], own[a.name] - size[a.name]) for a in by_call.get(index, ())]
        options = here + [best[k] for k in consumers[index]]
        if options:
            best[index] = (max(n for n, _ in options), max(r for _, r in options))
    result = {}
    for layer in layers:
        if layer.name in full:
            mine, rms = full[layer.name], full[layer.name] - size[layer.name]
            down = [best[i] for i in layer.calls]
            by_norm = mine - max(mine, *(n for n, _ in down))
            by_rms = rms - max(rms, *(r for _, r in down))
            result[layer.name] = NONE if mine == NONE else max(by_norm, by_rms)
    return result


class _Gates:
    """The small trainable tensors whose own factors explain an attenuation.

    One tensor anywhere on the way to the output may be a gate (a zero-initialised scale). Inside a residual branch, off
    the trunk, a few may share the role (query, key, value and output weights of an attention that starts small): no
    signal on the trunk is lost, and each opens as the others grow. A long product of small weights is no gate.
    """

    def __init__(self, capture: Capture, paths: _Paths) -> None:
        self.calls, self.paths = capture.calls, paths
        names = {id(p): n for n, p in capture.model.named_parameters() if p.requires_grad}
        self.sizes = {call.index: _sizes(call, names) for call in capture.calls if call.parameters}
        self.small = {i: [n for n, v in s.items() if v < GATE_SIZE] for i, s in self.sizes.items()}
        self.any_small = any(self.small.values())

    def of(self, layer: Layer, transmission: float | None) -> str:
        """Their names, smallest first; "" where they do not explain it."""
        if transmission is None or not NONE < transmission < GATE_LEFT or layer.call is None:
            return ""
        return (self._single(layer, transmission) if self.any_small else "") or self._branch(layer, transmission)

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


def _sizes(call: Call, names: dict[int, str]) -> dict[str, float]:
    """The norms of a call's trainable weights as shares of their natural norms (biases multiply nothing)."""
    own = {names[id(p)]: p for p in call.parameters if id(p) in names and not names[id(p)].endswith("bias")}
    return {n: norm_of(p.detach()) / natural_norm(n, p) for n, p in own.items()}
