"""Softmaxes and normalisations taken over the batch: what they give a sample depends on which others are beside it.

Which axis holds the samples is not read off its size. One sample is replaced by another, in eval mode, and the pass is
made again: along the axis of the samples only that sample's entries of the operand change. Where the result changes for
the others, too, the call has mixed them. A matrix of samples against samples, in attention and in contrastive losses,
changes along both of its axes and is none of these; nor is a mean over the samples that the call only weighs (pooling,
slots, experts with soft places), after which no sample is left.
"""

from __future__ import annotations

import dataclasses
from itertools import count
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.moving import loss_again, or_none, without_chance
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import AcrossFacts
from unvanish.trace.calls import Call, Capture
from unvanish.trace.listening import Listening, name_of
from unvanish.trace.structure import rebuild, tensors

NAMES = ("softmax", "log_softmax", "softmin", "normalize")
FEWEST = 3  # samples: of two, replacing one leaves one
CHANGED = 1e-6  # of an entry: about eight times the rounding of float32
OTHERS = 8  # samples that are tried as the replacement, until one differs


def across_facts(look: Look) -> tuple[AcrossFacts, ...]:
    """The calls that normalise over the samples of the batch, in order; () where none does, or it cannot be tried."""
    capture, samples = look.capture, look.problem.batch_size
    made = [call for call in capture.calls if call.name in NAMES]
    asked = {place: axis for place, call in enumerate(made) if (axis := _candidate(call, samples)) is not None}
    asked = {place: axis for place, axis in asked.items() if _keeps_samples(capture, made[place], axis)}
    replaced = with_one_replaced(look.problem) if asked else None
    if replaced is None:
        return ()
    with without_chance(look.model), torch.enable_grad():  # a pass may refuse the other batch, or eval mode
        seen = or_none(lambda: [_passed(problem, look, set(asked)) for problem in (look.problem, replaced)])
    if seen is None:
        return ()
    return tuple(
        AcrossFacts(call=made[place].index, axis=axis, shape=made[place].shape)
        for place, axis in asked.items()
        if place in seen[0] and place in seen[1] and _mixes(seen[0][place], seen[1][place], axis)
    )


def _candidate(call: Call, samples: int) -> int | None:
    """The axis a call normalises over, if it may be that of the samples, and no other axis may hold them too."""
    if call.probe is None or samples < FEWEST:
        return None
    axis = _axis(call)
    if axis is None or not -len(call.shape) <= axis < len(call.shape):
        return None
    axis %= len(call.shape)
    size, others = call.shape[axis], [n for k, n in enumerate(call.shape) if k != axis]
    return axis if size and size % samples == 0 and size not in others else None


def _axis(call: Call) -> int | None:
    assert call.probe is not None
    _, args, kwargs = call.probe
    place, usual = (1, 1) if call.name == "normalize" else (0, None)  # after a power; torch.softmax has none usual
    axis = args[place] if len(args) > place else kwargs.get("dim", usual)
    if axis is None:  # torch's own choice, with a warning
        axis = 0 if len(call.shape) in (0, 1, 3) else 1
    return axis if isinstance(axis, int) else None


def _keeps_samples(capture: Capture, call: Call, axis: int) -> bool:
    """Whether what a call gives each sample reaches the loss as that sample's own.

    In a loss, only of several numbers a sample: a list that is ranked as a whole has one for each of its entries.
    """
    size, several = call.shape[axis], call.numel > call.shape[axis]
    if call.part == "loss" and not (several and call.name != "normalize"):
        return False
    kept = {call.index}
    for other in capture.calls[call.index + 1 :]:
        if kept.intersection(other.inputs):
            if other.index == capture.loss_index or (call.part == "model" and other.part == "loss"):
                return True
            if size in other.shape or not other.shape:
                kept.add(other.index)
    return False


def with_one_replaced(problem: Problem) -> Problem | None:
    """The problem with another sample in the place of the first; None where all that are tried are alike."""
    size = problem.batch_size
    held = [t for t in tensors(problem.inputs) if t.ndim and t.shape[0] == size and not t.is_nested]
    other = next((k for k in range(1, min(size, OTHERS)) if any(bool((t[0] != t[k]).any()) for t in held)), None)
    if other is None:
        return None

    def replaced(tensor: Tensor) -> Tensor:
        if not any(tensor is each for each in held):
            return tensor
        new = tensor.detach().clone()
        new[0] = tensor[other]
        return new

    return dataclasses.replace(problem, inputs=rebuild(problem.inputs, replaced))


def _passed(problem: Problem, look: Look, asked: set[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """What the calls of interest were given and gave, by their place among those of these names."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    places = count()

    def heard(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if name_of(func) in NAMES and isinstance(out, Tensor) and out.requires_grad:
            place = next(places)
            if place in asked and args:
                found[place] = args[0].detach().clone(), out.detach().clone()

    with Listening(heard):
        loss_again(problem, look.model, look.seed)
    return found


def _mixes(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], axis: int) -> bool:
    """Whether a change of a few entries along the axis, in what the call is given, changes most of the others."""
    if any(a.shape != b.shape for a, b in zip(before, after, strict=True)) or axis >= before[0].ndim:
        return False
    given, made = (changed(a, b, axis) for a, b in zip(before, after, strict=True))
    few = 0 < int(given.sum()) <= len(given) // FEWEST
    return few and bool(made[~given].double().mean() > 0.5)


def changed(before: Tensor, after: Tensor, axis: int) -> Tensor:
    """Along the axis: whether any entry there has changed by more than rounding."""
    moved = (after - before).abs() > CHANGED * before.abs()
    return moved.movedim(axis, 0).reshape(moved.shape[axis], -1).any(1)
