"""Trainable tensors that learn nothing while others of their layer do: behind a step, or taken out of the graph.

A layer counts as reached when any of its tensors is. Weights that are rounded, or whose sign is taken, pass back
exactly zero whatever they are; what is detached, or compared with a number, is in no graph. The bias beside them learns
all the same, and the loss falls a little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from unvanish.flow.look import Look
from unvanish.flow.paths import Observed
from unvanish.flow.slopes import constant_by_construction
from unvanish.flow.unused import cuts_behind
from unvanish.records import StoppedFacts
from unvanish.trace.calls import Capture, Node, leaf_of
from unvanish.trace.capture import record
from unvanish.trace.scaled import LOG_ZERO


def steps_of_weights(look: Look, seen: Observed) -> dict[int, str]:
    """By id: the tensors from which every way to the loss goes through a step taken of weights alone, and its place."""
    closed = {id(p) for a in look.layers for p in a.live if a.call is not None and _reach(seen, p) == LOG_ZERO}
    if not closed or not any(map(constant_by_construction, look.capture.folded)):
        return {}
    again = record(look.problem, look.model)  # the walk has taken the first graph apart
    try:
        walls = {f.node: f.place_and_line for f in again.folded if constant_by_construction(f)}
        root = again.loss_root
        around = set[int]() if root is None else _leaves(root.slot[0], walls)
        found: dict[int, str] = {}
        for node, place in walls.items():
            for key in closed & (_leaves(node, ()) - around):
                found.setdefault(key, place)
        return found
    finally:
        again.release()


def stopped_facts(
    look: Look,
    seen: Observed,
    steps: Mapping[int, str],
    trunk: Sequence[bool],
    held: Callable[[nn.Parameter], bool] | None,
) -> tuple[StoppedFacts, ...]:
    """Of layers that are reached by another tensor: those behind a step, and those cut out before they meet data."""
    facts, cut = list[StoppedFacts](), _cut_alone(look.capture, trunk)
    for layer in look.layers:
        if layer.call is None or not layer.first or all(_reach(seen, p) == LOG_ZERO for p in layer.live):
            continue
        behind: dict[tuple[bool, str, str], list[str]] = {}
        for name, p in layer.parameters.items():
            if p.requires_grad and id(p) in steps:
                behind.setdefault((False, steps[id(p)], ""), []).append(name)
            elif p.requires_grad and id(p) in cut and (held is None or held(p)):
                behind.setdefault((True, *cut[id(p)]), []).append(name)
        for (out, by, at), names in behind.items():
            facts.append(StoppedFacts(layer=layer.name, parameters=tuple(names), cut=out, by=by, at=at))
    return tuple(facts)


def _cut_alone(capture: Capture, trunk: Sequence[bool]) -> dict[int, tuple[str, str]]:
    """By id: what cut a tensor out by itself, and the line; for those in no call of the loss that layers consume."""
    if not any(cut.parameters for cut in capture.cuts) or capture.loss_index is None:
        return {}
    used = {id(p) for index in capture.leading_to([capture.loss_index]) if index >= 0 for p in _of(capture, index)}
    return {
        key: (way.cut.why, way.cut.source)
        for key, way in cuts_behind(capture, trunk).items()
        if key not in used and way.feeds and key in way.cut.parameters and not way.cut.calls and not way.cut.library
    }


def _of(capture: Capture, index: int) -> list[nn.Parameter]:
    return capture.calls[index].parameters


def _reach(seen: Observed, parameter: nn.Parameter) -> float:
    return max(seen.probe("leaves", id(parameter)), seen.loss.leaves.get(id(parameter), LOG_ZERO))


def _leaves(start: Node, walls: Collection[Node]) -> set[int]:
    """The leaves that a node leads to around all ``walls``, by id."""
    leaves, known, waiting = set[int](), set[Node](), [start]
    while waiting:
        node = waiting.pop()
        if node is None or node in known or node in walls:
            continue
        known.add(node)
        if (leaf := leaf_of(node)) is not None:
            leaves.add(id(leaf))
        waiting += [child for child, _ in node.next_functions]
    return leaves
