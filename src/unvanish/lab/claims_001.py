"""What the second source claims about the product of weights and slopes and how unstable it is."""

from __future__ import annotations

import math

from unvanish.lab.claims import Numbers, Run, claim
from unvanish.lab.claims_000 import TWENTY
from unvanish.lab.outcome import Outcome


@claim(
    "001",
    "Deep networks hardly do better than shallow ones.",
    "true only if",
    "… nothing is done about the gradient. Plain sigmoid networks reach {shallow:.2f} with one hidden layer and"
    " {deep:.2f} with 20; with centred initialisation 20 reach {centred:.2f} within the same few steps.",
    "depth",
    hidden=(1.0, 20.0),
    quick=True,
)
def deep_no_better(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    score = {(row["kind"], row["hidden"]): row["accuracy"] for row in o.rows}
    numbers = {
        "deep": score["sigmoid", 20],
        "shallow": score["sigmoid", 1],
        "centred": score["sigmoid, centred init", 20],
    }
    return numbers, numbers["deep"] < 0.3 < numbers["centred"] and numbers["shallow"] > 0.7


@claim(
    "001",
    "The layers of a deep network learn at vastly different speeds.",
    "true",
    "In an untrained 784-30-30-30-30-10 network the averaged error signal of the last hidden layer is {ratio:.3g} times"
    " that of the first (median of 50 seeds); in the data published for such a network it is {published:.3g} times.",
    "speeds",
    hidden=4.0,
    epochs=1,
    seeds=50,
)
def different_speeds(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    first, last = o.rows[0], o.rows[-1]
    ratio, published = (10 ** (last[column] - first[column]) for column in ("median", "published"))
    return {"ratio": ratio, "published": published}, ratio > 10


@claim(
    "001",
    "Early layers can also learn well while later ones are stuck.",
    "true",
    "With weights of 8 and every sigmoid at its steepest the first of 20 layers gets {ratio:,.0f} times the error"
    " signal of the last.",
    "unstable",
    part="reversed",
    weight=8.0,
)
def late_layers_stuck(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    ratio = 10 ** (o.rows[0]["log10_delta"] - o.rows[-1]["log10_delta"])
    return {"ratio": ratio}, ratio > 1


@claim(
    "001",
    "But for its last factor the gradient of w₁ is a product of terms w·σ′(h).",
    "false",
    "One slope goes without a weight: there are L slopes, but only the L − 1 weights after the first, for w₁ is no"
    " factor of its own gradient. Counting it makes the 20-layer example {factor:.4g} of what it is.",
    "chain",
    **TWENTY,
)
def slopes_and_weights(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    terms = sum(math.log10(row["weight"] * row["slope"]) for row in o.rows)
    factor = 10 ** (terms - o.rows[0]["log10_gradient"])
    return {"factor": factor}, abs(factor - o.rows[0]["weight"]) < 1e-9


@claim(
    "001",
    "σ′ has its maximum at 0, and it is 1/4.",
    "true",
    "The largest slope found is {slope:.12g}, at {at:g}.",
    "activations",
    names="sigmoid",
)
def largest_slope(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    row = o.rows[0]
    return {"slope": row["largest_slope"], "at": row["at"]}, abs(row["largest_slope"] - 0.25) < 1e-12


@claim(
    "001",
    "The plot of σ′ on 100 points from −5 to 5 shows that maximum.",
    "false",
    "No point of that grid is 0: the highest one plotted is {highest:.6f}.",
    "activations",
    names="sigmoid",
)
def plotted_maximum(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    from unvanish.lab.activations import coarse_maximum

    highest = coarse_maximum()
    return {"highest": highest}, highest < 0.25


@claim(
    "001",
    "Weights drawn from N(0, 1) usually satisfy |w| < 1.",
    "true only if",
    "… two in three is usual: P(|w| < 1) = {share:.4f}, and of the 19 weights that count in a chain of 20 all are"
    " below 1 with probability {all:.2g}. Slopes make the product small, not weights.",
    "chain",
    depth=20,
    weight=0.0,
    noise=1.0,
)
def weights_below_one(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    share = math.erf(1 / math.sqrt(2))
    return {"share": share, "all": share ** (len(o.rows) - 1)}, 0.5 < share < 0.75


@claim(
    "001",
    "With such weights the product falls off exponentially with depth.",
    "true",
    "The median over 2,000 chains is {short:.2g} at 10 layers and {long:.2g} at 20; a share of {share:.2g} of the"
    " single terms reaches 1.",
    "unstable",
    weight=1.0,
    centred=False,
)
def exponential_decrease(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    short = run("unstable", weight=1.0, centred=False, depth=10).rows[0]
    long = o.rows[0]
    numbers = {
        "long": 10 ** long["log10_median"],
        "short": 10 ** short["log10_median"],
        "share": long["factors_above_1"],
    }
    return numbers, numbers["long"] < numbers["short"] ** 1.5 < 1e-6


@claim(
    "001",
    "If terms exceed 1, the gradient explodes instead.",
    "true only if",
    "… the input keeps to a narrow window: |w·σ′(w·a + b)| ≥ 1 needs |w| ≥ 4, and holds at best, at |w| = 6.894, for"
    " activations in an interval of {width:.4f}. With random inputs larger weights saturate: {vanished:.0%} of 20-layer"
    " chains with weights of size 64 vanish.",
    "unstable",
    part="window",
    weight=6.894,
)
def terms_above_one(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    vanished = run("unstable", weight=64.0).rows[0]["vanished"]
    return {"width": o.rows[0]["width"], "vanished": vanished}, o.rows[0]["width"] < 0.45 and vanished > 0.9


@claim(
    "001",
    "Weights may grow in training until a vanishing gradient becomes an exploding one.",
    "true",
    "A chain of three that learns a step takes its mean weight from {small:.2f} to {large:.2f}, and its gain from"
    " {before:.2g} to {after:.2g}.",
    "unstable",
    part="growth",
    depth=3,
    weight=1.0,
)
def weights_grow(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    first, last = o.rows[0], o.rows[-1]
    numbers = {
        "after": 10 ** last["log10_gain"],
        "before": 10 ** first["log10_gain"],
        "small": first["weight"],
        "large": last["weight"],
    }
    return numbers, numbers["before"] < 1 < numbers["after"]


@claim(
    "001",
    "That the terms balance out is highly unlikely to happen by chance.",
    "true",
    "Of random 20-layer chains with weights N(0, 1) {plain:.1%} keep the gradient within a factor of 1,000;"
    " with the best of nine sizes, 6, and biases that hold each sigmoid at its steepest, {best:.0%}.",
    "unstable",
)
def balance_by_chance(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    balanced = {row["scale"]: row["balanced"] for row in o.rows}
    best = max(balanced, key=lambda scale: balanced[scale])
    return {"plain": balanced[1.0], "best": balanced[best]}, balanced[1.0] < 0.01 and best == 6.0
