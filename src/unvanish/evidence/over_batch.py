"""Recurrent layers and attention that go along the samples of a batch, or are given each sample in pieces.

torch's own recurrent layers and its attention take the steps of a sequence along their first axis unless they are made
with ``batch_first=True``. Given samples first, they hand the state of one sample on to the next. Which axis is which is
not read off its size: one sample is replaced by another and the pass is made again, in eval mode. Where a layer steps
through each sample by itself, the change fills that sample's place on the other axis, and all of its steps. Given the
axes the other way round, or through a ``view`` where a transpose was meant, it fills few steps and many places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.across import FEWEST, changed, with_one_replaced
from unvanish.evidence.moving import or_none, pass_again, without_chance
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import AcrossFacts
from unvanish.trace.listening import Listening, name_of
from unvanish.trace.structure import tensors

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
ATTENTION = "multi_head_attention_forward"


def over_batch(look: Look) -> tuple[AcrossFacts, ...]:
    """The first call of this kind where every sample has a target of its own; () where there is none.

    Targets with an axis as long as that of the steps are not asked: for a text whose steps come first, the first axis
    of the batch is time, and a state that goes along it is what was meant.
    """
    problem, samples, targets = look.problem, look.problem.batch_size, look.problem.targets
    made = [call for call in look.capture.calls if call.name in (*RECURRENT, ATTENTION)]
    if not made or samples < FEWEST or not isinstance(targets, Tensor) or not targets.ndim:
        return ()
    replaced = with_one_replaced(problem) if targets.shape[0] == samples else None
    if replaced is None:
        return ()
    with without_chance(look.model), torch.enable_grad():  # a pass may refuse the other batch, or eval mode
        passed = or_none(lambda: [_passed(each, look) for each in (problem, replaced)])
    if passed is None:
        return ()
    (given, before), (other, after) = passed
    if len(given) != len(made) or len(other) != len(made) or not _reaches_others(before, after, samples):
        return ()
    for call, (x, axis), (y, _) in zip(made, given, other, strict=True):
        if x.ndim == 3 and x.shape == y.shape:
            places = x.shape[1 - axis]
            steps, spread = (int(changed(x, y, each).sum()) for each in (axis, 1 - axis))
            swapped = steps == 1 and x.shape[axis] == samples
            alone = places == 1 or places in targets.shape[1:] or (swapped and places == samples)
            if not alone and 0 < steps <= x.shape[axis] // FEWEST and spread > max(1, places // samples):
                shape = tuple(x.shape)
                return (AcrossFacts(call=call.index, axis=axis, shape=shape, pieces=0 if swapped else spread),)
    return ()


def _passed(problem: Problem, look: Look) -> tuple[list[tuple[Tensor, int]], list[Tensor]]:
    """What each call of this kind was given and the axis of its steps, and the outputs of the model."""
    found: list[tuple[Tensor, int]] = []

    def heard(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = name_of(func)
        learns = isinstance(out, tuple) and isinstance(out[0], Tensor) and out[0].requires_grad
        if learns and args and isinstance(args[0], Tensor) and name in (*RECURRENT, ATTENTION):
            first = name in RECURRENT and args[-1] is True  # the last argument of these is batch_first
            found.append((args[0].detach().clone(), int(first)))

    with Listening(heard):
        outputs, _ = pass_again(problem, look.model, look.seed)
    return found, [t.detach() for t in tensors(outputs)]


def _reaches_others(before: list[Tensor], after: list[Tensor], samples: int) -> bool:
    """Whether the outputs of samples that were not replaced have changed."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.ndim and a.shape[0] == samples]
    return any(a.shape == b.shape and bool(changed(a, b, 0)[1:].any()) for a, b in pairs)
