"""A softmax or a sigmoid at the end of a model before a loss that takes something else, seen in the graph of a loss."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unvanish.records import Evidence, Finding
from unvanish.rules import rules
from unvanish.rules.conditions import UNREACHABLE
from unvanish.watching.dated import dated
from unvanish.watching.loss_graph import between, name_of, signed
from unvanish.words.numbers import number

PAIRED = "UV706"
LOSSES = ("nll_loss", "nll_loss2_d", "nll_loss2d", "nll_loss_nd")
MOVES = ("view", "squeeze", "unsqueeze", "reshape", "flatten", "unsafe_view", "select", "alias")
"""Calls that change no number."""


@dataclass(frozen=True)
class Pair:
    """What does not fit: the last call of the model, what is to be said, and the evidence for it."""

    cause: str
    text: str
    evidence: Evidence


def pair_of(root: Any, ends: Collection[int]) -> Pair | None:
    """What of a loss does not fit what the model ends in; None where it fits, or another call is between the two.

    ``ends``: the numbers of the nodes that made the outputs. Of a softmax only a loss of class numbers counts: what is
    left out of reach of other targets depends on them.
    """
    nodes = between(root, ends)
    try:
        if any(name_of(each) in LOSSES for each in nodes):
            return next(filter(None, (_of_classes(each, ends) for each in nodes)), None)
        return next(filter(None, map(_of_two_sigmoids, nodes)), None)
    except (AttributeError, RuntimeError):  # a kind of node that keeps other things, or none any more
        return None


def _of_classes(node: Any, ends: Collection[int]) -> Pair | None:
    ahead = node.next_functions[0][0] if node.next_functions else None
    if ahead is None or ahead._sequence_nr() not in ends or name_of(ahead) != "softmax":
        return None
    result, along = ahead._saved_result, signed(ahead._saved_dim)
    if name_of(node) == "log_softmax" and (along - signed(node._saved_dim)) % result.ndim == 0:
        return _two_softmaxes(result.size(along))
    if name_of(node) in LOSSES and (along - 1) % result.ndim == 0:
        return _no_logarithm(float(result.detach().logsumexp(along).abs().mean()))
    return None


def _two_softmaxes(classes: int) -> Pair:
    """How low the loss can come at the best, which is the logarithm of 1 + (C - 1) / e for C classes."""
    lowest, usual = math.log(1.0 + (classes - 1) / math.e), math.log(classes)
    text = (
        "the model ends in a softmax, and the cross-entropy makes one of its own: probabilities between 0 and 1 go in"
        f" as logits, so over {classes} classes the loss cannot fall below {number(lowest)}, where a guess has"
        f" {number(usual)}. Hand the outputs before the softmax to the loss."
    )
    return Pair("softmax", text, Evidence(name="unreachable share of the loss", value=lowest / usual))


def _no_logarithm(size: float) -> Pair:
    """``size``: the mean of |log Σ exp(output)|, which is 0 of log-probabilities."""
    text = (
        "the model ends in a softmax, and the loss (nll_loss) takes log-probabilities: it is given probabilities, so it"
        " is -p of the right class where -log p is meant, and its slope goes to zero where the model is most wrong."
        " Hand the outputs before the softmax to a cross-entropy, or end the model in a log_softmax."
    )
    return Pair("softmax", text, Evidence(name="mean of |log Σ exp(output)|", value=size, relation=">", threshold=0.1))


def _of_two_sigmoids(node: Any) -> Pair | None:
    """A binary cross-entropy of logits that is given what a sigmoid made, so nothing outside of 0 to 1."""
    if name_of(node) != "binary_cross_entropy_with_logits" or node._saved_weight is not None:
        return None
    ahead = node.next_functions[0][0]
    while ahead is not None and name_of(ahead) in MOVES:
        ahead = ahead.next_functions[0][0]
    if ahead is None or name_of(ahead) != "sigmoid" or node._saved_pos_weight is not None:
        return None
    target: Tensor = node._saved_target.detach().double()
    if not bool(((target >= 0.0) & (target <= 1.0)).all()):
        return None
    floor = _entropy(target).mean().item()
    given = torch.logit(target).clamp(0.0, 1.0)  # the best of what a sigmoid can make
    lowest = F.binary_cross_entropy_with_logits(given, target).item()
    constant = _entropy(target.mean()).item()
    share = (lowest - floor) / (constant - floor) if constant > floor else math.nan
    if not share > UNREACHABLE:
        return None
    text = (
        "what goes into binary_cross_entropy_with_logits has been through a sigmoid, and that loss makes one of its"
        " own: probabilities between 0 and 1 go in as logits, so for the targets of this batch the loss cannot fall"
        f" below {number(lowest)}, where the best constant answer has {number(constant)}. Hand the numbers before the"
        " sigmoid to the loss."
    )
    evidence = Evidence(name="unreachable share of the loss", value=share, relation=">", threshold=UNREACHABLE)
    return Pair("sigmoid", text, evidence)


def _entropy(target: Tensor) -> Tensor:
    return -torch.xlogy(target, target) - torch.xlogy(1.0 - target, 1.0 - target)


def finding_of(pair: Pair, step: int) -> Finding:
    """The pair as a finding."""
    known = next(each for each in rules() if each.code == PAIRED)
    return Finding(
        code=PAIRED, verdict=known.verdict, level="error", cause=pair.cause, message=dated("at", step, pair.text),
        evidence=(pair.evidence,), remedies=known.remedies,
    )  # fmt: skip
