"""Recurrent and attention modules that take the samples of a batch for the steps of a sequence.

torch's own expect (steps, samples, features) unless they are told otherwise. Given (samples, steps, features) nothing
raises: each sample is read on from the one before, or attends to the others. One sample is replaced by another and the
pass made again; where a module's results for other samples change, and the network then gives one output to each sample
and none to each step, it has taken one axis for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.evidence.across import FEWEST, changed, with_one_replaced
from unvanish.evidence.moving import outputs_again, without_chance
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import AcrossFacts
from unvanish.trace.structure import tensors

Seen = dict[str, tuple[Tensor, Tensor]]
"""By the path of a module, what its first call was given and gave."""


def mistaken_facts(look: Look) -> tuple[AcrossFacts, ...]:
    """The first calls of such modules; () where there are none, or it cannot be tried."""
    samples = look.problem.batch_size
    asked = {n: m for n, m in look.model.named_modules() if _steps_first(m)}
    if not asked or samples < FEWEST or look.capture.own_loss:
        return ()
    replaced = with_one_replaced(look.problem)
    if replaced is None:
        return ()
    try:
        with without_chance(look.model), torch.no_grad():
            first, outputs = _passed(look, look.problem, asked)
            if not _one_each(outputs, look.problem.targets, samples):
                return ()
            again, _ = _passed(look, replaced, asked)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # a pass that refuses the other batch: nothing is claimed
        return ()
    found = [(name, first[name], again[name]) for name in first if name in again]
    return tuple(
        AcrossFacts(call=index, axis=0, shape=tuple(before[0].shape))
        for name, before, after in found
        if before[0].shape[0] == samples and not _keeps_steps(outputs, before[0].shape[1])
        if _leaks(before, after)
        if (index := next((c.index for c in look.capture.calls if c.module == name), None)) is not None
    )


def _steps_first(module: nn.Module) -> bool:
    known = isinstance(module, (nn.RNNBase, nn.MultiheadAttention))
    return known and not module.batch_first


def _one_each(outputs: Any, targets: Any, samples: int) -> bool:
    """Whether outputs and targets have an entry for each sample along their first axis."""
    both = [t for part in (outputs, targets) for t in tensors(part)]
    return bool(list(tensors(targets))) and all(t.ndim and t.shape[0] == samples for t in both)


def _keeps_steps(outputs: Any, steps: int) -> bool:
    """Whether an output has an entry for each of what the module took for samples: then either may be meant.

    Where it took only one, the samples may well be meant to see each other.
    """
    return steps == 1 or any(steps in t.shape[1:] for t in tensors(outputs))


def _leaks(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether a change of one entry along the first axis of what came in changes others of what went out."""
    if any(a.shape != b.shape or a.ndim != 3 for a, b in zip(before, after, strict=True)):
        return False
    given, made = (changed(a, b, 0) for a, b in zip(before, after, strict=True))
    return int(given.sum()) == 1 and len(made) == len(given) and bool(made[~given].any())


def _passed(look: Look, problem: Problem, asked: dict[str, nn.Module]) -> tuple[Seen, Any]:
    seen: Seen = {}
    with _watching(asked, seen):
        return seen, outputs_again(problem, look.model, look.seed)


@contextmanager
def _watching(asked: dict[str, nn.Module], seen: Seen) -> Iterator[None]:
    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("input", kwargs.get("query"))
            made = output[0] if isinstance(output, tuple) else output
            if isinstance(given, Tensor) and isinstance(made, Tensor) and given.ndim == 3 and not given.is_nested:
                seen.setdefault(name, (given.detach().clone(), made.detach().clone()))

        return hook

    placed = [m.register_forward_hook(after(name), with_kwargs=True) for name, m in asked.items()]
    try:
        yield
    finally:
        for each in placed:
            each.remove()
