"""A gradient that the backward pass left, and that is gone when the optimizer steps. Needs no torch."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Finding
from unvanish.rules.events import EVENTS
from unvanish.rules.wording import factor
from unvanish.watching.sample import Sample
from unvanish.words.numbers import LARGEST

CODE = "UV810"


def wiped(sample: Sample, dtype: str, optimizer: str) -> Finding | None:
    """What is to be said of a step in which every gradient is exactly zero or missing, though there had been one.

    ``dtype``: the number type of the weights, in which torch computes the norm that it clips to.
    """
    left = sample.series.get("log10_grad_norm", math.nan)
    if not math.isfinite(left) or sample.series.get("log10_grad_norm_clipped") != -math.inf:
        return None
    event = EVENTS[CODE]
    if left > _largest_norm(dtype):
        why = f"clip_grad_norm_ finds this norm infinite, as it computes it in {dtype}, and divides by it"
    else:
        why = "something between backward() and step() takes it away, as zero_grad() does in that place"
    return Finding(
        code=CODE, verdict=event.verdict, level=event.level, cause="between backward and step",
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
