"""What a loss function takes and does not mean.

Labels of 0 and 1 where it knows -1 and 1, several ones for one class; probabilities where it knows their logarithms.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unvanish.decide.limits import NO_LOGARITHMS, NO_MASS
from unvanish.evidence.class_axis import class_axis_facts
from unvanish.evidence.moving import or_none
from unvanish.evidence.output import mass_of
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.look import Look
from unvanish.records import LabelFacts
from unvanish.trace.calls import Call
from unvanish.trace.listening import Listening, name_of

SIGNED = ("soft_margin_loss", "hinge_embedding_loss", "cosine_embedding_loss", "margin_ranking_loss")
SHARES = ("multilabel_soft_margin_loss",)
TAKES_LOGARITHMS = ("kl_div", "ctc_loss")
LOGARITHM = re.compile("_?log(_?softmax|_?sigmoid|_?sumexp|cumsumexp|addexp|aminmax|1p|2|10|_)?$")
ASKED = (*SIGNED, *SHARES, "cross_entropy")
ROUND = 0.1  # beyond 0 to 1: what interpolation may leave


def label_facts(look: Look, output_loss: OutputLoss | str = "") -> LabelFacts | None:
    """What is odd about the labels of the first such loss, or the classes they meet; None where nothing is."""
    return _odd_labels(look) or _no_logarithms(look) or class_axis_facts(look.capture, output_loss)


def _odd_labels(look: Look) -> LabelFacts | None:
    call = next((each for each in look.capture.calls if each.name in ASKED), None)
    target = None if call is None else (_given_to(look, call) or {}).get("target")
    if call is None or not isinstance(target, Tensor) or target.layout is not torch.strided or target.is_nested:
        return None
    kind, share = or_none(lambda: _odd(call.name, target)) or ("", 0.0)
    return LabelFacts(call=call.index, kind=kind, share=share) if kind else None


def _no_logarithms(look: Look) -> LabelFacts | None:
    """Of a loss of log-probabilities that the loss function gives what no logarithm was taken of.

    Along any axis, or all, the exponentials may add up to one, as a map's do, or a table's of pairs.
    """
    calls = look.capture.calls
    call = next((each for each in calls if each.name in TAKES_LOGARITHMS), None)
    if call is None or any(LOGARITHM.match(calls[k].name) for k in look.capture.leading_to([call.index])):
        return None
    given = _given_to(look, call) or {}
    z = given.get("input", given.get("log_probs"))
    if not isinstance(z, Tensor) or z.layout is not torch.strided or z.is_nested or z.ndim < 2:
        return None
    mass = mass_of(z.detach().double(), None)
    return LabelFacts(call=call.index, kind=NO_LOGARITHMS, share=mass) if mass > NO_MASS else None


def _given_to(look: Look, call: Call) -> Mapping[str, Any] | None:
    """The arguments by name of this call of the loss; None where they are not known any more."""
    capture, problem = look.capture, look.problem
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
    return or_none(lambda: inspect.signature(func).bind(*args, **kwargs).arguments)


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
