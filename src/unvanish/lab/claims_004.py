"""What the fifth source claims about causes of the vanishing gradient and remedies for it."""

from __future__ import annotations

import math
from typing import Any

from unvanish.lab.claims import Numbers, Run, claim
from unvanish.lab.claims_000 import TWENTY, constant_answer
from unvanish.lab.outcome import Outcome


def remedy(outcome: Outcome, name: str) -> dict[str, Any]:
    return next(row for row in outcome.rows if row["remedy"] == name)


@claim(
    "004",
    "The gradients of layers near the output are multiplied with those of layers near the input.",
    "false",
    "Jacobians are multiplied, w·σ′ a layer, not gradients: those multiply to {gradients:.2g} over the 20 layers, the"
    " factors and the first slope to {factors:.4g}, which is ∂out/∂w₁.",
    "chain",
    **TWENTY,
)
def gradients_multiply(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    gradients = sum(row["log10_gradient"] for row in o.rows)
    factors = sum(math.log10(row["factor"]) for row in o.rows[1:]) + math.log10(o.rows[0]["slope"])
    true = o.rows[0]["log10_gradient"]
    return {"factors": 10**factors, "gradients": 10**gradients}, abs(factors - true) < 1e-9 and gradients < true - 10


@claim(
    "004",
    "With 20 layers, all weights 0.17 and input 1 the gradient of the first weight is very small (no value is given).",
    "true",
    "It is {value:.4g} for the output.",
    "chain",
    **TWENTY,
)
def the_missing_value(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    value = 10 ** o.rows[0]["log10_gradient"]
    return {"value": value}, math.isclose(value, 2.079e-27, rel_tol=1e-3)


@claim(
    "004",
    "With 50 layers it would be even smaller.",
    "true",
    "It is {value:.4g}, which float32 cannot hold: there the error signal is 0 from layer {layer:.0f} down.",
    "chain",
    depth=50,
    weight=0.17,
)
def fifty_layers(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    value = 10 ** o.rows[0]["log10_gradient"]
    lost = [row["layer"] for row in o.rows if "float32" in row["zero_in"].split(", ")]
    return {"value": value, "layer": max(lost)}, math.isclose(value, 1.393e-68, rel_tol=1e-3)


@claim(
    "004",
    "In the end the network stops training altogether.",
    "true",
    "20 sigmoid layers stay at {score:.3f} at every learning rate tried; the best constant answer has"
    " {constant:.3f}, one hidden layer reaches {shallow:.2f}.",
    "remedies",
    quick=True,
)
def stops_training(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    row = remedy(o, "sigmoid as is")
    numbers = {
        "score": row["accuracy"],
        "constant": constant_answer(),
        "shallow": remedy(o, "one hidden layer")["accuracy"],
    }
    return numbers, row["works_at"].startswith("0 of")


@claim(
    "004",
    "The range of the sigmoid, 0 to 1, is the cause.",
    "false",
    "Its slope is: with centred initialisation the same sigmoid, its range unchanged, lets {centred:.2f} of the"
    " error signal through to layer 1 instead of {plain:.1g}, and learns ({score:.2f}).",
    "remedies",
    quick=True,
)
def the_range(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    centred, plain = remedy(o, "centred init, Adam"), remedy(o, "sigmoid as is")
    numbers = {"centred": 10 ** centred["reaches"], "plain": 10 ** plain["reaches"], "score": centred["accuracy"]}
    return numbers, numbers["centred"] > 0.1 and numbers["plain"] < 1e-10 and centred["rescued"] == "yes"


@claim(
    "004",
    "Residual blocks counter the vanishing gradient.",
    "true only if",
    "… nothing squashes the sum, and the rate is tuned: with the sigmoid after the sum 20 layers stay at {last:.3f};"
    " with it inside a branch of factor 1/√L they reach {inside:.2f}, at {works} learning rates.",
    "remedies",
    quick=True,
)
def residual_blocks(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    last, inside = remedy(o, "residual, sigmoid last"), remedy(o, "residual × 1/√L")
    numbers = {"last": last["accuracy"], "inside": inside["accuracy"], "works": inside["works_at"]}
    return numbers, last["rescued"] == "no" and inside["rescued"] != "no"


@claim(
    "004",
    "Some activation functions are better than the sigmoid.",
    "true only if",
    "… the weights are drawn to fit: tanh with torch's default weights stays at {default:.3f}, with critical ones it"
    " reaches {critical:.2f}.",
    "remedies",
    quick=True,
)
def another_activation(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    default, critical = remedy(o, "tanh"), remedy(o, "tanh, critical init")
    numbers = {"critical": critical["accuracy"], "default": default["accuracy"]}
    return numbers, default["rescued"] == "no" and critical["rescued"] != "no"


XAVIER = {"activation": "sigmoid", "weight_variance": 1.0, "bias_variance": 0.0}


@claim(
    "004",
    "Xavier initialisation keeps the weights close to 1.",
    "false",
    "It is made to keep a layer's gain near 1. Weights of a layer from 1,000 to 1,000 units have a standard"
    " deviation of {deviation:.4f}, and through a sigmoid the gain is not kept: the squared gradient is multiplied"
    " by {chi:.4f} a layer (measured: {measured:.4f}).",
    "phase",
    **XAVIER,
)
def xavier_weights(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    import torch

    weight = torch.nn.init.xavier_normal_(torch.empty(1000, 1000), generator=torch.Generator().manual_seed(0))
    row = o.rows[0]
    numbers = {"deviation": float(weight.std()), "chi": row["chi1"], "measured": row["measured"]}
    return numbers, abs(numbers["deviation"] - math.sqrt(2 / 2000)) < 1e-3 and row["chi1"] < 0.1


@claim(
    "004",
    "Careful initialisation such as Xavier's counters the vanishing gradient.",
    "true only if",
    "… it fits the activation. 20 sigmoid layers drawn by Xavier's rule stay at {xavier:.3f}; drawn so that each"
    " sigmoid is centred and its slope made up for, they reach {centred:.2f}.",
    "remedies",
    quick=True,
)
def careful_initialisation(o: Outcome, run: Run) -> tuple[Numbers, bool]:
    xavier, centred = remedy(o, "Xavier init"), remedy(o, "centred init, Adam")
    numbers = {"xavier": xavier["accuracy"], "centred": centred["accuracy"]}
    return numbers, xavier["rescued"] == "no" and centred["rescued"] == "yes"
