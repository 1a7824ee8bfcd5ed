"""Exact backward: a walk over the autograd graph that carries every cotangent as (tensor, power of two).

Several cotangents (channels) travel together, so that the graph is visited once, each activation checkpoint is replayed
once, and whatever is consumed is freed at once. Only norms are kept. The walk rests on four private details of
autograd: calling a node, ``_input_metadata``, ``next_functions`` and ``_sequence_nr``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unvanish.records import UnvanishError
from unvanish.trace.calls import PARAMETERS_ONLY, Capture, Node, functions_keep_themselves, is_custom, leaf_of
from unvanish.trace.capture import drop_locals
from unvanish.trace.checkpoints import one_backward
from unvanish.trace.projected import Projected, Projector
from unvanish.trace.scaled import LOG_ZERO, Device, Host, Scaled, room, shift
from unvanish.trace.tape import OnLeaf, OnNode, Partly, Raw, Start, Tape


class _Edge(NamedTuple):
    """Where a node sends a gradient: the same for every channel, so read from the graph once."""

    child: Node
    nr: int
    call: int  # the child's
    shape: Sequence[int] | None
    dtype: torch.dtype
    last: bool = False  # whether it is a parameter's, of which nothing more is made
    parameter: Any = None  # that parameter, where nothing else adds to its gradient
    turned: bool = False  # whether the gradient is to be turned for it


def exact_walk(
    capture: Capture,
    channels: Sequence[Start],
    on_leaf: OnLeaf | None = None,
    on_node: OnNode | None = None,
    projector: Projector | None = None,
) -> list[Tape]:
    """The tapes of ``backward.walk``, by calling each node of the graph.

    Of several channels ``on_node`` is told the cotangent of the first, and with a ``projector`` ``on_leaf`` sees the
    gradients of the first only.
    """
    starts = [root for channel in channels for root, _ in channel]
    if not starts:
        return [Tape() for _ in channels]
    on_device = any(root.device.type != "cpu" for root in starts)
    engine = _Walk(capture, len(channels), Device if on_device else Host, on_leaf, on_node, projector)
    try:
        with torch.no_grad(), one_backward():
            engine.run(channels)
    except BaseException as error:
        drop_locals(error)
        raise
    finally:
        engine.buffers.clear()
        engine.waiting.clear()
        engine.keepers.clear()
        capture.release()
    return [raw.tape(engine.math.read) for raw in engine.raw]


class _Walk:
    def __init__(
        self,
        capture: Capture,
        count: int,
        math_: Any,
        on_leaf: OnLeaf | None,
        on_node: OnNode | None,
        projector: Projector | None,
    ) -> None:
        self.capture, self.math, self.on_leaf, self.on_node = capture, math_, on_leaf, on_node
        self.projector = projector
        self.raw = [Raw() for _ in range(count)]
        # node -> channel -> output number -> [cotangent, whether some of it came from another call]
        self.buffers: dict[Node, list[dict[int, tuple[Scaled, bool]]]] = {}
        self.waiting: dict[Node, int] = {}
        self.shared: set[Node] = set()  # nodes still to be visited that several others feed
        self.keepers: dict[Node, Any] = {}  # of nodes that are to be visited: what keeps them alive until then

    def run(self, channels: Sequence[Start]) -> None:
        self.count_consumers([root.slot[0] for channel in channels for root, _ in channel])
        for index, channel in enumerate(channels):
            for root, cotangent in channel:
                self.put(root.slot, index, self.math.settle(cotangent, 0), True)
                self.keepers[root.slot[0]] = root.keeper
        ends = (self.capture.loss_root, self.capture.loss_input, *self.capture.outputs, *self.capture.ends)
        for root in (*(root for channel in channels for root, _ in channel), *ends):
            if root is not None:
                root.let_go()  # or the whole graph would stay alive behind its end
        waiting, owner, of_parameters = self.waiting, self.capture.owner, self.capture.of_parameters
        ready = [(-n._sequence_nr(), i, n, leaf_of(n)) for i, n in enumerate(waiting) if waiting[n] == 0]
        heapq.heapify(ready)
        ticket, kept_apart = len(waiting), not functions_keep_themselves()
        while ready:
            _, _, node, leaf = heapq.heappop(ready)
            del waiting[node]
            slots, keeper = self.buffers.pop(node, None), self.keepers.pop(node, None)
            edges = node.next_functions
            if slots is not None:
                if leaf is not None:
                    for channel, held in enumerate(slots):
                        if 0 in held:
                            self.finish_leaf(leaf, channel, self.settled(held[0][0]))
                else:
                    self.visit(node, edges, slots)
            self.shared.discard(node)
            owner.pop(node, None)
            of_parameters.pop(node, None)
            for child, _ in edges:
                if child is not None:
                    left = waiting[child] = waiting[child] - 1
                    if left == 0:
                        if kept_apart and is_custom(child):
                            self.keepers[child] = node, keeper
                        ticket += 1
                        leaf = leaf_of(child)
                        # Leaves go first: their gradient is complete and can be dropped.
                        rank = -child._sequence_nr() if leaf is None else -math.inf
                        heapq.heappush(ready, (rank, ticket, child, leaf))

    def count_consumers(self, roots: Sequence[Node]) -> None:
        stack = list(dict.fromkeys(roots))
        self.waiting = dict.fromkeys(stack, 0)
        while stack:
            for child, _ in stack.pop().next_functions:
                if child is not None:
                    if child not in self.waiting:
                        self.waiting[child] = 0
                        stack.append(child)
                    self.waiting[child] += 1
        self.shared = {node for node, count in self.waiting.items() if count > 1}

    def put(self, slot: tuple[Node, int], channel: int, value: Scaled, foreign: bool) -> None:
        node, nr = slot
        slots = self.buffers.get(node)
        if slots is None:
            slots = self.buffers[node] = [{} for _ in self.raw]
        held = slots[channel]
        before = held.get(nr)
        if before is not None:
            value, foreign = self.math.add(before[0], value), foreign or before[1]
        held[nr] = (value, foreign)

    def settled(self, value: Scaled) -> Scaled:
        return value if value.log2 is not None else self.math.settle(value.mantissa, value.exponent)

    def finish_leaf(self, leaf: Any, channel: int, gradient: Scaled) -> None:
        self.raw[channel].leaves.append((id(leaf), gradient.log2))
        if self.on_leaf is not None and (self.projector is None or not channel):
            self.on_leaf(leaf, channel, gradient)

    def visit(self, node: Node, edges: Sequence[tuple[Node, int]], slots: list[dict[int, tuple[Scaled, bool]]]) -> None:
        """Send on what has come to a node. Names the call where torch refuses: what it saved was changed, or freed."""
        me = self.capture.owner.get(node, PARAMETERS_ONLY)
        try:
            self.send(me, node, edges, slots)
        except Exception as error:
            call = self.capture.calls[me] if me != PARAMETERS_ONLY else None
            where = f"{call.place} ({call.source})" if call else type(node).__name__
            raise UnvanishError(f"the backward pass of {where} raised {type(error).__name__}: {error}") from error

    def send(
        self, me: int, node: Node, edges: Sequence[tuple[Node, int]], slots: list[dict[int, tuple[Scaled, bool]]]
    ) -> None:
        mine = me != PARAMETERS_ONLY
        if mine and self.on_node is not None:
            self.on_node(me, node, slots[0][0][0] if 0 in slots[0] else None)
        sides = [None if child is None else self.edge(child, nr) for child, nr in edges]
        plain = quick = _caller(node, sides)
        if self.projector is not None and len(slots) > 1:
            projected = self.projector.of(node, edges, self.shared)
            quick = plain if projected is None else partial(_apply_projected, projected, sides)
        host, buffers = self.math is Host, self.buffers
        for channel, held in enumerate(slots):
            if not held:
                continue
            raw = self.raw[channel]
            parts = {nr: value if value.log2 is not None else self.settled(value) for nr, (value, _) in held.items()}
            if mine:
                raw.signals += [(me, _size(parts[nr])) for nr, (_, foreign) in held.items() if foreign]
            held.clear()
            results = self.through(node, quick if channel else plain, parts)
            del parts  # what came in is let go of before the next channel's results are made
            for (child, nr, other, _, _, _, parameter, turned), result in results:
                foreign = other != me
                if foreign and mine and other != PARAMETERS_ONLY:
                    raw.edges.append(((me, other), _size(result)))
                if host and raw.broken is None and not result.log2 < math.inf:
                    raw.broken = me
                waiting = buffers.get(child)
                if parameter is not None:  # the gradient is whole: nobody keeps it
                    whole = result._replace(mantissa=result.mantissa.t()) if turned else result
                    self.finish_leaf(parameter, channel, whole)
                elif waiting is None or nr in waiting[channel]:
                    self.put((child, nr), channel, result, foreign)
                else:
                    waiting[channel][nr] = (result, foreign)

    def edge(self, child: Node, nr: int) -> _Edge:
        call, leaf = self.capture.owner.get(child, PARAMETERS_ONLY), leaf_of(child)
        alone = child not in self.shared and child not in self.buffers  # a walk may start at it
        if leaf is not None and leaf.layout is torch.strided and not leaf.is_nested:
            return _Edge(child, nr, call, leaf.shape, leaf.dtype, True, leaf if alone else None)
        metadata = child._input_metadata[nr]
        nested = getattr(metadata, "is_nested_tensor", False)  # its parts have shapes of their own
        shape = None if nested else tuple(metadata.shape)  # it comes as a list, which equals no shape
        if alone and call == PARAMETERS_ONLY and child.name() == "TBackward0":  # the weight of a linear layer
            behind = child.next_functions[0][0]
            leaf = leaf_of(behind)
            if leaf is not None and behind not in self.shared and behind not in self.buffers:
                return _Edge(child, nr, call, shape, metadata.dtype, True, leaf, turned=True)
        return _Edge(child, nr, call, shape, metadata.dtype)

    def through(self, node: Node, apply: _Apply, parts: dict[int, Scaled]) -> list[tuple[_Edge, Scaled]]:
        """One node's vector-Jacobian product for each of its edges, computed again where the type ran out of range."""
        settle, alone = self.math.settle, None
        if len(parts) == 1:
            ((nr, (alone, exponent, top)),) = parts.items()
            given = {nr: alone}
        else:
            mantissas, exponent = self.math.align(list(parts.values()))
            given = dict(zip(parts, mantissas, strict=True))
            logs = [part.log2 for part in parts.values()] if self.math is Host else []
            top = math.nan if any(map(math.isnan, logs)) else max(logs, default=math.nan)
        watched = self.math is Host and LOG_ZERO < top < math.inf
        results: list[tuple[_Edge, Scaled]] = []
        for place, (edge, gradient) in enumerate(apply(given)):
            if edge is None or gradient is None:
                continue
            gradient = _fit(gradient, edge)
            if alone is not None and _same(gradient, alone, node):
                result = Scaled(gradient, exponent, top)
            else:
                result = settle(gradient, exponent, edge.last)
                if watched and (step := _retry(result, exponent)):
                    again = list(apply({nr: shift(m, step) for nr, m in given.items()}))[place][1]
                    better = settle(_fit(again, edge), exponent - step) if again is not None else result
                    if better.log2 != LOG_ZERO and math.isfinite(better.log2):
                        result = better
            results.append((edge, result))
        return results


_Apply = Callable[[dict[int, Tensor]], Iterable[tuple[_Edge | None, Tensor | None]]]
"""What a node makes of its cotangents, by output number: for each of its edges a gradient as it comes, or None."""


def _size(value: Scaled) -> Any:
    """log2 of the norm; where that is not finite, with that of the entries that are."""
    if not isinstance(value.log2, float) or value.log2 < math.inf:
        return value.log2
    return Partly(value.log2, Host.settle(value.mantissa.nan_to_num(0.0, 0.0, 0.0), value.exponent).log2)


def _retry(result: Scaled, exponent: int) -> int:
    """By what power of two to scale a node's input before trying again; 0 where the first result is good."""
    log2, mantissa = result.log2, result.mantissa
    if result.exponent == exponent and LOG_ZERO < log2 < math.inf and not mantissa.is_sparse:
        return 0  # it was in the comfortable range as it came
    space = room(mantissa.dtype)
    if log2 == LOG_ZERO:
        return space
    if not math.isfinite(log2):
        return -space
    size = log2 - exponent - 0.5 * math.log2(max(1, mantissa.numel()))
    return space if size < -1.2 * space else 0


def _same(result: Tensor, mantissa: Tensor, node: Node) -> bool:
    """Whether a node passed its input on as it is, or under another shape: then its norm is known."""
    if result is mantissa:
        return True
    if result.numel() != mantissa.numel() or result.is_sparse or mantissa.is_sparse:
        return False
    if result.data_ptr() != mantissa.data_ptr() or not result.data_ptr() or result.dtype is not mantissa.dtype:
        return False
    return not is_custom(node)  # a user's function may return some entries of its input several times over


def _caller(node: Node, sides: Sequence[_Edge | None]) -> _Apply:
    """What a node makes of its cotangents, for each of its edges; ready to be called for each channel."""
    if is_custom(node):
        return partial(_apply_user, node, [side for side in sides if side is not None])
    outputs = range(len(node._input_metadata))

    def apply(given: dict[int, Tensor]) -> Iterable[tuple[_Edge | None, Tensor | None]]:
        found = node(*map(given.get, outputs))
        return zip(sides, found if isinstance(found, tuple) else (found,), strict=False)

    return apply


def _apply_user(
    node: Node, sides: Sequence[_Edge], given: dict[int, Tensor]
) -> Iterable[tuple[_Edge | None, Tensor | None]]:
    """The same of a Function written in Python. ``given``: by output number."""
    found = node.apply(*(given[i] if i in given else _zeros(m) for i, m in enumerate(node._input_metadata)))
    found = found if isinstance(found, tuple) else (found,)
    # One result per argument of forward; the edges are those of the arguments that need a gradient.
    return zip(sides, [g for g, needed in zip(found, node.needs_input_grad, strict=False) if needed], strict=False)


def _apply_projected(
    projected: Projected, sides: Sequence[_Edge | None], given: dict[int, Tensor]
) -> Iterable[tuple[_Edge | None, Tensor | None]]:
    """What a node sends along its edges, but for its weight: that gradient goes to its leaf at once, projected."""
    sent, weight = projected.send(given[0])
    leaf = _Edge(projected.leaf, 0, PARAMETERS_ONLY, weight.shape, weight.dtype, True, leaf_of(projected.leaf))
    return [*((side, sent.get(place)) for place, side in enumerate(sides)), (leaf, weight)]


def _zeros(metadata: Any) -> Tensor:
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def _fit(gradient: Tensor, edge: _Edge) -> Tensor:
    """Reduced and cast as the engine would."""
    if gradient.is_sparse:
        return gradient
    if edge.shape is not None and gradient.shape != edge.shape:
        gradient = gradient.sum_to_size(edge.shape)
    return gradient if gradient.dtype is edge.dtype else gradient.to(edge.dtype)
