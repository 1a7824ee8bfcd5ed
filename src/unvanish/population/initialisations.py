"""What each initialisation draws weights and biases from: one place for sweeps, the lab's designs and its what-ifs.

xavier: variance 2 / (fan in + fan out) (Glorot & Bengio 2010). he: 2 / fan in (He et al. 2015). critical: variances
(σ_w² / fan in, σ_b²) where χ₁ = 1 (Schoenholz et al. 2017). centred: orthogonal W₀ and zero bias; a layer fed by a
sigmoid gets W = 4 W₀, b = −½ Σⱼ Wᵢⱼ, which makes the network the same function as one of 4 (σ(z) − ½) with weights W₀.
normal: weights N(0, 1/fan in), biases N(0, 1), as in Nielsen's book. default: torch's own for a Linear.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from unvanish.words.activations import BY_NAME

VARIANCES = ("gaussian", "orthogonal")
"""Those that are told their variances; the others set both themselves."""
KINDS = {
    "default": "uniform", "xavier": "uniform", "he": "normal", "normal": "normal", "critical": "normal",
    "centred": "orthogonal", "gaussian": "normal", "orthogonal": "orthogonal",
}  # fmt: skip
"""What the weights are drawn from: U(−1, 1), N(0, 1), or matrices with rows or columns of length 1 at right angles."""


@cache
def critical_variances(activation: str) -> tuple[float, float]:
    """(σ_w², σ_b²) of a critical initialisation; where there is none, σ_w² of χ₁ = 1 at variance 1, without biases."""
    known = BY_NAME[activation]
    if known.critical:
        return known.critical
    from unvanish.theory import activation as named
    from unvanish.theory.meanfield import critical

    return critical(named(known.name), 1.0).sigma_w2, 0.0


def centres(init: str, activation: str) -> bool:
    """Whether layers fed by the activation take its middle, ½, away."""
    return init == "centred" and activation == "sigmoid"


def centring_bias(weights: Any) -> Any:
    """b = −½ Σⱼ Wᵢⱼ, (…, fan out), of weights (…, fan out, fan in): what takes ½ of every input away."""
    return -weights.sum(-1) / 2


def scales(init: str, activation: str, fan_out: int, fan_in: int, first: bool = False) -> tuple[float, float]:
    """What weights and biases of unit size are multiplied by; ``first``: the layer has the inputs before it.

    Biases are drawn as the weights are, but normal where those are orthogonal. Not for VARIANCES.
    """
    if init == "default":
        return 1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)
    if init == "xavier":
        return math.sqrt(6 / (fan_in + fan_out)), 0.0
    if init == "he":
        return math.sqrt(2 / fan_in), 0.0
    if init == "normal":
        return 1 / math.sqrt(fan_in), 1.0
    if init == "centred":
        return 4.0 if centres(init, activation) and not first else 1.0, 0.0
    weight, bias = (1.0, 0.0) if first else critical_variances(activation)
    return math.sqrt(weight / fan_in), math.sqrt(bias)


def variances_of(init: str, scale: tuple[Any, Any], fan_out: int, fan_in: int) -> tuple[Any, Any]:
    """σ_w² (fan-in times the variance of a weight) and σ_b² of weights and biases of this scale."""
    kind = KINDS[init]
    unit = {"normal": 1.0, "uniform": 1 / 3, "orthogonal": 1 / max(fan_in, fan_out)}[kind]
    return scale[0] ** 2 * unit * fan_in, scale[1] ** 2 * (1 / 3 if kind == "uniform" else 1.0)
