"""Labels that a loss function takes and does not mean: 0 and 1 where it knows -1 and 1, several ones for one class."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.moving import or_none
from unvanish.flow.look import Look
from unvanish.records import LabelFacts
from unvanish.trace.listening import Listening, name_of

SIGNED = ("soft_margin_loss", "hinge_embedding_loss", "cosine_embedding_loss", "margin_ranking_loss")
SHARES = ("multilabel_soft_margin_loss",)
ASKED = (*SIGNED, *SHARES, "cross_entropy")
ROUND = 0.1  # beyond 0 to 1: what interpolation may leave


def label_facts(look: Look) -> LabelFacts | None:
    """What is odd about the labels of the first such loss; None where nothing is, or none is called."""
    capture, problem = look.capture, look.problem
    call = next((each for each in capture.calls if each.name in ASKED), None)
    if call is None:
        return None
    if capture.loss_call is not None and capture.loss_call[3] == call.index:
        func, args, kwargs, _ = capture.loss_call
    elif call.name == "cross_entropy" or call.part != "loss" or problem.loss_fn is None:
        return None
    else:
        made: list[tuple[Any, Any, dict[str, Any]]] = []
        listening = Listening(lambda func, args, kwargs, _: made.append((func, args, kwargs)))
        with torch.no_grad(), capture.replay(), listening:
            or_none(lambda: problem.loss(capture.values))
        asked = next((each for each in made if name_of(each[0]) == call.name), None)
        if asked is None:
            return None
        func, args, kwargs = asked
    given = or_none(lambda: inspect.signature(func).bind(*args, **kwargs).arguments)
    target = None if given is None else given.get("target")
    if not isinstance(target, Tensor) or target.layout is not torch.strided or target.is_nested:
        return None
    kind, share = or_none(lambda: _odd(call.name, target)) or ("", 0.0)
    return LabelFacts(call=call.index, kind=kind, share=share) if kind else None


def _odd(name: str, target: Tensor) -> tuple[str, float]:
    """What is odd, and of what share of the labels or of the samples."""
    zeros, ones = target == 0, target == 1
    if name in SHARES:
        beyond = (target < -ROUND) | (target > 1.0 + ROUND)
        return ("beyond", float(beyond.double().mean())) if bool(beyond.any()) else ("", 0.0)
    if not bool((zeros | ones).all()) or not bool(zeros.any()) or not bool(ones.any()):
        return "", 0.0
    if name in SIGNED:
        return "unsigned", float(zeros.double().mean())
    if not target.is_floating_point() or target.ndim < 2:
        return "", 0.0
    several = ones.sum(1) > 1
    return ("several", float(several.double().mean())) if bool(several.any()) else ("", 0.0)
