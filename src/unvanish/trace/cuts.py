"""What the forward pass computed and then took out of the graph: by a detach, under no_grad, in a cut checkpoint.

A result without a gradient that was made of something with one is a cut. Whatever is made of it is followed, until a
call of the graph consumes it: then the layers before the cut take part in the loss's value and not in its gradient.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unvanish.trace.places import in_function, in_library, place

if TYPE_CHECKING:
    from unvanish.trace.calls import Capture


@dataclass(slots=True)
class Cut:
    """One result outside the graph. ``why``: detach, no_grad, checkpoint, or the call that has no gradient.

    ``inputs``: the cuts it was made of. ``calls``, ``parameters``: the calls of the graph, and the parameters by id, it
    was made of directly.
    """

    why: str
    source: str
    library: bool  # whether a library's own line made it
    inputs: list[int]
    calls: list[int]
    parameters: list[int]


class Cuts:
    """The cuts of one pass, and which tensors hold them."""

    def __init__(self, capture: Capture) -> None:
        self.capture, self.found = capture, capture.cuts
        self.held: dict[int, tuple[Any, int]] = {}
        self.checkpoint = False

    @contextmanager
    def in_checkpoint(self) -> Iterator[None]:
        """What runs inside is cut by a checkpoint none of whose inputs needs a gradient."""
        before, self.checkpoint = self.checkpoint, True
        try:
            yield
        finally:
            self.checkpoint = before

    def among(self, given: Sequence[Tensor]) -> list[int]:
        if not self.held:
            return []
        known = [self.held.get(id(t)) for t in given]
        return [pair[1] for t, pair in zip(given, known, strict=True) if pair is not None and pair[0]() is t]

    def follow(self, name: str, given: Sequence[Tensor], behind: list[int], made: Sequence[Tensor]) -> None:
        """Keep what left the graph in this call; ``behind``: the cuts among what it was given."""
        plain = [t for t in made if not t.requires_grad]
        if not plain:  # as a rule
            return
        live = [t for t in given if t.requires_grad]
        if not (live or behind) or name.endswith("_like") or name.startswith("new_"):  # made of a shape alone
            return
        owner, known = self.capture.owner, self.capture.of_parameters
        calls = [index for t in live if (index := owner.get(t.grad_fn, -1)) >= 0]
        # a view of a parameter, made without gradients, still says that it requires one
        leaves = [id(t if t._base is None else t._base) for t in live if t.grad_fn is None]
        leaves += [id(p) for t in live for p in known.get(t.grad_fn, ())]
        cut = Cut(self._why(name), place(), in_library(), behind, calls, leaves)
        self.found.append(cut)
        for tensor in plain:
            self.held[id(tensor)] = weakref.ref(tensor), len(self.found) - 1

    def _why(self, name: str) -> str:
        if self.checkpoint:
            return "checkpoint"
        if not torch.is_grad_enabled():
            return "function" if in_function() else "no_grad"
        return "detach" if name in ("detach_", "__get__") else name
