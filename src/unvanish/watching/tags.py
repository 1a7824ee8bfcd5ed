"""What a logger is told of a sampled step: about ten numbers of the whole, and those of the layers where asked for.

Needs no torch. Sizes are sent as logarithms, since some loggers keep float32, in which 1e-300 is 0. What was not
measured is left out. −inf, an exact zero, is counted by ``unvanish/zero_layers``, and is neither lowest nor highest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from unvanish.records import UnvanishError
from unvanish.watching.sample import FIELDS, Column, Sample

PREFIX = "unvanish"

TAGS = {
    "loss": "what the optimizer lowers: the sum of the losses that were run backward before its step",
    "learning_rate": "the largest of all parameter groups",
    "grad_norm_log10": "of the whole model, before clipping",
    "grad_norm_clipped_log10": "of the whole model, as the optimizer saw it",
    "loss_scale": "of a GradScaler; only where there is one",
    "min_signal_log10": "the lowest error signal of a layer",
    "max_signal_log10": "the highest",
    "min_update_log10": "the smallest update of a layer, relative to its weights",
    "max_saturated_fraction": "of the layer with the most saturated entries",
    "max_dead_fraction": "of the layer with the most units that are off for the whole batch",
    "zero_layers": "how many layers have a gradient of exactly zero",
    "nonfinite_layers": "how many layers have a gradient with a number that is not finite",
    "findings": "how many findings hold at this step",
}
"""Each tag, behind ``unvanish/``, and what it is."""

SERIES = {"loss": "loss", "learning_rate": "learning_rate", "log10_grad_norm": "grad_norm_log10",
          "log10_grad_norm_clipped": "grad_norm_clipped_log10", "loss_scale": "loss_scale"}  # fmt: skip

RATIO = "update_to_weight_ratio"


def of_the_step(sample: Sample, findings: int) -> dict[str, float]:
    """The numbers of the whole step, by tag; finite, or ±inf; none is NaN."""
    found = {tag: sample.series.get(name, math.nan) for name, tag in SERIES.items()}
    columns = {name: [row[at] for row in sample.rows.values()] for at, name in enumerate(FIELDS)}
    signals = [value for value in columns["log10_signal"] if math.isfinite(value)]
    moves = [math.log10(value) for value in columns[RATIO] if value > 0.0]
    found |= {
        "min_signal_log10": min(signals, default=math.nan),
        "max_signal_log10": max(signals, default=math.nan),
        "min_update_log10": min(moves, default=math.nan),
        "max_saturated_fraction": _highest(columns["saturated_fraction"]),
        "max_dead_fraction": _highest(columns["dead_fraction"]),
        "zero_layers": float(sum(value == -math.inf for value in columns["log10_grad_norm"])),
        "nonfinite_layers": float(sum(value == math.inf for value in columns["log10_grad_norm"])),
        "findings": float(findings),
    }
    return {f"{PREFIX}/{tag}": found[tag] for tag in TAGS if not math.isnan(found[tag])}


def of_the_layers(sample: Sample, columns: Sequence[Column], fields: Sequence[str]) -> dict[str, float]:
    """These fields of every layer, by tag; the ratio of update to weights as its logarithm."""
    names = accepted([column.name for column in columns])
    found: dict[str, float] = {}
    for at, row in sample.rows.items():
        for field in fields:
            value, name = row[FIELDS.index(field)], field
            if field == RATIO:
                value, name = (
                    -math.inf if value == 0.0 else math.log10(value) if value > 0.0 else value,
                    f"log10_{field}",
                )
            if not math.isnan(value):
                found[f"{PREFIX}/layers/{names[at]}/{name}"] = value
    return found


def accepted(names: Iterable[str]) -> list[str]:
    """Names that every logger takes, each another one: "a#2" is refused by MLflow, with all that is sent beside it."""
    made: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "model"
        found, more = plain, 2
        while found in taken:
            found, more = f"{plain}-{more}", more + 1
        taken.add(found)
        made.append(found)
    return made


def known_fields(fields: Sequence[str] | str) -> tuple[str, ...]:
    """The fields of a layer that are to be logged; UnvanishError for one that there is not."""
    wanted = (fields,) if isinstance(fields, str) else tuple(fields)
    if unknown := [each for each in wanted if each not in FIELDS]:
        raise UnvanishError(f"watch(log_layers) does not know {unknown[0]!r}; a layer has {', '.join(FIELDS)}")
    return wanted


def _highest(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
