"""A softmax at the end of a model before a cross-entropy that makes one of its own, seen in the graph of a loss."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from unvanish.records import Evidence, Finding
from unvanish.rules import rules
from unvanish.watching.dated import dated
from unvanish.watching.loss_graph import between, name_of
from unvanish.words.numbers import number

PAIRED = "UV706"
LOSSES = ("nll_loss", "nll_loss2_d", "nll_loss2d", "nll_loss_nd")


def classes_of_two_softmaxes(root: Any, ends: Collection[int]) -> int:
    """Over how many classes a softmax of the model goes straight into that of the loss; 0 where none does.

    ``ends``: the numbers of the nodes that made the outputs. Only a loss of class numbers counts: what is left out of
    reach of other targets depends on them.
    """
    nodes = between(root, ends)
    if not any(name_of(each) in LOSSES for each in nodes):
        return 0
    for node in nodes:
        ahead = node.next_functions[0][0] if name_of(node) == "log_softmax" else None
        if ahead is None or ahead._sequence_nr() not in ends or name_of(ahead) != "softmax":
            continue
        try:
            result, along, again = ahead._saved_result, _signed(ahead._saved_dim), _signed(node._saved_dim)
            return result.size(along) if (along - again) % result.ndim == 0 else 0
        except (AttributeError, RuntimeError):  # a kind of node that keeps other things, or none any more
            return 0
    return 0


def _signed(dimension: int) -> int:
    """A node keeps -1 as a number without a sign."""
    return dimension - 2**64 if dimension >= 2**63 else dimension


def two_softmaxes(step: int, classes: int) -> Finding:
    """The finding: how low the loss can come at the best, which is the logarithm of 1 + (C - 1) / e for C classes."""
    known = next(each for each in rules() if each.code == PAIRED)
    lowest, usual = math.log(1.0 + (classes - 1) / math.e), math.log(classes)
    text = (
        "the model ends in a softmax, and the cross-entropy makes one of its own: probabilities between 0 and 1 go in"
        f" as logits, so over {classes} classes the loss cannot fall below {number(lowest)}, where a guess has"
        f" {number(usual)}. Hand the outputs before the softmax to the loss."
    )
    return Finding(
        code=PAIRED, verdict=known.verdict, level="error", cause="softmax", message=dated("at", step, text),
        evidence=(Evidence(name="unreachable share of the loss", value=lowest / usual),), remedies=known.remedies,
    )  # fmt: skip
