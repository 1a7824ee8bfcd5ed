"""Every activation beside its slope, and where on it the pre-activations of a network lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, experiment
from unvanish.records import UnvanishError
from unvanish.theory import activation, activations
from unvanish.words.activations import ENTRIES

BY_DEFAULT = ("sigmoid", "tanh", "relu", "leaky_relu_0.01", "elu", "gelu", "silu", "softplus", "hardtanh")
GRID = (-5.0, 5.0, 201)
FINE = (-40.0, 40.0, 80_001)
APPROACHED = 20.0
"""A largest slope found only beyond this is a limit, not a maximum."""
BINS = 60
FLAT = 0.01
"""A slope below this share of the largest one counts as saturated, as in the check of a network."""

SETTINGS = (
    Parameter("names", "common", "activations with commas between, or common, or all"),
    Parameter("mean", 0.0, "mean of the pre-activations", -50, 50),
    Parameter("deviation", 1.0, "standard deviation of the pre-activations", 0.001, 100, log=True),
    Parameter("samples", 10_000, "pre-activations drawn", 100, 1_000_000, log=True),
    Parameter("seed", 0, "of the pre-activations", 0, 2**31 - 1),
)
COLUMNS = (
    Column("name"),
    Column("largest_slope", help="the largest |φ′|"),
    Column("at", help="the z where it is reached, the one nearest to 0; – where it is only approached"),
    Column("mean_slope", help="of |φ′| over the pre-activations"),
    Column(
        "log10_twenty", "log10", "product of the slopes of 20 layers: the typical slope, exp E ln |φ′|, to the 20th"
    ),
    Column("saturated", help="share of pre-activations where |φ′| is below 1% of its largest"),
    Column("dead", help="share of pre-activations where φ′ is exactly 0"),
)


@experiment(
    "activations",
    title="Activations and their slopes",
    question="How much of the gradient can one activation pass on?",
    sources=("001", "003", "004"),
    settings=SETTINGS,
    pace="live",
)
def run(s: Settings, progress: Progress) -> Outcome:
    """φ and φ′ side by side for every element-wise activation of torch, with normal pre-activations under the slope.

    The values and slopes are torch's own, in float64 by its autograd; those the package also has without torch are
    compared with them.
    """
    import numpy as np

    known = functions()
    names = _names(s.names, tuple(known))
    z = s.mean + s.deviation * np.random.default_rng(s.seed).standard_normal(s.samples)
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(names):
        progress(place / len(names), name)
        rows.append(_row(name, known[name], z))
    steepest, flattest = (choose(rows, key=lambda row: row["mean_slope"]) for choose in (max, min))
    spread = f"pre-activations of mean {s.mean:g} and deviation {s.deviation:g}"
    return Outcome(
        sentence=(
            f"A sigmoid passes on at most 0.25 of the gradient, at z = 0. With {spread} the mean slope runs from"
            f" {flattest['mean_slope']:.3g} ({flattest['name']}) to {steepest['mean_slope']:.3g} ({steepest['name']})."
        ),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_picture(names, known, z),),
        checks=_checks(known),
        notes=(
            "A grid of 100 points from −5 to 5 misses the top of the sigmoid's slope:"
            f" it finds {coarse_maximum():.6f}, not 0.25.",
        ),
    )


def functions() -> dict[str, Callable[[Any], Any]]:
    """Every element-wise activation of torch that has no random part, by name, with its default settings."""
    from unvanish.population.elementwise import function_of

    return {known.name: function_of(known.name) for known in ENTRIES}


def slopes(function: Callable[[Any], Any], z: Any) -> tuple[Any, Any]:
    """φ(z) and φ′(z) in float64, the slope by autograd."""
    import torch

    with torch.enable_grad():
        x = torch.as_tensor(z, dtype=torch.float64).clone().requires_grad_(True)
        y = function(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach().numpy(), slope.numpy()


def coarse_maximum() -> float:
    """The largest σ′ on 100 points from −5 to 5, as source 001 plots it."""
    import numpy as np

    return float(activation("sigmoid").slope(np.linspace(-5, 5, 100)).max())


def _names(wanted: str, known: tuple[str, ...]) -> tuple[str, ...]:
    from unvanish.lab.parameters import nearest

    if wanted in ("common", "all"):
        return BY_DEFAULT if wanted == "common" else known
    names = tuple(part.strip() for part in wanted.split(","))
    for name in names:
        if name not in known:
            raise UnvanishError(f"lab activations: there is no activation {name!r}{nearest(name, known)}")
    return tuple(dict.fromkeys(names))


def _row(name: str, function: Callable[[Any], Any], z: Any) -> dict[str, Any]:
    import numpy as np

    grid = np.linspace(*FINE)
    over, (_, derivatives) = np.abs(slopes(function, grid)[1]), slopes(function, z)
    size, largest = np.abs(derivatives), float(over.max())
    tops = grid[over >= largest * (1 - 1e-12)]
    top = round(float(tops[np.abs(tops).argmin()]), 2) + 0.0
    with np.errstate(divide="ignore"):
        typical = float(np.log10(size).mean())
    values = (
        name, largest, top if abs(top) < APPROACHED else None, float(size.mean()), 20 * typical,
        float((size < FLAT * largest).mean()), float((size == 0).mean()),
    )  # fmt: skip
    return dict(zip((column.name for column in COLUMNS), values, strict=True))


def _checks(known: dict[str, Callable[[Any], Any]]) -> tuple[Check, ...]:
    import numpy as np

    z = np.linspace(-8, 8, 1_601) + 1e-4  # beside the kinks, where either slope is right
    off = 0.0
    for name in activations():
        value, slope = slopes(known[name], z)
        ours = activation(name)
        off = max(off, float(np.abs(value - ours.phi(z)).max()), float(np.abs(slope - ours.slope(z)).max()))
    top = float(activation("sigmoid").slope(np.zeros(1))[0])
    return (
        Check.close("largest slope of the sigmoid, at 0", 0.25, top, 1e-15),
        # torch keeps the 1/6 of hardsigmoid in float32, and makes softplus a straight line above 20
        Check(f"largest difference from torch over {len(activations())} activations", 0.0, off, off < 1e-7),
    )


def _picture(names: tuple[str, ...], known: dict[str, Callable[[Any], Any]], z: Any) -> Drawing:
    import numpy as np

    x = np.linspace(*GRID)
    counts, _ = np.histogram(z, bins=BINS, range=GRID[:2])
    heights = counts / len(z) / ((GRID[1] - GRID[0]) / BINS)
    density = np.interp(x, np.linspace(GRID[0], GRID[1], 2 * BINS + 1)[1::2], heights)
    curves: list[dict[str, Any]] = []
    for name in names:
        value, slope = slopes(known[name], x)
        curve = {"name": name, "x": x.tolist(), "phi": value.tolist(), "slope": slope.tolist()}
        curves.append({**curve, "density": density.tolist()})
    return Drawing.of(
        "activations",
        "Activations, their slopes, and where pre-activations lie",
        "For each activation its curve, its slope, and the distribution of the pre-activations under the slope.",
        curves,
    )
