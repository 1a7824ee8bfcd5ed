"""Weights that no step moves, and running statistics: a few of them are looked at for nan in each sample.

A copy of a model that follows it (an average of its weights, a target network) takes no part in the loss, so nan in it
shows nowhere. It is known where it is made: ``copy.deepcopy`` and pickle end in ``nn.Module.__setstate__``, and another
model of the same kind gets its weights by ``load_state_dict``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from unvanish.records import Finding
from unvanish.watching.dated import dated
from unvanish.watching.gradients import held
from unvanish.watching.norms import has_nan, local
from unvanish.watching.table import Table
from unvanish.words.numbers import listing

FEW = 4
"""Tensors that are looked at in one sample, in turn: nan in an average stays there."""

AGAIN = 10
"""After so many samples, or a round where that is longer, they are found anew: it takes longer than to look at them."""

Known = tuple[str, str, "weakref.ref[Tensor]"]
"""Of which model, under which name, what."""


class Resting:
    """``look()`` gives the models in which nan was found, and under which names; each of them once."""

    def __init__(self, table: Table, optimizers: Mapping[int, Any], guarded: Callable[[Any], Any]) -> None:
        self.table, self.optimizers = table, optimizers
        self.made = guarded(self._made)
        self.copies: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.waiting: list[Known] = []  # of this round
        self.told: set[str] = set()
        self.all, self.age = list[Known](), 0  # of all rounds, for so many samples
        self.key: tuple[int, ...] = ()  # what there was when they were found

    def _made(self, module: nn.Module) -> None:
        """It was copied from another, or has got the weights of another; so were its parts, which are not told of."""
        for part in module.modules():
            self.copies.discard(part)
        self.copies.add(module)

    def look(self, few: bool = True) -> dict[str, list[str]]:
        """Look at the next ones, or at all."""
        now = self._next() if few else list(self._all(False))
        odd = {model for model, _, each in now if model not in self.told and _odd(each)}
        every = list(self._all(few)) if odd else []  # found anew: by now an optimizer may move some
        names = {one: [name for model, name, each in every if model == one and _odd(each)] for one in odd}
        found = {one: those for one, those in names.items() if those}
        self.told |= found.keys()
        return found

    def _next(self) -> list[Known]:
        key = self.table.changes, len(self.table.models), len(self.copies)
        self.age += 1
        if not self.waiting:
            if key != self.key or self.age > AGAIN:
                self.all, self.key, self.age = list(self._all(True)), key, 1
            self.waiting = self.all
        now, self.waiting = self.waiting[:FEW], self.waiting[FEW:]
        return now

    def _all(self, on_cpu: bool) -> Iterator[Known]:
        """``on_cpu``: only what can be asked without waiting for another device."""
        models = dict(self.table.models.items())
        moved = {id(p) for each in self.optimizers.values() for p in held(each)}
        known = {id(p) for model in models.values() for p in model.parameters()} | moved
        for name, model in models.items():
            if any(id(p) in moved for p in model.parameters()):
                for path, part in model.named_modules():
                    if isinstance(part, _NormBase):
                        here = ".".join(each for each in (name, path) if each)
                        yield from _named("", here, part.named_buffers(recurse=False), on_cpu)
            else:
                yield from _of(name or type(model).__name__, model, on_cpu)
        for copy in list(self.copies):
            if known.isdisjoint(id(p) for p in copy.parameters()):
                yield from _of(f"a copy of {type(copy).__name__}", copy, on_cpu)


def _of(name: str, model: nn.Module, on_cpu: bool) -> Iterator[Known]:
    yield from _named(name, "", model.named_parameters(), on_cpu)
    for path, part in model.named_modules():
        if isinstance(part, _NormBase):
            yield from _named(name, path, part.named_buffers(recurse=False), on_cpu)


def _named(model: str, path: str, tensors: Iterable[tuple[str, Tensor]], on_cpu: bool) -> Iterator[Known]:
    for name, each in tensors:
        if not is_lazy(each) and each.is_floating_point() and (each.is_cpu or not on_cpu):
            yield model, f"{path}.{name}" if path else name, weakref.ref(each)


def _odd(kept: weakref.ref[Tensor]) -> bool:
    """Whether it is there still, and holds nan."""
    tensor = kept()
    return tensor is not None and has_nan(tensor)


def of_what_rests(step: int, model: str, names: list[str], last: bool) -> Finding:
    """``model``: "" for running statistics of what is trained. ``last``: when the run ends, all were looked at."""
    few = listing(names)
    where = f"in {model} ({few})" if model else f"in {few}"
    reads = "an evaluation with it" if model else "a normaliser in eval mode, which reads it,"
    when = "" if last else ", perhaps for longer, as a few tensors are looked at in each sample"
    text = (
        f"there is nan {where}{when}. Losses and gradients were finite, and no optimizer moves it: {reads} gives nan,"
        " and the training does not show it."
    )
    return Finding(
        code="UV501", verdict="nonfinite", level="error", cause="copy" if model else "buffer",
        message=dated("at", step, text),
    )  # fmt: skip


def odd_buffers(models: Mapping[str, nn.Module]) -> list[str]:
    """The names of those that hold nan. An infinity can be meant, as in a mask or a running minimum."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, model in models.items()
        for name, each in model.named_buffers()
        if each.is_floating_point() and bool(local(each).isnan().any())
    ]


def of_the_buffers(step: int, names: list[str]) -> Finding:
    """``step``: how many the run has made."""
    few = listing(names)
    text = (
        f"when the run ends there is nan in {'the buffer' if len(names) == 1 else 'the buffers'} {few}, though losses"
        " and gradients were finite: what reads it in eval mode, as a normaliser does its running mean, gives nan."
        " Buffers are looked at once, at the end, so since when is not known."
    )
    return Finding(code="UV501", verdict="nonfinite", level="error", cause="buffer", message=dated("at", step, text))
