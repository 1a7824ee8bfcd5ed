"""What the first source claims about f = 0.001 w₁² + w₂² and a chain of neurons."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab.claims import Numbers, Run, claim
from unvanish.lab.outcome import Outcome

TWENTY = {"depth": 20, "weight": 0.17}
"""The example of source 004."""


def gd(outcome: Outcome, optimiser: str = "gd") -> dict[str, Any]:
    return next(row for row in outcome.rows if row["optimiser"] == optimiser)


def place(outcome: Outcome, name: str) -> dict[str, Any]:
    return next(row for row in outcome.rows if row["place"] == name)


@claim(
    "000",
    "Stopping once the gradient is below ε may stop far from the optimum.",
    "true",
    "Gradient descent falls below 0.001 at step {steps:,.0f}, still {distance:.4f} away: {over:.4g} times ε. The most"
    " there can be is 1 / smallest curvature = 500.",
    "ravine",
    stop=0.001,
    steps=10_000,
)
def stopping_at_epsilon(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    row = gd(o)
    over = row["distance_over_bound"]
    return {"over": over, "steps": row["steps_to_stop"], "distance": row["distance_at_stop"]}, 100 < over <= 500


@claim(
    "000",
    "With rate 0.5 gradient descent has reached the minimum after 1,000 iterations.",
    "false",
    "w₁ is {w1:.4f} then, of 1 at the start; to come within 0.01 it takes {steps:,.0f} iterations.",
    "ravine",
    steps=10_000,
)
def minimum_after_1000(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    row = gd(o)
    return {"w1": row["w1_after_1000"], "steps": row["steps"]}, row["w1_after_1000"] > 0.3


@claim(
    "000",
    "From a point farther away the minimum would not have been reached at all.",
    "false",
    "Ten times farther costs {more:,.0f} iterations more: {far:,.0f} instead of {near:,.0f}. The distance shrinks by"
    " the same factor each step.",
    "ravine",
    w1=10.0,
    w2=10.0,
    steps=10_000,
)
def a_farther_start(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    far, near = gd(o)["steps"], gd(run("ravine", steps=10_000))["steps"]
    return {"more": far - near, "far": far, "near": near}, far is not None


@claim(
    "000",
    "Adagrad avoids the slow direction.",
    "true only if",
    "… the start is near for its rate. From (100, 100) it needs {far:,.0f} steps, gradient descent {plain:,.0f}; from"
    " (1, 1) it needs {near:,.0f} against {plain_near:,.0f}.",
    "ravine",
    w1=100.0,
    w2=100.0,
    steps=100_000,
)
def adagrad_in_the_ravine(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    near = run("ravine", steps=10_000)
    numbers = {
        "far": gd(o, "adagrad")["steps"],
        "plain": gd(o)["steps"],
        "near": gd(near, "adagrad")["steps"],
        "plain_near": gd(near)["steps"],
    }
    return numbers, numbers["near"] < numbers["plain_near"] and numbers["far"] > numbers["plain"]


@claim(
    "000",
    "The gradient is the more in danger of vanishing, the more layers follow.",
    "true",
    "At weight 0.17 each layer more multiplies by {factor:.4f}: ∂out/∂w₁ is {short:.4g} with 20 layers and"
    " {long:.4g} with 50.",
    "chain",
    depth=50,
    weight=0.17,
)
def more_layers(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    short, long = (10 ** each.rows[0]["log10_gradient"] for each in (run("chain", **TWENTY), o))
    return {"factor": (long / short) ** (1 / 30), "short": short, "long": long}, long < short < 1


@claim(
    "000",
    "The recursion of the error signal has the activation g(z) as a factor.",
    "false",
    "It is the slope g′(z). With g(z) the first weight's gradient of the 20-layer example comes out {ratio:,.0f}"
    " times too large.",
    "chain",
    **TWENTY,
    written="000",
)
def activation_for_slope(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    ratio = 10 ** sum(math.log10(row["activation"] / row["slope"]) for row in o.rows)
    return {"ratio": ratio}, ratio > 1e6


@claim(
    "000",
    "Written out, the error signal is the product of all later weights, of g(z) of this and all later layers, and of"
    " δ of the last layer.",
    "false",
    "The last factor is one too many, because δ of the last layer holds it already: even with slopes in place of g the"
    " product comes out {factor:.4f} of the truth.",
    "chain",
    **TWENTY,
)
def one_factor_too_many(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    slopes = sum(math.log10(row["slope"]) for row in o.rows)
    weights = sum(math.log10(row["weight"]) for row in o.rows[1:])
    written = slopes + weights + o.rows[-1]["log10_delta"]
    factor = 10 ** (written - o.rows[0]["log10_delta"])
    return {"factor": factor}, abs(factor - o.rows[-1]["slope"]) < 1e-9


@claim(
    "000",
    "A weight's gradient can go to zero because of any later layer, however far the weight is from its optimum.",
    "true",
    "In the vanished network the first layer's gradient is {gradient:.2g}, yet this layer alone, linearised, could"
    " win back {gain:.2f} times the loss of the best constant answer.",
    "bottom",
)
def far_from_its_optimum(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    row = place(o, "vanished")
    gain = 10 ** row["decrement"]
    return {"gain": gain, "gradient": 10 ** row["gradient"]}, gain > 0.01 and row["verdict"] == "vanished"


@claim(
    "000",
    "A vanishing gradient means being near a bad point such as a saddle.",
    "false",
    "The curvature is as small as the gradient: with the curvature as the scale the vanished layer stands"
    " {distance:.2g} times its own size from where its gradient would be zero. At a real saddle, all weights zero,"
    " it is exactly 0.",
    "bottom",
)
def near_a_bad_point(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    distance = 10 ** place(o, "vanished")["distance"]
    saddle = place(o, "saddle")
    return {"distance": distance}, distance > 1e3 and saddle["gradient"] == -math.inf and saddle["verdict"] == "saddle"


@claim(
    "000",
    "An optimizer such as Adagrad, with a rate for each weight, keeps deep networks from being slowed down.",
    "false",
    "20 sigmoid layers under Adagrad, its rate tuned, stay at {adagrad:.3f}, the constant answer's {constant:.3f}"
    " and no more; Adam reaches {adam:.3f}.",
    "remedies",
    quick=True,
)
def adagrad_in_a_network(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    score = {row["remedy"]: row["accuracy"] for row in o.rows}
    numbers = {"adagrad": score["Adagrad"], "constant": constant_answer(), "adam": score["Adam"]}
    return numbers, numbers["adagrad"] < numbers["constant"] + 0.05


def constant_answer() -> float:
    """Accuracy of the best constant answer on the images that judge the training experiments."""
    from unvanish.population.data import chance, images

    return chance(images("mnist"))
