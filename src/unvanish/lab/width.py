"""One weight and its whole layer: the error spread over many weights is not an error that vanished."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, experiment
from unvanish.population.elementwise import module_of
from unvanish.population.threads import one_thread
from unvanish.records import UnvanishError
from unvanish.theory import activation
from unvanish.theory.meanfield import critical

INPUTS, BATCH = 16, 64
PHIS = ("tanh", "relu")
SLOPE_WITHIN = 0.1
"""How far a fitted power of the width may lie from the one expected."""
FITTED_FROM, FITTED_NETWORKS = 4, 10
"""Fewer widths, or networks, than this give no power worth checking."""

SETTINGS = (
    Parameter("widths", (16, 32, 64, 128, 256, 512), "units a hidden layer", 2, 2_048, "units", log=True, most=12),
    Parameter("depth", 4, "layers, the output's among them", 2, 30, "layers"),
    Parameter("activation", "tanh", "φ", choices=PHIS),
    Parameter("networks", 12, "networks of each width", 1, 200),
    Parameter("seed", 0, "of the networks and the data", 0, 2**31 - 1),
)
COLUMNS = (
    Column("width", "units"),
    Column("weights", help="in the first layer"),
    Column("log10_one_weight", "log10", "root mean square gradient of one weight of the first layer"),
    Column("log10_layer", "log10", "norm of the gradient of the whole first layer"),
    Column("log10_signal", "log10", "error signal that reaches the first layer, per sample"),
    Column("log10_one_hidden", "log10", "root mean square gradient of one weight between hidden layers"),
)


@experiment(
    "width",
    title="One weight and its layer",
    question="Does the gradient of one weight say how fast its layer learns?",
    sources=("002",),
    settings=SETTINGS,
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """The same task for networks of growing width, initialised so that the gradient holds at every width.

    The gradient of one weight falls like 1/√n, for n weights share the error; the norm over the layer does not fall.
    """
    widths = [round(width) for width in s.widths]
    if len(set(widths)) < len(widths):
        raise UnvanishError("lab width: widths names one width twice; give each once, such as 8,16,32")
    rows: list[dict[str, Any]] = []
    for place, width in enumerate(sorted(widths)):
        progress(place / len(widths), f"width {width:,}")
        rows.append(_row(width, s))
    if len(rows) == 1:
        return Outcome(sentence="One width alone says nothing; give at least two.", columns=COLUMNS, rows=tuple(rows))
    one, layer = (_power(rows, column) for column in ("log10_one_weight", "log10_layer"))
    first, last = rows[0], rows[-1]
    return Outcome(
        sentence=(
            f"From width {first['width']:,} to {last['width']:,} the gradient of one weight of the first layer is"
            f" multiplied by {10 ** (last['log10_one_weight'] - first['log10_one_weight']):.3g}, that of the whole"
            f" layer by {10 ** (last['log10_layer'] - first['log10_layer']):.3g}."
        ),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_picture(rows),),
        checks=_checks(rows, one, layer, s),
        notes=(f"As a power of the width: one weight {one:+.3f}, the whole layer {layer:+.3f}.",),
    )


def _row(width: int, s: Settings) -> dict[str, Any]:
    """Means over networks of the logarithms that the tool's own check measures."""
    from unvanish import diagnose

    reports = [diagnose(_problem(width, s, network), effort="quick") for network in range(s.networks)]

    def mean(place: int, column: str, share: float) -> float:
        return sum(getattr(report.layers[place], column) for report in reports) / len(reports) - share

    weights, between = INPUTS * width, width * width
    return {
        "width": width,
        "weights": weights,
        "log10_one_weight": mean(0, "log10_grad_norm", 0.5 * math.log10(weights)),
        "log10_layer": mean(0, "log10_grad_norm", 0.0),
        "log10_signal": mean(0, "log10_signal", 0.0),
        "log10_one_hidden": mean(1, "log10_grad_norm", 0.5 * math.log10(between)) if s.depth > 2 else None,
    }


def _problem(width: int, s: Settings, network: int) -> Any:
    """One output, a mean squared error against random targets, the critical weights for unit pre-activations."""
    import torch
    from torch import nn

    from unvanish import Problem

    generator = torch.Generator().manual_seed(1_000 * s.seed + network)
    variance = critical(activation(s.activation), 1.0).sigma_w2
    layers: list[nn.Module] = []
    for place in range(s.depth):
        inputs, outputs = width if place else INPUTS, 1 if place == s.depth - 1 else width
        linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(linear.weight, 0.0, math.sqrt((variance if place else 1.0) / inputs), generator)
        layers += [linear, module_of(s.activation)] if place < s.depth - 1 else [linear]
    data = torch.randn(BATCH, INPUTS, generator=generator)
    targets = torch.randn(BATCH, 1, generator=generator)
    return Problem(nn.Sequential(*layers), data, targets, nn.functional.mse_loss)


def _power(rows: list[dict[str, Any]], column: str) -> float:
    """The slope of a straight line through log10 width and log10 value, by least squares."""
    xs, ys = [math.log10(row["width"]) for row in rows], [row[column] for row in rows]
    middle = sum(xs) / len(xs)
    return sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs)


def _checks(rows: list[dict[str, Any]], one: float, layer: float, s: Settings) -> tuple[Check, ...]:
    apart = max(abs(row["log10_layer"] - row["log10_one_weight"] - 0.5 * math.log10(row["weights"])) for row in rows)
    checks = [Check("layer over one weight: √(number of weights), log10 off by", 0.0, apart, apart < 1e-9)]
    if len(rows) >= FITTED_FROM and s.networks >= FITTED_NETWORKS and s.depth <= 5:
        checks.append(Check("power of the width, one weight", -0.5, one, abs(one + 0.5) < SLOPE_WITHIN))
        checks.append(Check("power of the width, whole layer", 0.0, layer, abs(layer) < SLOPE_WITHIN))
    return tuple(checks)


def _picture(rows: list[dict[str, Any]]) -> Drawing:
    lines = {"whole layer": "log10_layer", "one weight": "log10_one_weight"}
    return Drawing.of(
        "speeds",
        "The gradient of one weight and of its layer",
        "Two lines over the width: that of one weight falls, that of the whole layer does not.",
        [row["width"] for row in rows],
        list(lines),
        [[row[column] for row in rows] for column in lines.values()],
        quantity="size of the gradient",
        across="units per layer",
    )
