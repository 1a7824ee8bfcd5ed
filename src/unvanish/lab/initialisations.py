"""``unvanish theory``: the common initialisations of one activation, predicted and measured."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab import Column, Outcome, Parameter
from unvanish.lab.phase import COLUMNS, DEPTH, SETTINGS, measured_gain, notes_on, phase_of, saturated_at
from unvanish.population.threads import one_thread
from unvanish.records import UnvanishError
from unvanish.theory import Activation, activation
from unvanish.theory.meanfield import critical, critical_everywhere, critical_with_bias, fixed_point, moments
from unvanish.words.numbers import exactly

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
    *COLUMNS[1:4],
    COLUMNS[6],
    Column(
        "log10_gain", "log10", "what the gradient's norm is multiplied by on its way back: predicted, layer by layer"
    ),
    Column(
        "log10_measured", "log10", "the same of random networks, from the error signal at their first and last layers"
    ),
    *COLUMNS[8:],
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
        notes=(*notes_on(phi), *((f"Networks of {depth:,} layers are not measured.",) if too_deep else ())),
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
    choices = [(title, w, 1 / (3 * fan_in) if b is None else b) for title, w, b in INITIALISATIONS]
    one = critical(phi, 1.0)
    if one.feasible:
        choices.append(("critical at variance 1", one.sigma_w2, max(one.sigma_b2, 0.0)))
    choices += [("critical without biases", each.sigma_w2, 0.0) for each in critical_with_bias(phi, 0.0)]
    if weight is not None:
        choices.append(("the variances asked for", weight, bias))
    elif bias:
        choices += [
            ("critical with the biases asked for", each.sigma_w2, bias) for each in critical_with_bias(phi, bias)
        ]
    return choices


def _page_row(
    phi: Activation, title: str, weight: float, bias: float, depth: int, width: int, networks: int
) -> dict[str, Any]:
    point = fixed_point(phi, weight, bias)
    measured = None
    if width:
        gain = measured_gain(phi.name, point, depth=depth, width=width, networks=networks, seed=0, start=1.0)
        measured = gain * (depth - 1) / 2
    values = (
        title, weight, bias, point.q, point.q_slope, point.chi1, point.depth_scale,
        predicted_gain(phi, weight, bias, depth), measured, saturated_at(phi, point), phase_of(point),
    )  # fmt: skip
    return dict(zip((column.name for column in PAGE_COLUMNS), values, strict=True))


def predicted_gain(phi: Activation, sigma_w2: float, sigma_b2: float, depth: int) -> float:
    """log10 of what the gradient's norm is multiplied by from the last of ``depth`` layers to the first.

    The variance goes its way from 1, that of the pre-activations before the first layer; every layer has its own χ₁.
    """
    q, total = sigma_w2 * moments(phi, 1.0).square + sigma_b2, 0.0
    for _ in range(depth - 1):
        if not 0 < q < math.inf:
            return math.nan
        here = moments(phi, q)
        total += 0.5 * math.log10(sigma_w2 * here.slope_square)
        q = sigma_w2 * here.square + sigma_b2
    return total
