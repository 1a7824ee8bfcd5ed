"""From the tapes of a walk to plain numbers: one LayerFlow a layer, one CallFlow a call. All logarithms are base 10."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from unvanish.flow.gates import Gates
from unvanish.flow.layers import Layer
from unvanish.flow.paths import Observed, Paths, consumers_of
from unvanish.flow.slopes import role, slope_of
from unvanish.flow.transmission import Transmitted, output_cotangents, output_entries
from unvanish.records import CallFlow, LayerFlow, LossFacts
from unvanish.trace.backward import walk
from unvanish.trace.calls import Call, Capture
from unvanish.trace.projected import Projector
from unvanish.trace.scaled import LOG_ZERO, log10_of, norm_of, norms_of
from unvanish.trace.tape import Tape, norm_together


def measure(
    capture: Capture, layers: list[Layer], seen: Observed, batch_size: int, loss: LossFacts | None = None
) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
    """The flow of each layer and each call. Nothing in it needs the graph any more."""
    roles = [role(call) for call in capture.calls]
    paths = Paths(capture.calls, seen, roles, capture.loss_index)
    calls = tuple(_call_flow(c, roles[c.index], paths, seen, batch_size) for c in capture.calls)
    sizes = _sizes(layers)
    transmission = _transmission(capture.calls, layers, seen, paths.consumers, sizes)
    at = {layer.call: layer.name for layer in layers if layer.call is not None}
    gates = Gates(capture, paths, sizes)
    flows = tuple(
        _layer_flow(layer, capture, seen, paths, gates, at, batch_size, transmission.get(layer.name), loss, sizes)
        for layer in layers
    )
    return flows, calls


def transmissions(capture: Capture, layers: list[Layer], seed: int) -> dict[str, float]:
    """log10 of T_rel alone, by layer: one walk with one random output cotangent, which consumes the graph."""
    channels = [[], output_cotangents(capture, seed)]
    seen = Observed(Tape(), walk(capture, channels, projector=Projector(seed))[1:], output_entries(capture))
    sizes = _sizes(layers)
    return _transmission(capture.calls, layers, seen, consumers_of(capture.calls), sizes)


def transmissions_of(calls: list[Call], layers: list[Layer], slopes: Mapping[int, float]) -> dict[str, float]:
    """The same where log10 ‖∂f/∂w‖ of each parameter is known already, by its id."""
    seen = Observed(Tape(), [Tape(leaves=dict(slopes))], 1)
    sizes = _sizes(layers)
    return _transmission(calls, layers, seen, consumers_of(calls), sizes)


def _sizes(layers: list[Layer]) -> dict[int, float]:
    """The norm of each parameter, by id; those of a CPU are taken together, others one by one as they may be apart."""
    parameters = list({id(p): p for layer in layers for p in layer.parameters.values()}.values())
    if len({p.device for p in parameters}) > 1 or any(type(p) is not nn.Parameter for p in parameters):
        return {id(p): norm_of(p.detach()) for p in parameters}
    found = norms_of([p.detach() for p in parameters])
    return {id(p): norm for p, norm in zip(parameters, found, strict=True)}


def _call_flow(call: Call, kind: str, paths: Paths, seen: Observed, batch_size: int) -> CallFlow:
    signal, after = seen.loss.signals.get(call.index), paths.next[call.index]
    step = None
    if after is not None and seen.loss.signals.get(after, LOG_ZERO) > LOG_ZERO:
        step = seen.loss.edges.get((after, call.index), LOG_ZERO) - seen.loss.signals[after]
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
        log10_rms=log10_of(call.rms) if call.finite else None,
        derivative=call.derivative,
        log10_apart_rms=None if not call.apart else math.log10(call.apart),
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
    paths: Paths,
    gates: Gates,
    at: dict[int, str],
    batch_size: int,
    transmission: float | None,
    loss: LossFacts | None,
    sizes: dict[int, float],
) -> LayerFlow:
    live = layer.live
    flow = LayerFlow(
        name=layer.name,
        kind=layer.kind,
        source=capture.calls[layer.call].source if layer.call is not None else "",
        parameters=sum(p.numel() for p in layer.parameters.values()),
        frozen=not live,
        log10_weight_norm=norm_together([log10_of(sizes[id(p)]) for p in layer.parameters.values()]),
    )
    reached = [seen.loss.leaves[id(p)] for p in live if id(p) in seen.loss.leaves]
    if layer.call is None or (live and not reached):
        return flow
    call = capture.calls[layer.call]
    signal = seen.loss.signals.get(layer.call)
    measured: dict[str, Any] = {  # one record made of all of it at the end: there may be thousands of layers
        "call": layer.call,
        "dtype": _narrowest(frozenset((call.dtype, *(p.dtype for p in layer.parameters.values())))),
        "log10_signal": None if signal is None else signal + 0.5 * math.log10(batch_size),
        "log10_sensitivity_rise": paths.rise(layer.call),
        **_activation_after(layer.call, paths, seen),
    }
    before, factors = paths.back(layer.call, at)
    if before is not None and signal is not None and signal > LOG_ZERO:
        measured.update(
            before=at[before],
            log10_gain=seen.loss.signals.get(before, LOG_ZERO) - signal,
            log10_weight_gain=factors["weights"],
            log10_slope_gain=factors["slopes"],
            log10_norm_gain=factors["norm"],
            log10_join_gain=factors["join"],
        )
    if live:
        jacobian = norm_together([seen.probe("leaves", id(p)) for p in live])
        measured.update(
            log10_grad_norm=norm_together(reached),
            log10_jacobian_norm=jacobian,
            log10_transmission=transmission,
            underflow_fraction=_share([seen.underflow.get(id(p)) for p in live]),
            update_to_weight_ratio=_update_ratio(live, seen, sizes),
            gate=gates.of(layer, transmission),
            **_against_the_loss(live, jacobian, seen, loss),
        )
    return flow.replace(**measured)


@cache
def _narrowest(types: frozenset[torch.dtype]) -> str:
    kinds = [t for t in types if t.is_floating_point or t.is_complex]
    widest_first = sorted(kinds, key=lambda t: (torch.finfo(t).smallest_normal, str(t)))
    return str(widest_first[-1]).removeprefix("torch.") if widest_first else ""


def _activation_after(index: int, paths: Paths, seen: Observed) -> dict[str, float]:
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


def _update_ratio(live: list[nn.Parameter], seen: Observed, sizes: dict[int, float]) -> float | None:
    known = [id(p) for p in live if seen.updates is not None and id(p) in seen.updates]
    weights = math.hypot(*(sizes[key] for key in known))
    return math.hypot(*((seen.updates or {})[key] for key in known)) / weights if weights > 0.0 else None


def _against_the_loss(
    live: list[nn.Parameter], jacobian: float, seen: Observed, loss: LossFacts | None
) -> dict[str, float | None]:
    """How well the layer's Jacobian meets what the loss asks, and how many steps of the optimizer it would take.

    Alignment: |Jᵀr| √(NC) / (|J|_F |r|), 1 for a random r. Steps: |r| / h / (|J|_F |Δw|), the outputs' way to go by the
    curvature h of the loss over what one update moves them, all linearised.
    """
    jacobian += seen.log10_output_rms
    if loss is None or not loss.residual_norm or not math.isfinite(jacobian):
        return {}
    residual = math.log10(loss.residual_norm)
    gradient = norm_together([seen.loss.leaves.get(id(p), LOG_ZERO) for p in live])
    found: dict[str, float | None] = {
        "log10_alignment": gradient - jacobian - residual + 0.5 * math.log10(max(1, seen.outputs))
    }
    if seen.updates is not None and loss.curvature is not None and loss.curvature > 0.0:
        update = log10_of(math.hypot(*(seen.updates.get(id(p), 0.0) for p in live)))
        log = residual - math.log10(loss.curvature) - jacobian - update
        found["steps_to_learn"] = max(1.0, 10.0**log) if log < 300.0 else math.inf
    return found


def _transmission(
    calls: list[Call], layers: list[Layer], seen: Observed, consumers: list[list[int]], sizes: dict[int, float]
) -> dict[str, float]:
    """T_rel: how much of what the best layer downstream transmits this layer does (0: as much; -2.5: 300 times less).

    T = ‖∂f/∂w‖·‖w‖ with f probed by random cotangents; a tensor below an ordinary initialisation counts with that
    norm, so that a zero or tiny start is not called vanished. Compared by norm and per parameter; the larger counts.
    Downstream is whatever can be reached through any branch.
    """
    sent: dict[str, Transmitted] = {}
    for layer in layers:
        live = {n: p for n, p in layer.parameters.items() if p.requires_grad}
        if layer.call is not None and live:
            slopes = {id(p): seen.probe("leaves", id(p)) for p in live.values()}
            sent[layer.name] = Transmitted.of(live, slopes, {key: log10_of(sizes[key]) for key in slopes})
    best = [(LOG_ZERO, LOG_ZERO)] * len(calls)
    by_call: dict[int, list[Layer]] = {}
    for layer in layers:
        if layer.name in sent:
            for index in layer.calls:
                by_call.setdefault(index, []).append(layer)
    for index in range(len(calls) - 1, -1, -1):
        behind = [best[k] for k in consumers[index]]
        alone = all(n == LOG_ZERO for n, _ in behind)
        own = [(sent[a.name].last if alone else sent[a.name].own, sent[a.name].size) for a in by_call.get(index, ())]
        options = [(n, n - size) for n, size in own] + behind
        if len(options) > 1:
            best[index] = (max(n for n, _ in options), max(r for _, r in options))
        elif options:
            best[index] = options[0]
    result = {}
    for layer in layers:
        if layer.name in sent:
            down = [best[i] for i in layer.calls]
            result[layer.name] = sent[layer.name].against(max(n for n, _ in down), max(r for _, r in down))
    return result
