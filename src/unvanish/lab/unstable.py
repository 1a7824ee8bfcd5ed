"""Vanishing, balance, explosion: the gradient of a deep chain is a product, and a product is rarely near one."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Preset, Progress, Settings, experiment
from unvanish.lab.window import window
from unvanish.records import UnvanishError
from unvanish.theory import activations, chain
from unvanish.theory.window import LEAST_WEIGHT
from unvanish.words.numbers import exactly

PARTS = ("scale", "window", "growth", "reversed")
FAR = 3.0
"""Powers of ten from which a first layer counts as vanished or exploded against the last."""
MOST_NUMBERS = 20_000_000
FEWER = 0.25
"""Share of the best size's balanced chains that another size keeps at most to be drawn beside it."""
GROWTH_RATE = 5.0
REVERSED_SHARE = 1e-8
"""How far the fastest weight moves in the first step, as a share of its size."""
SHOWN_STEPS = (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)

SETTINGS = (
    Parameter("part", "scale", "what to look at", choices=PARTS),
    Parameter("depth", 20, "layers (growth: at most 6)", 2, 1_000, "layers", log=True),
    Parameter("weight", (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0), "sizes of the weights", 0.001, 1_000),
    Parameter("chains", 2_000, "chains at each size (scale)", 10, 100_000, log=True),
    Parameter("centred", True, "biases −w/2, which keep a sigmoid at its steepest; else N(0, 1) (scale)"),
    Parameter("activation", "sigmoid", "φ (scale)", choices=activations()),
    Parameter("steps", 1_000, "training steps (growth, reversed)", 1, 30_000, "steps", log=True),
    Parameter("seed", 0, "of the weights", 0, 2**31 - 1),
)
PRESETS = (
    Preset(
        "window",
        "Where one layer does not diminish the gradient",
        {"part": "window", "weight": (2, 4, 5, 6.894, 10, 100)},
    ),
    Preset("growth", "Weights that grow in training", {"part": "growth", "depth": 3, "weight": (1.0,)}),
    Preset("reversed", "Early layers learn, late ones are stuck", {"part": "reversed", "weight": (8.0,)}),
)


@experiment(
    "unstable",
    title="An unstable product",
    question="Does the gradient vanish, explode, or hold, and how narrow is the balance?",
    sources=("001",),
    settings=SETTINGS,
    presets=PRESETS,
    pace="live",
)
def run(s: Settings, progress: Progress) -> Outcome:
    """Four looks at the product of factors w·φ′(z) of a chain.

    scale: many random chains, w ~ N(0, scale²). window: the inputs for which one sigmoid layer has |w·σ′| ≥ 1.
    growth: a chain that learns a steep step; its weights grow until its gain exceeds one. reversed: weights so large
    that the gradient grows on its way back, so that the late layers are the slow ones.
    """
    return {"scale": _scale, "window": window, "growth": _growth, "reversed": _reversed}[s.part](s, progress)


def _scale(s: Settings, progress: Progress) -> Outcome:
    import numpy as np

    if s.depth * s.chains > MOST_NUMBERS:
        most = MOST_NUMBERS // s.depth
        raise UnvanishError(
            f"lab unstable: {s.chains:,} chains of depth {s.depth:,} are too many; at this depth at most {most:,}"
        )
    names = (
        "scale",
        "log10_equal",
        "log10_median",
        "log10_low",
        "log10_high",
        "vanished",
        "balanced",
        "exploded",
        "factors_above_1",
    )
    rows: list[dict[str, Any]] = []
    staircases: list[list[float]] = []
    for place, scale in enumerate(s.weight):
        progress(place / len(s.weight), f"weights of size {scale:g}")
        generator = np.random.default_rng([s.seed, place])
        weights = scale * generator.standard_normal((s.chains, s.depth))
        biases = -weights / 2 if s.centred else generator.standard_normal((s.chains, s.depth))
        inputs = generator.uniform(0, 1, s.chains)
        signal, above = _signal(weights, biases, inputs, s.activation)
        staircases.append(np.quantile(signal, 0.5, axis=0, method="nearest").tolist())
        gain = signal[:, 0]
        low, middle, high = np.quantile(gain, (0.05, 0.5, 0.95), method="nearest").tolist()
        shares = (float((gain < -FAR).mean()), float((np.abs(gain) <= FAR).mean()), float((gain > FAR).mean()))
        equal = _equal(scale, s)
        ratio = float(equal[0] - equal[-1]) if np.isfinite(equal[-1]) else None
        values = (scale, ratio, middle, low, high, *shares, above)
        rows.append(dict(zip(names, values, strict=True)))
    return Outcome(
        sentence=_regimes(rows, s.depth),
        columns=(
            Column("scale", help="standard deviation of the weights"),
            Column(
                "log10_equal", "log10", "δ₁ over δ_L where every weight has this size, every bias is −w/2 and x = ½"
            ),
            Column(
                "log10_median", "log10", "|∂out/∂a₁|, what the layers after the first multiply by: median over chains"
            ),
            Column("log10_low", "log10", "5% of the chains lie below"),
            Column("log10_high", "log10", "5% of the chains lie above"),
            Column("vanished", help="share of chains below 0.001"),
            Column("balanced", help="share of chains from 0.001 to 1,000"),
            Column("exploded", help="share of chains above 1,000"),
            Column("factors_above_1", help="share of single factors of at least 1"),
        ),
        rows=tuple(rows),
        pictures=(_random(rows, staircases, s), _three(rows, s)),
        checks=(_factor_bound(s, rows),) if s.activation == "sigmoid" else (),
        notes=(_all_equal(rows, s),) if s.activation == "sigmoid" else (),
    )


def _signal(weights: Any, biases: Any, inputs: Any, phi: str) -> tuple[Any, float]:
    """log10 |∂out/∂a| of each chain (rows) behind each of its layers, and the share of factors that are at least 1."""
    import numpy as np

    from unvanish.theory import activation
    from unvanish.theory.chain import forward
    from unvanish.theory.products import running_product_back

    f = activation(phi)
    z, _ = forward(weights, biases, inputs, f, residual=False)
    factors = weights[:, 1:] * f.slope(z[:, 1:])
    back = running_product_back(factors).log10
    return np.hstack([back, np.zeros((len(back), 1))]), float((np.abs(factors) >= 1).mean())


def _factor_bound(s: Settings, rows: list[dict[str, Any]]) -> Check:
    """A factor of at least 1 needs |w| ≥ 4: its share cannot exceed the share of such weights."""
    worst = max(row["factors_above_1"] - math.erfc(LEAST_WEIGHT / row["scale"] / math.sqrt(2)) for row in rows)
    noise = 4 * 0.5 / math.sqrt(s.chains * (s.depth - 1))
    what = "share of factors of at least 1, beyond the share of weights |w| ≥ 4 which these need"
    return Check(what, f"at most {noise:.2g}", worst, worst <= noise)


def _equal(weight: float, s: Settings) -> Any:
    """log10 of the error signal per layer where all weights are equal and each sigmoid is at its steepest."""
    return chain([weight] * s.depth, -weight / 2, 0.5, s.activation).log10_signal


def _all_equal(rows: list[dict[str, Any]], s: Settings) -> str:
    largest = max(rows, key=lambda row: row["scale"])
    return (
        f"With equal weights w, and every sigmoid at its steepest, the error signal grows by w/4 a layer: it vanishes"
        f" below 4, holds at 4 and explodes above. At {largest['scale']:g} the first layer's is"
        f" {exactly(largest['log10_equal'])} times the last's."
    )


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: row["balanced"])


def _regimes(rows: list[dict[str, Any]], depth: int) -> str:
    best = _best(rows)
    beyond = [row for row in rows if row["scale"] > best["scale"]]
    fate = ""
    if beyond:
        exploded, vanished = (beyond[-1][share] for share in ("exploded", "vanished"))
        fate = (
            "; with larger ones it explodes"
            if exploded > vanished
            else "; larger ones saturate, and the signal vanishes again"
        )
    smaller = "with smaller ones the signal vanishes" if best is not rows[0] and rows[0]["vanished"] > 0.5 else ""
    return (
        f"Over {depth:,} layers random weights of size {best['scale']:g} are the best of these: they keep"
        f" {best['balanced']:.0%} of the chains within a factor of 1,000{'; ' if smaller else ''}{smaller}{fate}."
    )


def _random(rows: list[dict[str, Any]], staircases: list[list[float]], s: Settings) -> Drawing:
    """What the sentence says: the best size, and the next smaller and larger ones that keep far fewer chains."""
    size = [row["scale"] for row in rows]
    best = rows.index(_best(rows))
    far = [at for at, row in enumerate(rows) if row["balanced"] <= FEWER * rows[best]["balanced"]]
    smaller = sorted((at for at in far if size[at] < size[best]), key=size.__getitem__)[-1:]
    larger = sorted((at for at in far if size[at] > size[best]), key=size.__getitem__)[:1]
    return Drawing.of(
        "staircase",
        f"Random weights of size {size[best]:g}, and of other sizes",
        "The error signal per layer, as the median over random chains, each with an error of 1 at its output.",
        [str(layer + 1) for layer in range(s.depth)],
        staircases[best],
        compare=[(f"weights {size[at]:g}", staircases[at]) for at in (*smaller, *larger)],
        line=f"weights {size[best]:g}",
    )


def _three(rows: list[dict[str, Any]], s: Settings) -> Drawing:
    """A falling, a level and a rising staircase, as far as the sizes asked for have them."""
    gain = {row["scale"]: row["log10_equal"] for row in rows}
    level = min(rows, key=lambda row: abs(gain[row["scale"]] or 0.0))
    steep = max(rows, key=lambda row: gain[row["scale"]] or 0.0)
    names = [str(layer + 1) for layer in range(s.depth)]
    others = {row["scale"]: row for row in (rows[0], steep) if row is not level}
    return Drawing.of(
        "staircase",
        f"Equal weights of {level['scale']:g} against others",
        "The error signal per layer of chains with equal weights: it falls, holds or rises towards the input.",
        names,
        _equal(level["scale"], s).tolist(),
        compare=[(f"weights {scale:g}", _equal(scale, s).tolist()) for scale in others],
        line=f"weights {level['scale']:g}",
    )


def _growth(s: Settings, progress: Progress) -> Outcome:
    import numpy as np

    if s.depth > 6:
        raise UnvanishError(
            f"lab unstable: part growth with depth {s.depth:,}: a deeper chain of sigmoids does not start to learn;"
            " take a depth from 2 to 6"
        )
    weights, biases, rows = _start(s), None, []
    biases = -weights / 2
    inputs, targets = np.array([0.4, 0.6]), np.array([0.05, 0.95])
    for step in range(s.steps + 1):
        made = chain(weights, biases, inputs, loss="half", targets=targets)
        if step in SHOWN_STEPS or step == s.steps:
            progress(step / s.steps, f"step {step:,}")
            rows.append(_grown(step, weights, biases, made))
        weights = weights - GROWTH_RATE * made.weight_gradient.value
        biases = biases - GROWTH_RATE * made.bias_gradient.value
    first, last = rows[0], rows[-1]
    turned = "from vanishing to exploding" if first["log10_gain"] < 0 < last["log10_gain"] else "but not across one"
    return Outcome(
        sentence=(
            f"Training takes the mean weight from {first['weight']:.3g} to {last['weight']:.3g} and the gain through"
            f" the chain from {exactly(first['log10_gain'])} to {exactly(last['log10_gain'])}: {turned}."
        ),
        checks=_has_turned(first, last, s),
        columns=(
            Column("step"),
            Column("weight", help="mean |w|"),
            Column("loss", help="½ Σ (o − y)² on two inputs, 0.4 and 0.6"),
            Column("log10_gain", "log10", "|∂out/∂x| at the steepest input between the two"),
        ),
        rows=tuple(rows),
        pictures=(
            Drawing.of(
                "speeds",
                "Weights grow, and the chain's gain with them",
                "Two lines over the training steps: the mean size of the weights and the gain from input to output.",
                [row["step"] for row in rows],
                ["mean weight", "gain"],
                [[math.log10(row["weight"]) for row in rows], [row["log10_gain"] for row in rows]],
                quantity="mean size of a weight, and gain from input to output",
            ),
        ),
    )


def _has_turned(first: dict[str, Any], last: dict[str, Any], s: Settings) -> tuple[Check, ...]:
    """Where a chain is known to learn in time: its gain ends above 1."""
    if s.depth > 3 or not 1 <= s.weight[0] <= 2 or s.steps < 1_000:
        return ()
    small, large = 10 ** first["log10_gain"], 10 ** last["log10_gain"]
    return (
        Check("gain through the chain before training", "below 1", small, small < 1),
        Check("gain through the chain after training", "above 1", large, large > 1),
    )


def _grown(step: int, weights: Any, biases: Any, made: Any) -> dict[str, Any]:
    import numpy as np

    between = chain(weights, biases, np.linspace(0.4, 0.6, 201))
    gain = float(between.input_gradient.log10.max())
    loss = float((made.error**2).sum() / 2)
    return {"step": step, "weight": float(np.abs(weights).mean()), "loss": loss, "log10_gain": gain}


def _reversed(s: Settings, progress: Progress) -> Outcome:
    import numpy as np

    weights = _start(s, jitter=0.0)
    start = weights.copy()
    biases = -weights / 2
    first = chain(weights, biases, 0.5, loss="half", targets=1.0)
    top, unit = first.weight_gradient.largest, REVERSED_SHARE * s.weight[0]
    brought, made = np.zeros(s.depth), first
    for step in range(s.steps):
        if step % 1_000 == 0:
            progress(step / s.steps, f"step {step:,}")
        by_weight, by_bias = (g.over(top).value for g in (made.weight_gradient, made.bias_gradient))
        weights, biases = weights - unit * by_weight, biases - unit * by_bias
        brought += by_weight**2 + by_bias**2  # to first order a step lowers the loss by rate times gradient squared
        made = chain(weights, biases, 0.5, loss="half", targets=1.0)
    with np.errstate(divide="ignore"):
        moved, share = np.log10(np.abs(weights / start - 1)), np.log10(brought / brought.sum())
    columns = (first.log10_signal, moved, share)
    rows: tuple[dict[str, Any], ...] = tuple(
        dict(zip(("layer", "log10_delta", "log10_change", "log10_share"), (layer + 1, *values), strict=True))
        for layer, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    )
    ahead = float(first.log10_signal[0] - first.log10_signal[-1])
    return Outcome(
        sentence=f"{_ahead(ahead, s)} {_gained(rows, ahead, float(first.error[0]), float(made.error[0]))}",
        columns=(
            Column("layer"),
            Column("log10_delta", "log10", "∂C/∂z before training"),
            Column("log10_change", "log10", "how far training has moved the weight, as a share of it"),
            Column("log10_share", "log10", "how much of what training gains the layer brings about"),
        ),
        rows=rows,
        pictures=(
            Drawing.of(
                "staircase",
                "The staircase the other way round",
                "The error signal per layer before training; with large weights it rises towards the input.",
                [str(row["layer"]) for row in rows],
                first.log10_signal.tolist(),
            ),
        ),
        checks=(
            Check.close(
                "log10 of the first over the last error signal: (w/4)^(L−1)",
                (s.depth - 1) * math.log10(s.weight[0] / 4),
                ahead,
                1e-6,
            ),
        ),
    )


def _ahead(ahead: float, s: Settings) -> str:
    start = f"With weights of {s.weight[0]:g} the first of {s.depth:,} layers learns"
    if abs(ahead) < 1e-6:
        return f"{start} as fast as the last: the product is balanced."
    word, stuck = ("faster", "late") if ahead > 0 else ("slower", "early")
    return f"{start} {exactly(abs(ahead))} times {word} than the last: the {stuck} layers are the stuck ones."


def _gained(rows: tuple[dict[str, Any], ...], ahead: float, before: float, after: float) -> str:
    """How much of the fall of the loss ½ error² the layer brings about that learns most."""
    leading, place = ("first", 0) if ahead > 0 else ("last", -1)
    share = f"the {leading} layer alone brings about {10 ** rows[place]['log10_share']:.0%} of that."
    if after**2 > 0.99 * before**2:
        return f"These few small steps lower the loss by less than 1%; {share}"
    return f"Training takes the loss from {before**2 / 2:.3g} to {after**2 / 2:.3g}; {share}"


def _start(s: Settings, jitter: float = 0.1) -> Any:
    import numpy as np

    if len(s.weight) != 1:
        raise UnvanishError(
            f"lab unstable: part {s.part} takes one weight, not {len(s.weight)}; say for example weight 8"
        )
    return s.weight[0] * (1 + jitter * np.random.default_rng(s.seed).standard_normal(s.depth))
