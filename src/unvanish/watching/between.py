"""What becomes of the gradient between a backward pass and a step, and between a step and the next backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from unvanish.records import Evidence, Finding
from unvanish.rules.events import EVENTS
from unvanish.rules.wording import factor
from unvanish.watching.norms import norms
from unvanish.watching.sample import Sample
from unvanish.words.numbers import LARGEST

WIPED, ADDED_UP = "UV810", "UV811"


class Kept:
    """Of each optimizer, what was left of its gradients when a backward pass of a step began; 0 once they were empty.

    Two that share parameters may leave some in each other's, and empty them before their own: one clean start will do.
    """

    def __init__(self) -> None:
        self.left: dict[int, float] = {}

    def look(self, optimizers: Mapping[int, Any]) -> None:
        """A backward pass begins. Two of the last parameters stand for all: whatever a loss depends on passes there."""
        for key, each in optimizers.items():
            if self.left.get(key) != 0.0 and each.param_groups:
                last = [p.grad for p in each.param_groups[-1]["params"][-2:] if p.grad is not None]
                size = math.hypot(*norms(last))
                self.left[key] = math.inf if math.isnan(size) else size

    def of(self, optimizers: Iterable[int]) -> float:
        """The norm of what was left, of the one with the most; 0 where each has had them empty."""
        return max((self.left.get(key, 0.0) for key in optimizers), default=0.0)


def found_between(sample: Sample, dtype: str, optimizer: str) -> list[Finding]:
    """What is to be said of a sampled step; ``dtype``: the number type of the weights."""
    both = (
        _wiped(sample, dtype, optimizer),
        _added_up(optimizer, sample.added_up) if sample.added_up and sample.step else None,
    )
    return [each for each in both if each is not None]


def _added_up(optimizer: str, left: float) -> Finding:
    event = EVENTS[ADDED_UP]
    return Finding(
        code=ADDED_UP, verdict=event.verdict, level=event.level, cause="between step and backward",
        message="when the backward pass begins, the gradient of the step before is still there, and the new one is"
        f" added to it: {optimizer} steps with the sum of all of them. Call zero_grad() once in each step.",
        evidence=(Evidence(name="norm of the last two gradients when a backward pass begins", value=left),),
    )  # fmt: skip


def _wiped(sample: Sample, dtype: str, optimizer: str) -> Finding | None:
    """A step in which every gradient is exactly zero or missing, though the backward pass left one."""
    left = sample.series.get("log10_grad_norm", math.nan)
    if not math.isfinite(left) or sample.series.get("log10_grad_norm_clipped") != -math.inf:
        return None
    event = EVENTS[WIPED]
    if left > _largest_norm(dtype):
        why = f"something takes it away, as clip_grad_norm_ does: it finds this norm infinite in {dtype}, and divides"
    else:
        why = "something between backward() and step() takes it away, as zero_grad() does in that place"
    return Finding(
        code=WIPED, verdict=event.verdict, level=event.level, cause="between backward and step",
        message=f"the backward pass left a gradient with a norm of {factor(left)}, and {optimizer} steps without any:"
        f" {why}. No step knows of the loss.",
        evidence=(
            Evidence(name="log10 of the gradient norm after the backward pass", value=left),
            Evidence(name="gradient norm when the optimizer steps", value=0.0),
        ),
    )  # fmt: skip


def _largest_norm(dtype: str) -> float:
    """log10 of the largest norm that torch finds finite: the squares are added up, those of float16 in float32."""
    return LARGEST.get(dtype, math.inf) / (1.0 if dtype == "float16" else 2.0)
