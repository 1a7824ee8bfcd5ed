"""Why a layer has no gradient: never called, cut off, or left out by a forward that may use it another time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from unvanish.decide.limits import SWITCHED_OFF
from unvanish.flow.in_source import never_read, under_condition
from unvanish.flow.layers import Layer
from unvanish.records import LayerFlow, UnusedFacts
from unvanish.trace.calls import Capture
from unvanish.trace.cuts import Cut
from unvanish.trace.places import is_library, module_path


def unused_facts(
    capture: Capture,
    layers: list[Layer],
    flows: Iterable[LayerFlow],
    held: Callable[[nn.Parameter], bool] | None,
    trunk: Sequence[bool],
) -> tuple[UnusedFacts, ...]:
    """For each trainable layer outside the graph of the loss; ``held``: whether the optimizer holds a parameter.

    And for those whose results are all multiplied by zero, if that is no call on the trunk: the loss goes on without.
    Where the loss goes on with what was cut off from them, as with a code that an encoder only chooses, the cut counts.
    """
    outside = [a for a, flow in zip(layers, flows, strict=True) if flow.call is None and a.live]
    off = list(_switched_off(capture, layers, trunk))
    if not outside and not off:
        return ()
    behind = cuts_behind(capture, trunk)
    cut_too = [a for a, _ in off if any(id(p) in behind and behind[id(p)].feeds for p in a.live)]
    switched = tuple(
        UnusedFacts(layer=a.name, called=True, cut=SWITCHED_OFF, cut_at=at, held=held and _any(held, a))
        for a, at in off
        if a not in cut_too
    )
    outside += cut_too
    modules = {module_path(n): m for n, m in capture.model.named_modules()}
    ran = {path for call in capture.calls for path, _ in call.frames} | set(capture.module_calls)
    used = {key for cut in capture.cuts for key in cut.parameters} | {
        id(p) for c in capture.calls for p in c.parameters
    }
    facts = []
    for layer in outside:
        name = layer.name.partition("#")[0]
        way = next((found for p in layer.live if (found := behind.get(id(p)))), None)
        called = name in ran or any(id(p) in used for p in layer.live)
        fact = UnusedFacts(
            layer=layer.name,
            called=called,
            held=held and _any(held, layer),
        )
        if way is not None:
            both = _common(name, way.consumer)
            fact = fact.replace(
                cut=way.cut.why,
                cut_at=way.cut.source,
                feeds=way.feeds,
                library=way.cut.library and way.cut.why != "checkpoint" and _of_library(_running(both, modules, ran)),
            )
        else:
            above = _running(name.rpartition(".")[0], modules, ran)
            fact = fact.replace(
                library=_of_library(above),
                conditional=under_condition(above, name),
                dropped=called and never_read(above, name),
            )
        facts.append(fact)
    return (*facts, *switched)


def _any(held: Callable[[nn.Parameter], bool], layer: Layer) -> bool:
    return any(held(p) for p in layer.live)


def _switched_off(capture: Capture, layers: list[Layer], trunk: Sequence[bool]) -> Iterable[tuple[Layer, str]]:
    """The trainable layers from which every way to the loss goes through a factor of zero, and where that stands."""
    off = {call.index: call.source for call in capture.calls if call.off and not trunk[call.index]}
    if not off or capture.loss_index is None:
        return
    reached = {capture.loss_index}
    for call in reversed(capture.calls):
        if call.index in reached and call.index not in off:
            reached.update(call.inputs)
    on = {id(p) for layer in layers if reached.intersection(layer.calls) for p in layer.live}
    behind = [(at, capture.leading_to([index])) for index, at in off.items()]
    for layer in layers:
        if layer.live and layer.calls and not on.intersection(map(id, layer.live)):
            at = next((at for at, before in behind if not before.isdisjoint(layer.calls)), None)
            if at is not None:  # else a cut is what keeps it from the loss
                yield layer, at


@dataclass(slots=True)
class _Way:
    """A cut behind a layer, whether a layer that is trained consumes what was cut off, and the module that does."""

    cut: Cut
    feeds: bool
    consumer: str


def cuts_behind(capture: Capture, trunk: Sequence[bool]) -> dict[int, _Way]:
    """By parameter: the first cut between it and the loss; those that layers consume before those the loss does.

    What reaches the loss through a factor of zero alone does not reach it.
    """
    calls, cuts = capture.calls, capture.cuts
    alive = [False] * len(calls)
    if capture.loss_index is not None:
        alive[capture.loss_index] = True
    for call in reversed(calls):
        for producer in call.inputs if alive[call.index] and not (call.off and not trunk[call.index]) else ():
            alive[producer] = True
    ahead = [bool(call.parameters) for call in calls]  # whether a layer follows, or is this call
    for call in reversed(calls):
        for producer in call.inputs if ahead[call.index] and alive[call.index] else ():
            ahead[producer] = True
    found: dict[int, _Way] = {}
    for feeds in (True, False):
        seen_cuts, seen_calls = set[int](), set[int]()
        for call in calls:
            if not alive[call.index] or ahead[call.index] is not feeds:
                continue
            waiting: list[tuple[int, int | None]] = [(c, None) for c in call.cuts]
            while waiting:  # (a cut, or a call before one with that cut)
                index, at = waiting.pop()
                if at is None:
                    if index in seen_cuts:
                        continue
                    seen_cuts.add(index)
                    cut = cuts[index]
                    waiting += [(c, None) for c in cut.inputs] + [(c, index) for c in cut.calls]
                    keys, why = cut.parameters, cut
                else:
                    if index in seen_calls or alive[index]:
                        continue
                    seen_calls.add(index)
                    before = calls[index]
                    waiting += [(c, None) for c in before.cuts] + [(c, at) for c in before.inputs]
                    keys, why = [id(p) for p in before.parameters], cuts[at]
                for key in keys:
                    found.setdefault(key, _Way(why, feeds, call.module))
    return found


def _common(one: str, other: str) -> str:
    shared = list[str]()
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def _running(path: str, modules: dict[str, nn.Module], ran: set[str]) -> tuple[str, nn.Module] | None:
    """The nearest module from a path upwards that ran, and is no container of torch's own."""
    while True:
        module = modules.get(path)
        if module is not None and (path in ran or not path) and not type(module).__module__.startswith("torch."):
            return path, module
        if not path:
            return None
        path = path.rpartition(".")[0]


def _of_library(above: tuple[str, nn.Module] | None) -> bool:
    if above is None:
        return False
    forward: Any = inspect.unwrap(type(above[1]).forward)
    code = getattr(forward, "__code__", None)
    return code is not None and is_library(code.co_filename)
