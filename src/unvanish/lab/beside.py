"""A chain beside itself with one thing changed: how much of the error at the output each lets through to layer 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from unvanish.lab.outcome import Drawing
from unvanish.lab.parameters import Settings
from unvanish.theory import Chain
from unvanish.theory.products import log10_rms
from unvanish.theory.wide import Layers

MOST = 10_000
"""Layers times inputs, or weights; with more, every run would take several times as long for the sake of a picture."""
PLAIN: dict[str, Any] = {"weight": (1.0,), "bias": 0.0, "noise": 0.0, "residual": False}
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tanh, weight 1, bias 0", {**PLAIN, "activation": "tanh"}),
    ("relu, weight 1, bias 0", {**PLAIN, "activation": "relu"}),
    ("sigmoid, weight 4, bias −2", {**PLAIN, "activation": "sigmoid", "weight": (4.0,), "bias": -2.0}),
    ("a residual connection", {"residual": True}),
)
UNIT = "powers of ten away from all of it (0: all of it)"


def beside(s: Settings, made: Chain | Layers, make: Callable[[Settings], Chain | Layers]) -> Drawing | None:
    """The picture, or None where there is no error at the output or too much to work out. ``make`` runs settings."""
    own = share(made)
    if not math.isfinite(own) or s.depth * len(s.input) * s.width**2 > MOST:
        return None
    shares = {"as it is": own, "clipping or Adagrad": own}
    half = s.depth // 2
    changes = [*CHANGES, (f"half the depth: {half}", {"depth": half, "weight": s.weight[:half]})] if half else CHANGES
    for name, change in changes:
        shares[name] = share(make(Settings({**s, **change})))
    rows = [
        {"name": name, "score": -abs(value), "low": -abs(value), "high": -abs(value), "gain": value,
         "baseline": name == "as it is"}
        for name, value in shares.items()
        if math.isfinite(value)
    ]  # fmt: skip
    return Drawing.of(
        "remedies",
        "The same chain with one thing changed",
        "For each change the share of the error at the output that reaches layer 1, in powers of ten away from all of"
        " it. Clipping and Adagrad rescale a step of the optimizer; the error signal they get is the same.",
        rows,
        as_is=-abs(own),
        unit=UNIT,
        gains="reaches layer 1",
    )


def share(made: Chain | Layers) -> float:
    """log10 of the error signal at layer 1 over ∂C/∂a at the output, root mean squares over inputs."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(made.log10_signal[0] - log10_rms(np.log10(np.abs(made.error))))
