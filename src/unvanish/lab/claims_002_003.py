"""What the third source claims about what a small derivative says, and the fourth about a chain of four."""

from __future__ import annotations

import math

from unvanish.lab.chain import FOUR, as_written
from unvanish.lab.claims import Numbers, Run, claim
from unvanish.lab.claims_000 import TWENTY, gd, place
from unvanish.lab.outcome import Outcome


@claim(
    "002",
    "In at least some deep networks neurons of earlier layers learn more slowly.",
    "true",
    "Of 50 untrained 784-30-30-10 networks the first hidden layer has the smaller error signal in {count:.0f};"
    " in the median the second has {ratio:.3g} times as much (published: {published:.3g}).",
    "speeds",
    hidden=2.0,
    epochs=1,
    seeds=50,
)
def early_layers_slower(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    from unvanish.lab.speeds import norms
    from unvanish.zoo import mnist

    (start,) = norms(2, range(50), mnist.load(), epochs=1)
    count = int((start[:, 0] < start[:, 1]).sum())
    ratio, published = (10 ** (o.rows[1][column] - o.rows[0][column]) for column in ("median", "published"))
    return {"ratio": ratio, "published": published, "count": count}, ratio > 1 and count > 40


@claim(
    "002",
    "Small gradients in early layers mean that these have converged: they learn faster.",
    "false",
    "The first layer of the vanished network could, linearised, still win back {vanished:.2f} times the loss of the"
    " best constant answer; in a network at its minimum, with a gradient as small, it is {minimum:.1g}.",
    "bottom",
)
def small_means_converged(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    numbers = {name: 10 ** place(o, name)["decrement"] for name in ("vanished", "minimum")}
    return numbers, numbers["vanished"] > 1e6 * numbers["minimum"]


@claim(
    "002",
    "The curvature gives the scale by which a gradient is small or large.",
    "true",
    "Divided by the curvature, the same gradient is {minimum:.1g} of the first layer's size at a minimum and"
    " {vanished:.1g} times its size in the vanished network.",
    "bottom",
)
def curvature_is_the_scale(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    numbers = {name: 10 ** place(o, name)["distance"] for name in ("vanished", "minimum")}
    return numbers, numbers["minimum"] < 1e-3 and numbers["vanished"] > 1e3


@claim(
    "002",
    "With a large curvature a few steps are enough, with a small one it takes many.",
    "true",
    "With one rate for both, gradient descent needs {steps:,.0f} steps for the flat direction of the ravine; steps"
    " divided by the curvature need {newton:.0f}.",
    "ravine",
    steps=10_000,
)
def steps_and_curvature(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    numbers = {"steps": gd(o)["steps"], "newton": gd(o, "newton")["steps"]}
    return numbers, numbers["newton"] == 1 and numbers["steps"] > 1000


@claim(
    "002",
    "Near a local optimum or on a plateau, far from the best point, derivatives are small too.",
    "true",
    "At a local minimum with a first-layer gradient of 1e-06 the loss is {local:.2g} of the best constant answer's,"
    " on a plateau {plateau:.3g}, and the best possible is 0.",
    "bottom",
)
def local_optimum_or_plateau(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    local, plateau = (10 ** place(o, name)["loss"] for name in ("local minimum", "plateau"))
    return {"local": local, "plateau": plateau}, local > 1e-6 and plateau > 0.9


@claim(
    "002",
    "A partial derivative tells little about learning; only the value of the function does.",
    "false",
    "A value says nothing without the lowest one: {local:.2g} of the best constant answer's loss is as low as that"
    " local minimum goes. The gradient with the curvature does tell: ½ g²/h of the two directions of the ravine is"
    " {decrement:.4f}, exactly the value that is to be lost.",
    "ravine",
    steps=10_000,
)
def only_the_value(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    from unvanish.lab.ravine import CURVATURE

    start = (o.settings["w1"], o.settings["w2"])
    decrement = sum(0.5 * (h * w) ** 2 / h for h, w in zip(CURVATURE, start, strict=True))
    value = sum(0.5 * h * w**2 for h, w in zip(CURVATURE, start, strict=True))
    local = 10 ** place(run("bottom"), "local minimum")["loss"]
    return {"decrement": decrement, "local": local}, math.isclose(decrement, value)


@claim(
    "002",
    "Early on the error is spread over many weights, so that one of them has little influence.",
    "true",
    "From width {narrow:,.0f} to {wide:,.0f} the gradient of one weight falls to {one:.2g} of what it was, that of its"
    " whole layer is {layer:.2f} times what it was: a small entry of a wide layer has not vanished.",
    "width",
)
def spread_over_weights(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    first, last = o.rows[0], o.rows[-1]
    one, layer = (10 ** (last[column] - first[column]) for column in ("log10_one_weight", "log10_layer"))
    numbers = {"one": one, "layer": layer, "narrow": first["width"], "wide": last["width"]}
    return numbers, one < 0.3 and 0.5 < layer < 2


@claim(
    "002",
    "Backpropagation multiplies out the derivatives of early layers with respect to the output.",
    "false",
    "It is the other way round: the output is differentiated with respect to early layers. In the 20-layer example"
    " ∂out/∂w₁ is {right:.4g}; its inverse would be {wrong:.2g}.",
    "chain",
    **TWENTY,
)
def the_wrong_way_round(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    right = 10 ** o.rows[0]["log10_gradient"]
    return {"right": right, "wrong": 1 / right}, right < 1


@claim(
    "002",
    "With derivatives of 0.1 the last layer gets 0.1, the one before 0.01, then 0.001.",
    "true",
    "A chain of factors 0.1 has error signals that fall by {factor:.3g} a layer, to {first:.1g} at the first of 5.",
    "chain",
    depth=5,
    weight=0.1,
    activation="identity",
)
def a_tenth_each(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    signals = [row["log10_delta"] for row in o.rows]
    factor = 10 ** (signals[0] - signals[1])
    return {"factor": factor, "first": 10 ** signals[0]}, abs(factor - 0.1) < 1e-9


def written(outcome: Outcome) -> float:
    """The gradient as a document writes it, over the true one."""
    from unvanish.theory import chain

    s = outcome.settings
    made = chain(s["weight"], s["bias"], s["input"], s["activation"], s["residual"], s["loss"], s["target"])
    theirs, true = as_written(made, s["written"]), made.weight_gradient[0]
    return float(theirs.sign * true.sign) * 10 ** float(theirs.log10 - true.log10)


@claim(
    "003",
    "Written out by the chain rule, the gradient of w₀ has a factor −w for each later weight and −x at the end.",
    "false",
    "These four signs cancel, and the one that belongs to the error is missing: the line is {ratio:.4f} times the true"
    " gradient, and descending along it goes uphill.",
    "chain",
    **FOUR,
    written="003-line-2",
)
def the_sign(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    ratio = written(o)
    return {"ratio": ratio}, math.isclose(ratio, -1.0, rel_tol=1e-9)


@claim(
    "003",
    "Sorted by factors, the gradient of w₀ has w₀ among them.",
    "false",
    "w₀ is no factor of its own gradient: the line is {ratio:.4f} times the true gradient, and w₀ is that number.",
    "chain",
    **FOUR,
    written="003-line-3",
)
def the_own_weight(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    ratio = written(o)
    return {"ratio": ratio}, math.isclose(ratio, FOUR["weight"][0], rel_tol=1e-9)


@claim(
    "003",
    "Four slopes of at most 0.25 make the gradient of w₀ tiny.",
    "true only if",
    "… the weights do not make up for it. Four slopes of 0.25 are {slopes:.4f}; with weights of 8, biases of −4 and"
    " input ½ ∂out/∂w₀ is {gradient:.3g}.",
    "chain",
    depth=4,
    weight=8.0,
    bias=-4.0,
    input=0.5,
)
def four_slopes(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    slopes = math.prod(row["slope"] for row in o.rows)
    gradient = 10 ** o.rows[0]["log10_gradient"]
    return {"gradient": gradient, "slopes": slopes}, slopes < 0.004 and gradient >= 0.5
