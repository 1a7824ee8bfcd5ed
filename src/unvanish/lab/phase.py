"""Where a wide random network loses the gradient: the phase diagram of an activation, predicted and measured."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Preset, Progress, Settings, experiment
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
    moments,
    saturation,
)
from unvanish.words.numbers import exactly

TRAINABLE = 6.0
"""Depth scales over which plain networks could still be trained. Source: Schoenholz et al. 2017, section 5."""
BATCH = 16
CRITICAL_WITHIN = 0.01
MOST_SAID = 600.0
"""Layers; χ₁ within 1 % of 1 means at least so many depth scales times 6, and is not known better in a real network."""
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
    Column("measured", help="χ₁ of random networks, from the error signal of the tool's own check"),
    Column("difference", "%", "measured over predicted, less 1"),
    Column("depth_scale", "layers", "ξ = 1/|ln χ₁|"),
    Column("trainable", "layers", "about 6 ξ: how deep a plain network could still be trained"),
    Column("saturated", help="share of pre-activations with a slope below 1 % of the largest"),
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
        pictures=(_diagram(phi, s),),
        checks=_checks(rows, s),
        notes=(*_notes(phi), *_reach(rows)),
    )


def measured_gain(
    phi: str, found: FixedPoint, *, depth: int, width: int, networks: int, seed: int, start: float | None = None
) -> float:
    """log10 of what one layer multiplies the squared error signal by, the mean over random networks, by the check.

    The networks start from pre-activations of variance ``start``, by default that of the fixed point.
    """
    import torch
    from torch import nn

    from unvanish import Problem, diagnose

    class Apply(nn.Module):
        def forward(self, x: Any) -> Any:
            return functions()[phi](x)

    from unvanish.lab.activations import functions

    q = start if start is not None else found.q if 0 < found.q < math.inf else _limit_start(found)
    steps: list[float] = []
    for network in range(networks):
        generator = torch.Generator().manual_seed(seed * 1_000 + network)
        layers: list[nn.Module] = []
        for _ in range(depth):
            linear = nn.Linear(width, width)
            nn.init.normal_(linear.weight, 0.0, math.sqrt(found.sigma_w2 / width), generator)
            nn.init.normal_(linear.bias, 0.0, math.sqrt(found.sigma_b2), generator)
            layers += [Apply(), linear]
        inputs = math.sqrt(q) * torch.randn(BATCH, width, generator=generator)
        aim = torch.randn(BATCH, width, generator=generator)
        problem = Problem(nn.Sequential(*layers), inputs, aim, lambda outputs, aim: (outputs * aim).sum(1).mean())
        signals = [layer.log10_signal for layer in diagnose(problem, effort="quick").layers]
        if signals[0] is None or signals[-1] is None:
            return math.nan
        steps.append(2 * (signals[0] - signals[-1]) / (depth - 1))
    return sum(steps) / len(steps)


def _limit_start(found: FixedPoint) -> float:
    """Where to start a network whose variance has no rest: near 0 where it dies out, at 1 where it grows."""
    return GROWING_START if found.q else COLLAPSED_START


def _row(phi: Activation, found: FixedPoint, s: Settings) -> dict[str, Any]:
    measured = difference = None
    if s.width:
        gain = measured_gain(phi.name, found, depth=s.depth, width=s.width, networks=s.networks, seed=s.seed)
        measured = 10**gain
        difference = 100 * (measured / found.chi1 - 1) if found.chi1 else None
    values = (
        found.sigma_w2, found.q, found.q_slope, found.chi1, measured, difference, found.depth_scale,
        TRAINABLE * found.depth_scale, saturated_at(phi, found), phase_of(found),
    )  # fmt: skip
    return dict(zip((column.name for column in COLUMNS), values, strict=True))


def saturated_at(phi: Activation, found: FixedPoint) -> float | None:
    """The share of saturated pre-activations at a fixed point; None where the variance grows without end."""
    return round(saturation(phi, max(found.q, 1e-12)), 6) if found.q < math.inf else None


def phase_of(found: FixedPoint) -> str:
    """ "vanishing", "critical" (within 1 %) or "exploding"; and whether the forward pass explodes."""
    word = "vanishing" if found.chi1 < 1 else "exploding"
    word = "critical" if abs(found.chi1 - 1) <= CRITICAL_WITHIN else word
    return f"{word}, activations grow" if found.q == math.inf else word


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


def _notes(phi: Activation) -> tuple[str, ...]:
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


def _checks(rows: list[dict[str, Any]], s: Settings) -> tuple[Check, ...]:
    if s.width < LEAST_WIDTH_CHECKED:
        return ()
    # between networks log χ₁ scatters by about √(moment ratio / (width · depth)); 10 % is three times that at width 100
    off = sorted(abs(row["difference"]) for row in rows if row["difference"] is not None and math.isfinite(row["q"]))
    middle = off[len(off) // 2] if off else 0.0
    return (Check("median difference between networks and prediction, in %", "at most 10", middle, middle <= 10.0),)


def _diagram(phi: Activation, s: Settings) -> Drawing:
    import numpy as np

    lines = critical_with_bias(phi, s.bias_variance)
    widest = max(*s.weight_variance, *(line.sigma_w2 for line in lines), 1.0) * 1.1
    tallest = max(4 * s.bias_variance, 0.1 * widest)
    weights, biases = np.linspace(widest / 100, widest, GRID[0]), np.linspace(0, tallest, GRID[1])
    chi = grid_chi1(phi, weights, biases)
    line = [critical(phi, q) for q in np.geomspace(1e-4, 1e3, 200).tolist()]
    inside = [
        (c.sigma_w2, max(c.sigma_b2, 0.0))
        for c in line
        if c.feasible and c.sigma_w2 <= widest and c.sigma_b2 <= tallest
    ]
    points = [(w, s.bias_variance, f"{w:g}") for w in s.weight_variance]
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


INITIALISATIONS = (
    ("torch's default Linear", 1 / 3, None),
    ("LeCun, or Xavier between equal widths", 1.0, 0.0),
    ("He", 2.0, 0.0),
    ("N(0, 1/fan-in) weights, N(0, 1) biases", 1.0, 1.0),
)
"""Name, σ_w², σ_b². The biases of torch's Linear have variance 1 / (3 · fan-in)."""
PAGE_COLUMNS = (
    Column("initialisation"),
    Column("weight_variance", help="σ_w²: fan-in times the variance of the weights"),
    Column("bias_variance", help="σ_b²"),
    *COLUMNS[1:3],
    COLUMNS[3],
    COLUMNS[6],
    Column(
        "log10_gain", "log10", "what the gradient's norm is multiplied by on its way back: predicted, layer by layer"
    ),
    Column("log10_measured", "log10", "the same of random networks, by the tool's own check"),
    COLUMNS[8],
    COLUMNS[9],
)


@one_thread()
def theory_page(
    name: str,
    depth: int = 20,
    weight_variance: float | None = None,
    bias_variance: float | None = None,
    width: int = 256,
    networks: int = 3,
) -> Outcome:
    """What mean-field theory says about an activation, for the common initialisations and one of the user's.

    ``width`` and ``networks``: the random networks that are measured beside the prediction, as far as they are not
    deeper than such networks are measured (200 layers); width 0 measures nothing. Inputs have variance 1. Raises
    UnvanishError for values out of range.
    """
    phi = activation(name)
    if bias_variance is not None and weight_variance is None:
        raise UnvanishError(f"theory: a bias variance of {bias_variance!r} needs a weight variance beside it")
    bias_variance = bias_variance or 0.0
    by_name = {parameter.name: parameter for parameter in SETTINGS}
    too_deep = width > 0 and depth > (by_name["depth"].high or 0)
    width = 0 if too_deep else width
    given = {"depth": depth, "bias_variance": bias_variance, "width": width, "networks": networks}
    for key, value in given.items():
        _within(DEPTH if key == "depth" else by_name[key], value)
    if weight_variance is not None:
        _within(by_name["weight_variance"], weight_variance)
    rows = [
        _page_row(phi, title, weight, bias, depth, width, networks)
        for title, weight, bias in _initialisations(phi, weight_variance, bias_variance, width)
    ]
    return Outcome(
        experiment="theory",
        title=f"{phi.name} in the mean",
        settings={"activation": name, "weight_variance": weight_variance, **given},
        sentence=_page_sentence(phi, depth, rows[-1] if weight_variance is not None else rows[0]),
        columns=PAGE_COLUMNS,
        rows=tuple(rows),
        notes=(*_notes(phi), *((f"Networks of {depth:,} layers are not measured.",) if too_deep else ())),
    )


def _page_sentence(phi: Activation, depth: int, row: dict[str, Any]) -> str:
    """One initialisation in words, and the nearest thing to a cure: a variance that holds the gradient."""
    said = (
        f"Through {depth:,} layers of {phi.name} with {row['initialisation']} the gradient's norm is multiplied by"
        f" {exactly(row['log10_gain'])} (χ₁ = {row['chi1']:.6g}, {row['phase']})"
    )
    if critical_everywhere(phi):
        return f"{said}; σ_w² = {critical(phi, 1.0).sigma_w2:.6g} without biases holds it."
    roots = critical_with_bias(phi, 0.0)
    if roots:
        return f"{said}; without biases σ_w² = {roots[0].sigma_w2:.6g} holds it, at variance {roots[0].q:.6g}."
    one = critical(phi, 1.0)
    if not one.feasible:
        return f"{said}; no variances hold it."
    kept = "" if one.q_slope < 1 else ", though the variance does not stay there"
    return f"{said}; σ_w² = {one.sigma_w2:.6g} with σ_b² = {max(one.sigma_b2, 0):.6g} holds it at variance 1{kept}."


def _within(parameter: Parameter, value: Any) -> None:
    try:
        parameter.check(value)
    except UnvanishError as error:
        raise UnvanishError(f"theory: {error}") from None


def _initialisations(phi: Activation, weight: float | None, bias: float, width: int) -> list[tuple[str, float, float]]:
    fan_in = width or 256
    found = [(title, w, 1 / (3 * fan_in) if b is None else b) for title, w, b in INITIALISATIONS]
    one = critical(phi, 1.0)
    if one.feasible:
        found.append(("critical at variance 1", one.sigma_w2, max(one.sigma_b2, 0.0)))
    found += [("critical without biases", each.sigma_w2, 0.0) for each in critical_with_bias(phi, 0.0)]
    if weight is not None:
        found.append(("the variances asked for", weight, bias))
    elif bias:
        found += [("critical with the biases asked for", each.sigma_w2, bias) for each in critical_with_bias(phi, bias)]
    return found


def _page_row(
    phi: Activation, title: str, weight: float, bias: float, depth: int, width: int, networks: int
) -> dict[str, Any]:
    found = fixed_point(phi, weight, bias)
    measured = None
    if width:
        gain = measured_gain(phi.name, found, depth=depth, width=width, networks=networks, seed=0, start=1.0)
        measured = gain * (depth - 1) / 2
    values = (
        title, weight, bias, found.q, found.q_slope, found.chi1, found.depth_scale,
        predicted_gain(phi, weight, bias, depth), measured, saturated_at(phi, found), phase_of(found),
    )  # fmt: skip
    return dict(zip((column.name for column in PAGE_COLUMNS), values, strict=True))


def predicted_gain(phi: Activation, sigma_w2: float, sigma_b2: float, depth: int, start: float = 1.0) -> float:
    """log10 of what the gradient's norm is multiplied by from the last of ``depth`` layers to the first.

    The variance goes its way from ``start``, the pre-activations before the first layer; every layer has its own χ₁.
    """
    q, total = sigma_w2 * moments(phi, start).square + sigma_b2, 0.0
    for _ in range(depth - 1):
        if not 0 < q < math.inf:
            return math.nan
        here = moments(phi, q)
        total += 0.5 * math.log10(sigma_w2 * here.slope_square)
        q = sigma_w2 * here.square + sigma_b2
    return total
