"""Layers that ran, and of whose results this batch took nothing: experts that no sample was sent to.

All experts run on all samples, and an index, a mask or weights of zero choose among their results; or each runs on its
own samples, and one has none. Whether a layer is one of several such is asked where verdicts are given.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from unvanish.decide.limits import NOT_CHOSEN
from unvanish.flow.layers import Layer
from unvanish.flow.paths import Observed, consumers_of
from unvanish.records import UnusedFacts
from unvanish.trace.calls import Capture
from unvanish.trace.scaled import LOG_ZERO


def not_chosen(
    capture: Capture, layers: list[Layer], seen: Observed, held: Callable[[nn.Parameter], bool] | None
) -> tuple[UnusedFacts, ...]:
    """For each trainable layer without any gradient whose ways to the loss all end where others' results are taken."""
    silent = [a for a in layers if a.live and a.calls and not any(_reached(seen, id(p)) for p in a.live)]
    if not silent:
        return ()
    consumers = consumers_of(capture.calls)
    ends = [(a, _left_at(_all_calls(a, silent), capture, seen, consumers)) for a in silent]
    return tuple(
        UnusedFacts(
            layer=a.name,
            called=True,
            cut=NOT_CHOSEN,
            cut_at=capture.calls[at[0]].source,
            held=held and any(held(p) for p in a.live),
        )
        for a, at in ends
        if at
    )


def _all_calls(layer: Layer, layers: list[Layer]) -> list[int]:
    """The calls of a layer and of what shares its parameters: a module that is called again is another record."""
    own = set(map(id, layer.live))
    return [index for each in layers if not own.isdisjoint(map(id, each.live)) for index in each.calls]


def _left_at(start: list[int], capture: Capture, seen: Observed, consumers: list[list[int]]) -> list[int]:
    """The calls that take nothing of these results and something of others'; none where any stops all it is given.

    A result without entries is nothing that could be stopped.
    """
    calls, ends, known = capture.calls, set[int](), set[int]()
    waiting = list(start)
    while waiting:
        index = waiting.pop()
        if index in known:
            continue
        known.add(index)
        if _heard(seen, index):
            return []
        for consumer in consumers[index]:
            if not _heard(seen, consumer):
                waiting.append(consumer)
            elif calls[index].numel and all(_sent(seen, consumer, j) == LOG_ZERO for j in calls[consumer].inputs):
                return []
            else:
                ends.add(consumer)
    return sorted(ends)


def _reached(seen: Observed, parameter: int) -> bool:
    return max(seen.probe("leaves", parameter), seen.loss.leaves.get(parameter, LOG_ZERO)) > LOG_ZERO


def _heard(seen: Observed, call: int) -> bool:
    return max(seen.probe("signals", call), seen.loss.signals.get(call, LOG_ZERO)) > LOG_ZERO


def _sent(seen: Observed, call: int, to: int) -> float:
    return max(seen.probe("edges", (call, to)), seen.loss.edges.get((call, to), LOG_ZERO))
