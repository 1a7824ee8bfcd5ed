"""Where a wide random network loses the gradient: the phase diagram of an activation, predicted and measured."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Preset, Progress, Settings, experiment
from unvanish.lab.swept import held, refuse_others, swept
from unvanish.population.names import NAMES
from unvanish.population.summary import TRAINABLE
from unvanish.population.threads import one_thread
from unvanish.records import UnvanishError
from unvanish.theory import Activation, activation, activations
from unvanish.theory.meanfield import (
    Critical,
    FixedPoint,
    critical,
    critical_everywhere,
    critical_with_bias,
    fixed_point,
    grid_chi1,
    saturation,
)

BATCH = 16
CRITICAL_WITHIN = 0.01
MOST_SAID = 600.0
"""Layers; χ₁ within 1% of 1 means at least so many depth scales times 6, and is not known better in a real network."""
COLLAPSED_START, GROWING_START = 1e-4, 1.0
GRID = (41, 31)
LEAST_WIDTH_CHECKED = 100

SETTINGS = (
    Parameter("activation", "tanh", "φ", choices=activations()),
    Parameter(
        "weight_variance", (0.5, 1.0, 1.5, 1.761, 2.0, 2.5, 3.0, 4.0), "σ_w²: fan-in times the variance", 1e-4, 1e4
    ),
    Parameter("bias_variance", 0.05, "σ_b²", 0, 1e4),
    Parameter("depth", 20, "layers of the measured networks", 4, 200, "layers", log=True),
    Parameter("width", 256, "units a layer of the measured networks; 0 measures nothing", 0, 1_024, "units", log=True),
    Parameter("networks", 3, "measured networks at each setting", 1, 50),
    Parameter("seed", 0, "of the measured networks", 0, 2**31 - 1),
    Parameter("sweep", "", "the .sqlite file of a sweep over weight_variance, to be shown instead", local=True),
)
PRESETS = (
    Preset("relu", "ReLU without biases", {"activation": "relu", "bias_variance": 0.0, "weight_variance": (1, 2, 3)}),
    Preset(
        "sigmoid",
        "A sigmoid needs weights a hundred times larger",
        {"activation": "sigmoid", "bias_variance": 0.0, "weight_variance": (1, 10, 50, 103.0, 200)},
    ),
)
DEPTH = Parameter("depth", 20, "layers that are predicted", 1, 100_000, "layers")
COLUMNS = (
    Column("weight_variance", help="σ_w²"),
    Column("q", help="variance of the pre-activations after many layers; 0: it dies out, inf: it grows without end"),
    Column("q_slope", help="of the variance map there; below 1 the variance is stable"),
    Column("chi1", help="χ₁, what one layer multiplies the squared gradient by: predicted"),
    Column("measured", help="χ₁ of random networks, from the error signal at their first and last layers"),
    Column("difference", "%", "measured over predicted, less 1"),
    Column("depth_scale", "layers", "ξ = 1/|ln χ₁|"),
    Column("trainable", "layers", "about 6 ξ: how deep a plain network could still be trained"),
    Column("saturated", help="share of pre-activations with a slope below 1% of the largest"),
    Column("phase", help="vanishing below χ₁ = 1, exploding above"),
)


@experiment(
    "phase",
    title="The phases of a wide network",
    question="Which variances keep the gradient alive, and how deep can a plain network be?",
    settings=SETTINGS,
    presets=PRESETS,
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """χ₁ = σ_w² E φ′(√q u)² at the variance q where σ_w² E φ(√q u)² + σ_b² = q, and the line on which it is 1.

    Source: Poole et al. 2016; Schoenholz et al. 2017.
    """
    if s.sweep:
        return _shown(s)
    phi = activation(s.activation)
    rows: list[dict[str, Any]] = []
    for place, weight in enumerate(s.weight_variance):
        progress(place / len(s.weight_variance), f"σ_w² = {weight:g}")
        rows.append(_row(phi, fixed_point(phi, weight, s.bias_variance), s))
    lines = critical_with_bias(phi, s.bias_variance)
    return Outcome(
        sentence=_sentence(s, phi, lines),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_diagram(phi, [(weight, s.bias_variance) for weight in s.weight_variance]),),
        checks=_checks(rows, s.width),
        notes=(*notes_on(phi), *_reach(rows)),
    )


def _shown(s: Settings) -> Outcome:
    """The networks of a sweep beside the same prediction, from what the sweep measured."""
    refuse_others(s, "phase", ("activation",))
    grid, points, missing = swept(s.sweep, "phase")
    points = [point for point in points if point.settings.get("activation", "tanh") == s.activation]
    plain = [p for p in points if p.settings.get("norm", "none") == "none" and not p.settings.get("skip")]
    if "weight_variance" not in {*grid.names, *grid.fixed} or not plain:
        raise UnvanishError(
            f"lab phase: {s.sweep!r} has no plain networks of {s.activation} with a weight_variance; choose another"
            " activation, or another file"
        )
    phi = activation(s.activation)
    rows: list[dict[str, Any]] = []
    for point in plain:
        weight, bias = float(point.settings["weight_variance"]), float(point.settings.get("bias_variance", 0.0))
        gain = point.mean("log10_gain")
        named = {name: point.settings.get(name, NAMES[name].default) for name in ("bias_variance", "depth", "width")}
        row = _values(phi, fixed_point(phi, weight, bias), None if gain is None else 2 * gain)
        rows.append({"weight_variance": weight, **named, **row})
    shown = [(row["weight_variance"], row["bias_variance"]) for row in rows]
    off = sorted(abs(row["difference"]) for row in rows if row["difference"] is not None and row["q"] < math.inf)
    middle = f"by {off[len(off) // 2]:.3g}% in the middle" if off else "in nothing that can be compared"
    added = (Column("bias_variance", help="σ_b²"), Column("depth", "layers"), Column("width", "units"))
    return Outcome(
        settings={**held(s.sweep, grid, plain), "activation": s.activation},
        sentence=f"{len(rows)} networks of {phi.name} differ {middle} from the prediction for wide ones at rest.",
        columns=(COLUMNS[0], *added, *COLUMNS[1:]),
        rows=tuple(rows),
        pictures=(_diagram(phi, list(dict.fromkeys(shown))),),
        checks=_checks(rows, min(row["width"] for row in rows)),
        notes=tuple(filter(None, (f"The networks are those of {s.sweep}.", *notes_on(phi), *_reach(rows), missing))),
    )


def measured_gain(
    phi: str, point: FixedPoint, *, depth: int, width: int, networks: int, seed: int, start: float | None = None
) -> float:
    """log10 of what one layer multiplies the squared error signal by, the mean over random networks.

    They are those of a sweep, run stacked; they start from pre-activations of variance ``start``, by default that of
    the fixed point. NaN where the outputs of one are not finite.
    """
    import numpy as np
    import torch

    from unvanish.population.elementwise import function_of
    from unvanish.population.shape import Shape
    from unvanish.population.stacked import flows

    q = start if start is not None else point.q if 0 < point.q < math.inf else _limit_start(point)
    before = math.sqrt(q) * torch.randn(BATCH, width, generator=torch.Generator().manual_seed(seed))
    shape = Shape(depth - 1, width, width, width, phi, "gaussian", batch=BATCH)  # the last layer is a linear one
    flow = flows(
        shape,
        np.array([[point.sigma_w2], [point.sigma_b2]]),
        np.zeros(1),
        range(seed * 1_000, seed * 1_000 + networks),
        function_of(phi)(before).numpy(),
    )
    return float(2 * flow.ratio.mean() / (depth - 1)) if flow.finite.all() else math.nan


def _limit_start(point: FixedPoint) -> float:
    """Where to start a network whose variance has no rest: near 0 where it dies out, at 1 where it grows."""
    return GROWING_START if point.q else COLLAPSED_START


def _row(phi: Activation, point: FixedPoint, s: Settings) -> dict[str, Any]:
    gain = None
    if s.width:
        gain = measured_gain(phi.name, point, depth=s.depth, width=s.width, networks=s.networks, seed=s.seed)
    return _values(phi, point, gain)


def _values(phi: Activation, point: FixedPoint, gain: float | None) -> dict[str, Any]:
    """One row; ``gain``: log10 of what a layer of real networks multiplies the squared error signal by."""
    measured = None if gain is None else 10**gain
    difference = 100 * (measured / point.chi1 - 1) if measured is not None and point.chi1 else None
    values = (
        point.sigma_w2, point.q, point.q_slope, point.chi1, measured, difference, point.depth_scale,
        TRAINABLE * point.depth_scale, saturated_at(phi, point), phase_of(point),
    )  # fmt: skip
    return dict(zip((column.name for column in COLUMNS), values, strict=True))


def saturated_at(phi: Activation, point: FixedPoint) -> float | None:
    """The share of saturated pre-activations at a fixed point; None where the variance grows without end."""
    return round(saturation(phi, max(point.q, 1e-12)), 6) if point.q < math.inf else None


def phase_of(point: FixedPoint) -> str:
    """ "vanishing", "critical" (within 1%) or "exploding"; and whether the forward pass explodes."""
    word = "vanishing" if point.chi1 < 1 else "exploding"
    word = "critical" if abs(point.chi1 - 1) <= CRITICAL_WITHIN else word
    return f"{word}, activations grow" if point.q == math.inf else word


def _sentence(s: Settings, phi: Activation, lines: tuple[Critical, ...]) -> str:
    where = f"σ_b² = {s.bias_variance:g}"
    if critical_everywhere(phi) and s.bias_variance == 0:
        weight = critical(phi, 1.0).sigma_w2
        return f"{phi.name} without biases holds the gradient for σ_w² = {weight:.6g}, whatever the inputs' variance."
    if not lines:
        return f"{phi.name} has no initialisation with {where} that holds the gradient at a finite variance."
    best = lines[0]
    unstable = "" if best.q_slope < 1 else ", where the variance itself is not stable"
    return (
        f"{phi.name} with {where} holds the gradient at σ_w² = {best.sigma_w2:.6g}, with pre-activations of variance"
        f" {best.q:.6g}{unstable}; smaller weights make it vanish, larger ones explode."
    )


def notes_on(phi: Activation) -> tuple[str, ...]:
    one = critical(phi, 1.0)
    if not one.feasible:
        return (f"There is no critical initialisation at variance 1: σ_b² would have to be {one.sigma_b2:.4g}.",)
    level = abs(one.q_slope - 1) < 1e-9
    stable = "neither stable nor unstable" if level else "stable" if one.q_slope < 1 else "not stable"
    return (
        f"Critical at variance 1: σ_w² = {one.sigma_w2:.6g}, σ_b² = {round(max(one.sigma_b2, 0.0), 12):.6g};"
        f" the variance is {stable} there (slope {one.q_slope:.4g}).",
    )


def _reach(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """How deep a plain network could be trained with the best of the variances asked for, by a rule of thumb."""
    alive = [row for row in rows if math.isfinite(row["q"]) and row["depth_scale"]]
    if not alive:
        return ()
    best = max(alive, key=lambda row: row["trainable"])
    most = MOST_SAID if best["phase"] == "critical" else best["trainable"]
    depth = f"about {most:,.0f} layers" if most < MOST_SAID else f"more than {MOST_SAID:,.0f} layers"
    return (
        f"The deepest of these that could be trained is the network with σ_w² = {best['weight_variance']:g}, with"
        f" {depth}: predicted by the rule of {TRAINABLE:g} depth scales (Schoenholz et al. 2017), not trained here.",
    )


def _checks(rows: list[dict[str, Any]], width: int) -> tuple[Check, ...]:
    if width < LEAST_WIDTH_CHECKED:
        return ()
    # between networks log χ₁ scatters by about √(moment ratio / (width · depth)); 10% is three times that at width 100
    off = sorted(abs(row["difference"]) for row in rows if row["difference"] is not None and math.isfinite(row["q"]))
    middle = off[len(off) // 2] if off else 0.0
    return (Check("median difference between networks and prediction, in %", "at most 10", middle, middle <= 10.0),)


def _diagram(phi: Activation, shown: list[tuple[float, float]]) -> Drawing:
    """``shown``: σ_w² and σ_b² of each network."""
    import numpy as np

    highest = max(bias for _, bias in shown)
    lines = critical_with_bias(phi, highest)
    widest = max(*(weight for weight, _ in shown), *(line.sigma_w2 for line in lines), 1.0) * 1.1
    tallest = max(4 * highest, 0.1 * widest)
    weights, biases = np.linspace(widest / 100, widest, GRID[0]), np.linspace(0, tallest, GRID[1])
    chi = grid_chi1(phi, weights, biases)
    line = [critical(phi, q) for q in np.geomspace(1e-4, 1e3, 200).tolist()]
    inside = [
        (c.sigma_w2, max(c.sigma_b2, 0.0))
        for c in line
        if c.feasible and c.sigma_w2 <= widest and c.sigma_b2 <= tallest
    ]
    points = [(weight, bias, f"{weight:g}") for weight, bias in shown]
    return Drawing.of(
        "phase",
        f"χ₁ of {phi.name} over the variances of weights and biases",
        "Shades for the factor of the squared gradient a layer, a line where it is 1, a point for each network.",
        weights.tolist(),
        biases.tolist(),
        chi.tolist(),
        sorted(set(inside)),
        points,
    )
