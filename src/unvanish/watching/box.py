"""The black box: of the step that is running, what it takes to run the same step again under a full check.

Held are references, never copies: the inputs of the outermost module calls, the random state before each, the error
signals that came back to their outputs. With the linear loss Σ output · signal, whose gradient is the step's own, no
loss function is needed. Nothing is held longer than until the optimizer has moved the weights.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.trace.structure import inner_loss, tensors
from unvanish.watching.graph_birth import born_in
from unvanish.watching.loss_graph import between, birth
from unvanish.watching.paired import Pair, pair_of
from unvanish.watching.unpaired import Met, unpaired

MOST = 8
"""At most so many calls are held, the latest: with gradient accumulation each holds a batch."""

PROBE = 256
"""So many entries of each output are kept, to see whether a repetition gives the same."""

SMALL = 4_096
"""An output of at most so many entries is held itself for that: a copy of a part would cost more time."""

ENDS = 1_024
"""So many outputs are known apart from what was made of them; a loss is of the last."""


WALKS = 8
"""Losses of a run that are not finite whose whole graph is looked at; a run that goes on with nan has thousands."""

ASKED = 4
"""The first so many losses of a run are asked how they begin: they are alike, and there are one or two kinds."""


@dataclass(slots=True, eq=False)
class Entry:
    """One call of an outermost module.

    ``outputs``: of each that is trained a place, what is kept, and its version. ``came``: of each its place, which of
    its node's outputs it is, and what came back to the node.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[tuple[Tensor, int]]
    random: Any
    autocast: torch.dtype | None
    training: bool
    outputs: list[tuple[int, Tensor | None, int]] = field(default_factory=list)
    came: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    loss: int = -1  # which of the outputs is the loss
    read: bool = False  # an optimizer has seen the gradients that came of it

    @property
    def signals(self) -> dict[int, Tensor]:
        """What came back to each of its outputs, the last time."""
        found: dict[int, Tensor] = {}
        for at, place, several in self.came:
            for given in several:
                signal = given[place] if isinstance(given, tuple) else given
                if signal is not None:
                    found[at] = signal
        return found

    @property
    def made_nan(self) -> bool:
        """Whether an output is no number, as far as it is kept; -inf can be meant, as in a mask."""
        kept = [each.detach() for _, each, _ in self.outputs if each is not None]
        return any(bool(((each != each) | (each == math.inf)).any()) for each in kept)

    @property
    def masked(self) -> bool:
        """Whether an output holds -inf, as far as it is kept."""
        return any(bool((each.detach() == -math.inf).any()) for _, each, _ in self.outputs if each is not None)

    def changed(self) -> bool:
        """Whether an input was written over since the call."""
        return any(tensor._version != version for tensor, version in self.versions)

    @property
    def samples(self) -> int:
        """How many it was given; a single vector, of which no output has as many rows, is one sample."""
        first = self.args[0] if self.args else None
        if not isinstance(first, Tensor) or not first.ndim:
            first = next((each for each in tensors((self.args, self.kwargs)) if each.ndim), None)
        if first is None:
            return 1
        if first.ndim == 1 and first.is_floating_point():
            kept = [each for _, each, _ in self.outputs if each is not None and each.numel() <= SMALL]
            if kept and not any(each.ndim and each.size(0) == first.size(0) for each in kept):
                return 1
        return first.size(0)


class Box:
    """The calls of the step that is running."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.first: dict[int, weakref.ref[nn.Parameter] | None] = {}  # of each module, one parameter
        self.running: Entry | None = None
        self.counts: dict[int, int] = {}  # samples of those calls of the step that are not held any more, by module
        self.ends: deque[int] = deque(maxlen=ENDS)  # numbers of nodes: one itself would hold what it was made of
        self.loss: Any = None
        self.loss_birth, self.loss_finite = "", True
        self.graph_birth, self.walks = "", 0  # what the graph tells of a forward pass that cannot be run again
        self.moved = False  # an optimizer of this step has moved what some of the calls were made with
        self.asked = 0  # losses that were asked whether they fit what the model ends in
        self.pair: Pair | None = None
        self.met: Met | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An outermost module is about to run."""
        given = versions(args, kwargs)
        kept = self.first.get(id(module))
        first = None if kept is None else kept()
        if first is None:
            first = self._first(module)
        home = "cpu" if first is None or first.is_cpu else first.device.type
        cast = torch.get_autocast_dtype(home) if torch.is_autocast_enabled(home) else None
        random = torch.default_generator.get_state(), torch.cuda.get_rng_state_all() if home == "cuda" else None
        self.running = Entry(module, args, kwargs, given, random, cast, module.training, [], [])
        self.entries.append(self.running)
        if len(self.entries) > MOST:
            self._drop(self.entries[:-MOST])

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What the call that runs was given, where that was not known when it began."""
        if self.running is not None:
            self.running.args, self.running.kwargs = args, kwargs
            self.running.versions = versions(args, kwargs)

    def _drop(self, those: list[Entry]) -> None:
        for each in those:
            if not each.read:
                self.counts[id(each.module)] = self.counts.get(id(each.module), 0) + each.samples
        self.entries = [each for each in self.entries if each not in those]

    def _first(self, module: nn.Module) -> nn.Parameter | None:
        """One of its parameters, which stays the same when the module moves to another device."""
        first = next(iter(module.parameters()), None)
        self.first[id(module)] = None if first is None else weakref.ref(first)
        return first

    def after(self, outputs: Any) -> None:
        """It has run: wait for the signals at its outputs."""
        entry, self.running = self.running, None
        if entry is None:
            return
        if isinstance(outputs, Tensor):
            if outputs.requires_grad:
                self._await(entry, 0, outputs)
            return
        loss = inner_loss(outputs)
        for at, tensor in enumerate(tensors(outputs)):
            entry.loss = at if tensor is loss else entry.loss
            if tensor.requires_grad:
                self._await(entry, at, tensor)

    def _await(self, entry: Entry, at: int, tensor: Tensor) -> None:
        entry.outputs.append((at, *probe(tensor)))
        node, several = tensor.grad_fn, []
        entry.came.append((at, tensor.output_nr, several))
        if node is None:  # one of its parameters
            tensor.register_hook(several.append)
            return
        self.ends.append(node._sequence_nr())  # pyright: ignore[reportAttributeAccessIssue]
        node.register_prehook(several.append)  # no function of Python's: each costs time in every step

    def loss_is(self, loss: Tensor, finite: bool) -> None:
        """A backward starts at this loss. Where it is not finite, only now can its graph be asked which call did it.

        It is held where there is something to run again: that of a model which is not watched belongs to its owner.
        """
        self.loss, self.loss_finite = loss.grad_fn if self.entries else None, finite
        if self.asked < ASKED and self.entries:
            self.asked += 1
            self.pair = self.pair or pair_of(loss.grad_fn, set(self.ends))
            if self.met is None and loss.numel() == 1:
                self.met = unpaired(loss.grad_fn, loss.item())
        if not finite:
            self.loss_birth = self.loss_birth or birth(between(loss.grad_fn, set(self.ends)))
            if self.entries and not self.graph_birth and self.walks < WALKS:
                self.walks += 1
                self.graph_birth = born_in(loss.grad_fn, [each.module for each in self.entries])

    def give_up(self) -> None:
        """The call that runs will not come to its end."""
        if self.running is not None:
            self.entries = [each for each in self.entries if each is not self.running]
            self.running = None

    def forget(self, moved: set[int]) -> None:
        """These parameters, by their ids, have moved: what was computed with them cannot be run again."""
        before = len(self.entries)
        self.entries = [e for e in self.entries if not any(id(p) in moved for p in e.module.parameters())]
        self.moved |= len(self.entries) < before

    def clear(self) -> None:
        self.entries.clear()
        self.ends.clear()
        self.counts.clear()
        self.running, self.loss, self.loss_birth, self.graph_birth, self.moved = None, None, "", "", False

    def samples(self) -> int:
        """Of how many samples the gradients are that an optimizer reads now: of each once; 0 where no call was seen.

        The most that one module was given, in all of its calls together that a backward has reached since the last
        optimizer read the gradients.
        """
        unread = [each for each in self.entries if not each.read] or self.entries
        reached = [each for each in unread if each.signals] or unread
        counts: dict[int, int] = {}
        for each in reached:
            key = id(each.module)
            counts[key] = counts.get(key, self.counts.pop(key, 0)) + each.samples
            each.read = True
        return max(counts.values(), default=0)


def versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, int]]:
    alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
    given = args if alone else list(tensors((args, kwargs)))
    try:
        return [(each, each._version) for each in given]
    except RuntimeError:  # what was made in inference mode has none
        return [(each, each._version) for each in given if not each.is_inference()]


def probe(tensor: Tensor) -> tuple[Tensor | None, int]:
    """What of an output is kept, and its version."""
    plain = tensor.detach()
    if tensor.numel() <= SMALL:
        return plain, plain._version
    return (plain.as_strided((PROBE,), (1,)).clone() if tensor.is_contiguous() else None), 0
