"""Exact backward: a walk over the autograd graph that carries every cotangent as (tensor, power of two).

Several cotangents (channels) travel together, so that the graph is visited once, each activation checkpoint is replayed
once, and whatever is consumed is freed at once. Only norms are kept. The walk rests on four private details of autograd
(calling a node, ``_input_metadata``, ``next_functions``, ``_sequence_nr``); ``supported`` tries them on a small graph,
and where one has changed, ``plain_walk`` lets autograd itself run and reads the same norms through node hooks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unvanish.capture import PARAMETERS_ONLY, Capture, Node, Root, drop_locals, leaf_of
from unvanish.checkpoints import one_backward
from unvanish.records import UnvanishError
from unvanish.scaled import ZERO, Device, Host, Scaled, norm_of, room, shift

Start = Sequence[tuple[Root, Tensor]]
OnLeaf = Callable[[nn.Parameter, int, Scaled], None]
OnNode = Callable[[int, Node], None]
LOG10_2 = math.log10(2.0)


@dataclass(slots=True)
class Tape:
    """What one channel of a walk saw; all values are log10 of a Euclidean norm, -inf for an exact zero.

    ``signals``: of the cotangent at a call's outputs. ``edges``: of what a call sent back to a producer. ``leaves``: of
    the gradient of a parameter, by ``id``. ``broken``: the first call that sent something non-finite back.
    """

    signals: dict[int, float] = field(default_factory=dict)
    edges: dict[tuple[int, int], float] = field(default_factory=dict)
    leaves: dict[int, float] = field(default_factory=dict)
    broken: int | None = None


class _Edge(NamedTuple):
    """Where a node sends a gradient: the same for every channel, so read from the graph once."""

    child: Node
    nr: int
    call: int  # the child's
    shape: torch.Size
    dtype: torch.dtype


class _Raw:
    """Squared contributions of one channel, as they come; read back once at the end."""

    def __init__(self) -> None:
        self.signals: list[tuple[int, Any]] = []
        self.edges: list[tuple[tuple[int, int], Any]] = []
        self.leaves: list[tuple[int, Any]] = []
        self.broken: int | None = None

    def tape(self, read: Callable[[Sequence[Any]], list[float]]) -> Tape:
        tape = Tape(broken=self.broken)
        for kept, into in ((self.signals, tape.signals), (self.edges, tape.edges), (self.leaves, tape.leaves)):
            groups: dict[Any, list[float]] = {}
            for (key, _), value in zip(kept, read([v for _, v in kept]), strict=True):
                groups.setdefault(key, []).append(value * LOG10_2)
            into.update((key, norm_together(values)) for key, values in groups.items())
        if tape.broken is None:
            bad = [pair[0] for pair, v in tape.edges.items() if not v < math.inf]
            tape.broken = max(bad, default=None)
        return tape


def norm_together(logs: Sequence[float]) -> float:
    """log10 of the norm of a vector whose parts have norms 10^x, x in ``logs``."""
    if len(logs) == 1:
        return logs[0]
    top = max(logs, default=ZERO)
    if not math.isfinite(top):
        return top if not any(math.isnan(x) for x in logs) else math.nan
    return top + 0.5 * math.log10(sum(10.0 ** (2 * (x - top)) for x in logs))


def walk(
    capture: Capture, channels: Sequence[Start], on_leaf: OnLeaf | None = None, on_node: OnNode | None = None
) -> list[Tape]:
    """Send each channel's cotangents back through the captured graph, which is consumed.

    ``on_leaf(parameter, channel, gradient)`` sees each complete gradient once, ``on_node(call, node)`` each node of a
    call just before it is released. Returns one Tape a channel. Without a graph the tapes are empty.
    """
    starts = [root for channel in channels for root, _ in channel]
    if not starts:
        return [Tape() for _ in channels]
    on_device = any(root.device.type != "cpu" for root in starts)
    engine = _Walk(capture, len(channels), Device if on_device else Host, on_leaf, on_node)
    try:
        with torch.no_grad(), one_backward():
            engine.run(channels)
    except BaseException as error:
        drop_locals(error)
        raise
    finally:
        engine.buffers.clear()
        engine.waiting.clear()
        capture.release()
    return [raw.tape(engine.math.read) for raw in engine.raw]


class _Walk:
    def __init__(
        self, capture: Capture, count: int, math_: Any, on_leaf: OnLeaf | None, on_node: OnNode | None
    ) -> None:
        self.capture, self.math, self.on_leaf, self.on_node = capture, math_, on_leaf, on_node
        self.raw = [_Raw() for _ in range(count)]
        # node -> channel -> output number -> [cotangent, whether some of it came from another call]
        self.buffers: dict[Node, list[dict[int, tuple[Scaled, bool]]]] = {}
        self.waiting: dict[Node, int] = {}

    def run(self, channels: Sequence[Start]) -> None:
        self.count_consumers([root.slot[0] for channel in channels for root, _ in channel])
        for index, channel in enumerate(channels):
            for root, cotangent in channel:
                self.put(root.slot, index, self.math.settle(cotangent, 0), True)
        ends = (self.capture.loss_root, self.capture.loss_input, *self.capture.outputs)
        for root in (*(root for channel in channels for root, _ in channel), *ends):
            if root is not None:
                root.slot = (None, 0)  # or the whole graph would stay alive behind its end
        ready = [(-n._sequence_nr(), i, n) for i, n in enumerate(self.waiting) if self.waiting[n] == 0]
        heapq.heapify(ready)
        ticket = len(self.waiting)
        owner = self.capture.owner
        while ready:
            node = heapq.heappop(ready)[2]
            del self.waiting[node]
            slots = self.buffers.pop(node, None)
            edges = node.next_functions
            if slots is not None:
                leaf = leaf_of(node)
                if leaf is not None:
                    self.finish_leaf(leaf, slots)
                else:
                    self.visit(node, edges, slots)
            owner.pop(node, None)
            self.capture.of_parameters.pop(node, None)
            for child, _ in edges:
                if child is not None:
                    left = self.waiting[child] = self.waiting[child] - 1
                    if left == 0:
                        ticket += 1
                        # Leaves go first: their gradient is complete and can be dropped.
                        rank = -math.inf if leaf_of(child) is not None else -child._sequence_nr()
                        heapq.heappush(ready, (rank, ticket, child))

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

    def finish_leaf(self, leaf: Tensor, slots: list[dict[int, tuple[Scaled, bool]]]) -> None:
        for channel, held in enumerate(slots):
            if 0 in held:
                gradient = self.settled(held[0][0])
                self.raw[channel].leaves.append((id(leaf), gradient.log2))
                if self.on_leaf is not None:
                    self.on_leaf(leaf, channel, gradient)  # type: ignore[arg-type]

    def visit(self, node: Node, edges: Sequence[tuple[Node, int]], slots: list[dict[int, tuple[Scaled, bool]]]) -> None:
        owner = self.capture.owner
        me = owner.get(node, PARAMETERS_ONLY)
        if self.on_node is not None and me != PARAMETERS_ONLY:
            self.on_node(me, node)
        sides = [None if child is None else _edge(child, nr, owner) for child, nr in edges]
        for channel, held in enumerate(slots):
            if not held:
                continue
            raw = self.raw[channel]
            parts = {nr: self.settled(value) for nr, (value, _) in held.items()}
            if me != PARAMETERS_ONLY:
                raw.signals += [(me, parts[nr].log2) for nr, (_, foreign) in held.items() if foreign]
            for edge, result in self.sent(me, node, sides, parts):
                other = edge.call
                foreign = other != me
                if foreign and me != PARAMETERS_ONLY and other != PARAMETERS_ONLY:
                    raw.edges.append(((me, other), result.log2))
                if raw.broken is None and isinstance(result.log2, float) and not result.log2 < math.inf:
                    raw.broken = me
                self.put((edge.child, edge.nr), channel, result, foreign)

    def sent(
        self, me: int, node: Node, sides: Sequence[_Edge | None], parts: dict[int, Scaled]
    ) -> list[tuple[_Edge, Scaled]]:
        try:
            return self.through(node, sides, parts)
        except Exception as error:
            call = self.capture.calls[me] if me != PARAMETERS_ONLY else None
            where = f"{call.name} in {call.module or 'the model'} ({call.source})" if call else type(node).__name__
            raise UnvanishError(f"the backward pass of {where} raised {type(error).__name__}: {error}") from error

    def through(
        self, node: Node, sides: Sequence[_Edge | None], parts: dict[int, Scaled]
    ) -> list[tuple[_Edge, Scaled]]:
        """One node's vector-Jacobian product for each of its edges, computed again where the type ran out of range."""
        if len(parts) == 1:
            ((nr, only),) = parts.items()
            given, exponent = {nr: only.mantissa}, only.exponent
            results = [
                (edge, Scaled(g, exponent, only.log2) if _same(g, only, node) else self.math.settle(g, exponent))
                for edge, g in _apply(node, sides, given)
            ]
        else:
            mantissas, exponent = self.math.align(list(parts.values()))
            given = dict(zip(parts, mantissas, strict=True))
            results = [(edge, self.math.settle(g, exponent)) for edge, g in _apply(node, sides, given)]
        if self.math is not Host or all(p.log2 == ZERO for p in parts.values()):
            return results
        if any(not p.log2 < math.inf for p in parts.values()):
            return results
        for index, (edge, result) in enumerate(results):
            step = _retry(result, exponent)
            if step:
                again = {nr: shift(m, step) for nr, m in given.items()}
                found = _apply(node, sides, again)[index][1]
                better = self.math.settle(found, exponent - step)
                if better.log2 != ZERO and math.isfinite(better.log2):
                    results[index] = (edge, better)
        return results


def _edge(child: Node, nr: int, owner: dict[Node, int]) -> _Edge:
    metadata = child._input_metadata[nr]
    return _Edge(child, nr, owner.get(child, PARAMETERS_ONLY), torch.Size(metadata.shape), metadata.dtype)


def _retry(result: Scaled, exponent: int) -> int:
    """By what power of two to scale a node's input before trying again; 0 where the first result is good."""
    log2, mantissa = result.log2, result.mantissa
    if result.exponent == exponent and ZERO < log2 < math.inf and not mantissa.is_sparse:
        return 0  # it was in the comfortable range as it came
    space = room(mantissa.dtype)
    if log2 == ZERO:
        return space
    if not math.isfinite(log2):
        return -space
    size = log2 - exponent - 0.5 * math.log2(max(1, mantissa.numel()))
    return space if size < -1.2 * space else 0


def _same(result: Tensor, given: Scaled, node: Node) -> bool:
    """Whether a node passed its input on as it is, or under another shape: then its norm is known."""
    mantissa = given.mantissa
    if result is mantissa:
        return True
    if result.is_sparse or mantissa.is_sparse or result.numel() != mantissa.numel():
        return False
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return False  # a user's function may return some entries of its input several times over
    return result.dtype is mantissa.dtype and result.data_ptr() == mantissa.data_ptr() != 0


def _apply(node: Node, sides: Sequence[_Edge | None], given: dict[int, Tensor]) -> list[tuple[_Edge, Tensor]]:
    """What a node sends along each edge, reduced and cast as the engine would. ``given``: by output number."""
    metadata = node._input_metadata
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        full = [given[i] if i in given else _zeros(m) for i, m in enumerate(metadata)]
        found = node.apply(*full)
        found = found if isinstance(found, tuple) else (found,)
        # One result per argument of forward; the edges are those of the arguments that need a gradient.
        found = [g for g, needed in zip(found, node.needs_input_grad, strict=False) if needed]
        sides = [side for side in sides if side is not None]
    else:
        found = node(*map(given.get, range(len(metadata))))
        found = found if isinstance(found, tuple) else (found,)
    return [
        (side, _fit(gradient, side))
        for side, gradient in zip(sides, found, strict=False)
        if side is not None and gradient is not None
    ]


def _zeros(metadata: Any) -> Tensor:
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def _fit(gradient: Tensor, edge: _Edge) -> Tensor:
    if gradient.is_sparse:
        return gradient
    if gradient.shape != edge.shape:
        gradient = gradient.sum_to_size(edge.shape)
    return gradient.to(edge.dtype) if gradient.dtype != edge.dtype else gradient


def plain_walk(
    capture: Capture, channels: Sequence[Start], on_leaf: OnLeaf | None = None, on_node: OnNode | None = None
) -> list[Tape]:
    """The same tapes read off torch's own backward through node hooks: limited by the range of the dtype."""
    tapes = []
    try:
        for index, channel in enumerate(channels):
            tapes.append(_plain_channel(capture, index, channel, on_leaf))
    finally:
        capture.release()
    return tapes


def _plain_channel(capture: Capture, index: int, channel: Start, on_leaf: OnLeaf | None) -> Tape:
    owner, raw, handles = capture.owner, _Raw(), []
    incoming: dict[Node, set[int]] = {}
    parameters = [p for p in capture.model.parameters() if p.requires_grad]

    def read(node: Node, me: int) -> Callable[..., None]:
        def hook(sent: Any, got: Any) -> None:
            outside = incoming.get(node, set())
            raw.signals.extend((me, _log2(g)) for nr, g in enumerate(got) if g is not None and nr in outside)
            for (child, _), gradient in zip(node.next_functions, sent, strict=False):
                other = owner.get(child, PARAMETERS_ONLY)
                if gradient is not None and other not in (me, PARAMETERS_ONLY):
                    raw.edges.append(((me, other), _log2(gradient)))

        return hook

    for node, me in owner.items():
        for child, nr in node.next_functions:
            if child is not None and owner.get(child, me) != me:
                incoming.setdefault(child, set()).add(nr)
    for root, _ in channel:
        incoming.setdefault(root.slot[0], set()).add(root.slot[1])
    try:
        handles = [n.register_hook(read(n, me)) for n, me in owner.items() if me != PARAMETERS_ONLY]
        anchors = [_anchor(root) for root, _ in channel]
        gradients = torch.autograd.grad(
            anchors, parameters, [c for _, c in channel], retain_graph=True, allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            raw.leaves.append((id(parameter), _log2(gradient)))
            if on_leaf is not None:
                on_leaf(parameter, index, Scaled(gradient, 0, _log2(gradient)))
    return raw.tape(Host.read)


def _anchor(root: Root) -> Any:
    return torch.autograd.graph.GradientEdge(*root.slot)


def _log2(tensor: Tensor) -> float:
    norm = norm_of(tensor)
    return math.log2(norm) if 0.0 < norm < math.inf else ZERO if norm == 0.0 else norm


@cache
def supported() -> str:
    """ "" where this torch has the private details the walk rests on, else what went wrong on a small graph."""
    try:
        w = torch.full((2, 2), 0.5, dtype=torch.float64, requires_grad=True)
        b = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        out = torch.sigmoid(torch.ones(3, 2, dtype=torch.float64) @ w + b).sum()
        expected = torch.autograd.grad(out, [w, b], retain_graph=True)
        capture = Capture(nn.Module())
        found: dict[int, Scaled] = {}
        root = Root((out.grad_fn, out.output_nr), (), out.dtype, out.device, 1.0)
        walk(capture, [[(root, torch.ones_like(out) * 2.0**-900)]], lambda p, _, g: found.update({id(p): g}))
        for leaf, right in zip((w, b), expected, strict=True):
            got = shift(found[id(leaf)].mantissa, found[id(leaf)].exponent + 900)
            if not torch.allclose(got, right, rtol=1e-12, atol=0.0):
                return "a hand-walked gradient differs from autograd's"
    except Exception as error:  # whatever a future torch raises here, the answer is the same
        return f"{type(error).__name__}: {error}"
    return ""
