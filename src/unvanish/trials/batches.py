"""What the copies are trained on: the same batches in the same order for every trial of a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from unvanish.preserve import seeded
from unvanish.preserve.loaders import own_generators
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.trace.structure import tensors

Batch = tuple[Any, Any]
KEPT_BYTES = 256 * 2**20
"""Epochs are kept for the next trial up to this size; beyond it they are drawn again, which gives the same ones."""


class Batches:
    """The training data of a problem, drawn once and shared by all trials.

    An epoch is one pass over ``train_batches`` (at most ``longest`` batches of it), with random numbers that follow
    from the seed and the number of the epoch, its batches then put into an order that follows from them too. Without
    ``train_batches`` every batch is the problem's own.
    """

    def __init__(self, problem: Problem, longest: int) -> None:
        given = problem.train_batches
        self.only_the_batch = given is None
        self.source: Any = [(problem.inputs, problem.targets)] if given is None else given
        self.longest = longest
        self.with_targets = problem.loss_fn is not None
        self.epochs: dict[tuple[int, int], list[Batch]] = {}
        self.kept = 0
        if isinstance(self.source, Iterator):
            raise UnvanishError(
                "Problem(train_batches=…) is an iterator, which is used up after one pass, and every trial needs the"
                " same batches: give a list or a DataLoader"
            )
        if not hasattr(self.source, "__iter__") and not hasattr(self.source, "__getitem__"):
            raise UnvanishError(
                f"Problem(train_batches=…) must be iterable, such as a DataLoader or a list of (inputs, targets), not a"
                f" {type(self.source).__name__}"
            )

    def walk(self, seed: int) -> Iterator[Batch]:
        """Batch after batch, without end."""
        epoch = 0
        while True:
            yield from self.epoch(seed, epoch)
            epoch += 1

    def epoch(self, seed: int, epoch: int) -> list[Batch]:
        """The batches of one pass."""
        if (seed, epoch) in self.epochs:
            return self.epochs[seed, epoch]
        draw = (seed * 1_000_003 + epoch) % 2**63
        with own_generators(self.source, draw), seeded(draw):
            pairs = [self._pair(each) for each in islice(iter(self.source), self.longest)]
        if not pairs:
            raise UnvanishError("Problem(train_batches=…) gave no batch; give at least one (inputs, targets)")
        if empty := [place for place, each in enumerate(pairs) if any(t.shape[:1] == (0,) for t in tensors(each[0]))]:
            raise UnvanishError(f"batch {empty[0]} of Problem(train_batches=…) holds no sample; leave it out")
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(draw)).tolist()
        batches = [pairs[place] for place in order]
        size = 0 if isinstance(self.source, Sequence) else sum(t.numel() * t.element_size() for t in tensors(pairs))
        if self.kept + size <= KEPT_BYTES:
            self.epochs[seed, epoch] = batches
            self.kept += size
        return batches

    def _pair(self, batch: Any) -> Batch:
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return batch[0], batch[1]
        if not self.with_targets:
            return batch, None
        kind = type(batch).__name__
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list, Mapping)) else ""
        raise UnvanishError(
            f"a batch of Problem(train_batches=…) is a {kind}{size}, but loss_fn(outputs, targets) needs targets: give"
            " pairs (inputs, targets), where inputs may be a tensor, a tuple or a Mapping"
        )


def pair(problem: Problem, given: Any) -> Batch:
    """Inputs and targets of ``Problem(validation=…)``; a Mapping is inputs alone, where the model has its own loss."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return given[0], given[1]
    if isinstance(given, Mapping) and problem.loss_fn is None:
        return given, None
    raise UnvanishError(
        f"Problem(validation=…) is a {type(given).__name__}; give one pair (inputs, targets) of held-out data"
    )
