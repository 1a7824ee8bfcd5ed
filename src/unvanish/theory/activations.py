"""Activation functions without torch: φ and φ′ on arrays, φ on one number, and where they have kinks.

Slopes are written so that they stay exact where they are tiny: σ′(40) is 4.2e-18, not the 0 that σ(1 − σ) gives.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unvanish.records import UnvanishError
from unvanish.words.activations import ENTRIES

Array = NDArray[np.float64]
Shape = tuple[Callable[[Array], Array], Callable[[Array], Array], Callable[[float], float]]
"""φ and φ′ of arrays, and φ of one number."""

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
GELU_CUBE = 0.044715
ROOT_HALF, ROOT_TWO_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)
_erf: Callable[[Any], Any] = np.vectorize(math.erf, otypes=[float])
_erfc: Callable[[Any], Any] = np.vectorize(math.erfc, otypes=[float])


@dataclass(frozen=True)
class Activation:
    """An activation: ``phi`` and ``slope`` map arrays, ``one`` maps one number, ``kinks`` are where φ′ jumps.

    ``flat_left`` and ``flat_right``: the slope far out on either side.
    """

    name: str
    phi: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    one: Callable[[float], float]
    kinks: tuple[float, ...] = ()
    flat_left: float = 0.0
    flat_right: float = 0.0

    @property
    def largest_slope(self) -> float:
        """The largest |φ′| on a fine grid."""
        grid = np.linspace(-40, 40, 80_001)
        return float(np.abs(self.slope(grid)).max())


def activation(name: str) -> Activation:
    """The activation of that name; UnvanishError with the nearest names where there is none."""
    if name in _table:
        return _table[name]
    near = difflib.get_close_matches(name.lower(), _table, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_table)}"
    raise UnvanishError(f"there is no activation {name!r}; {hint}")


def activations() -> tuple[str, ...]:
    """The names of all activations."""
    return tuple(_table)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _sigmoid_slope(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return e / (1.0 + e) ** 2


def _sigmoid_one(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def _tanh_slope(x: Array) -> Array:
    return 4.0 * _sigmoid_slope(2.0 * x)


def _erf_slope(x: Array) -> Array:
    return 2.0 / math.sqrt(math.pi) * np.exp(-x * x)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _softplus_one(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _normal(x: Array) -> Array:
    """Φ(x), exact in the left tail."""
    return 0.5 * _erfc(-x * ROOT_HALF)


def _gelu_slope(x: Array) -> Array:
    return _normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Array) -> Array:
    return x * _sigmoid(2 * ROOT_TWO_OVER_PI * (x + GELU_CUBE * x**3))


def _gelu_tanh_slope(x: Array) -> Array:
    inner = 2 * ROOT_TWO_OVER_PI * (x + GELU_CUBE * x**3)
    inner_slope = 2 * ROOT_TWO_OVER_PI * (1 + 3 * GELU_CUBE * x**2)
    return _sigmoid(inner) + x * _sigmoid_slope(inner) * inner_slope


def _mish_slope(x: Array) -> Array:
    plus = _softplus(x)
    return np.tanh(plus) + x * _sigmoid(x) * _tanh_slope(plus)


def _exponential(alpha: float, scale: float) -> Shape:
    """scale · (x for x > 0, α(eˣ − 1) else): φ, φ′, and φ of one number."""
    return (
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
        lambda x: scale * (x if x > 0 else alpha * math.expm1(x)),
    )


def _leaky(share: float) -> Shape:
    """x for x > 0, share · x else. At 0 itself the slope is the left one, as torch has it."""
    return (
        lambda x: np.where(x > 0, x, share * x),
        lambda x: np.where(x > 0, 1.0, share),
        lambda x: x if x > 0 else share * x,
    )


def _between(low: float, high: float, slope: float) -> Callable[[Array], Array]:
    """A slope inside an open interval, 0 outside."""
    return lambda x: np.where((x > low) & (x < high), slope, 0.0)


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


_formulas = (
    Activation("sigmoid", _sigmoid, _sigmoid_slope, _sigmoid_one),
    Activation("tanh", np.tanh, _tanh_slope, math.tanh),
    Activation("erf", _erf, _erf_slope, math.erf),
    Activation("relu", *_leaky(0.0), (0.0,), 0.0, 1.0),
    Activation("leaky_relu_0.01", *_leaky(0.01), (0.0,), 0.01, 1.0),
    Activation("leaky_relu_0.2", *_leaky(0.2), (0.0,), 0.2, 1.0),
    Activation("elu", *_exponential(1.0, 1.0), (0.0,), 0.0, 1.0),
    Activation("selu", *_exponential(SELU_ALPHA, SELU_SCALE), (0.0,), 0.0, SELU_SCALE),
    Activation("celu", *_exponential(1.0, 1.0), (0.0,), 0.0, 1.0),
    Activation(
        "gelu", lambda x: x * _normal(x), _gelu_slope, lambda x: 0.5 * x * math.erfc(-x * ROOT_HALF), (), 0.0, 1.0
    ),
    Activation(
        "gelu_tanh",
        _gelu_tanh,
        _gelu_tanh_slope,
        lambda x: x * _sigmoid_one(2 * ROOT_TWO_OVER_PI * (x + GELU_CUBE * x * x * x)),
        (),
        0.0,
        1.0,
    ),
    Activation(
        "silu",
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) + x * _sigmoid_slope(x),
        lambda x: x * _sigmoid_one(x),
        (),
        0.0,
        1.0,
    ),
    Activation("softplus", _softplus, _sigmoid, _softplus_one, (), 0.0, 1.0),
    Activation(
        "mish",
        lambda x: x * np.tanh(_softplus(x)),
        _mish_slope,
        lambda x: x * math.tanh(_softplus_one(x)),
        (),
        0.0,
        1.0,
    ),
    Activation(
        "hardtanh", lambda x: np.clip(x, -1, 1), _between(-1, 1, 1.0), lambda x: _clip(x, -1.0, 1.0), (-1.0, 1.0)
    ),
    Activation(
        "hardswish",
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x >= 3, 1.0, np.where(x <= -3, 0.0, (2 * x + 3) / 6)),
        lambda x: x * _clip(x + 3.0, 0.0, 6.0) / 6.0,
        (-3.0, 3.0),
        0.0,
        1.0,
    ),
    Activation(
        "hardsigmoid",
        lambda x: np.clip(x + 3, 0, 6) / 6,
        _between(-3, 3, 1 / 6),
        lambda x: _clip(x + 3.0, 0.0, 6.0) / 6.0,
        (-3.0, 3.0),
    ),
    Activation("relu6", lambda x: np.clip(x, 0, 6), _between(0, 6, 1.0), lambda x: _clip(x, 0.0, 6.0), (0.0, 6.0)),
    Activation(
        "softsign", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0, lambda x: x / (1 + abs(x)), (0.0,)
    ),
    Activation("logsigmoid", lambda x: -_softplus(-x), lambda x: _sigmoid(-x), lambda x: -_softplus_one(-x), (), 1.0),
    Activation("sin", np.sin, np.cos, math.sin),
    Activation("identity", lambda x: x, np.ones_like, lambda x: x, (), 1.0, 1.0),
)
_by_name = {each.name: each for each in _formulas}
if _missing := [entry.name for entry in ENTRIES if entry.formula and entry.name not in _by_name]:
    raise UnvanishError(
        f"the activation {_missing[0]} has no φ and φ′ in unvanish/theory/activations.py: write them there, or"
        " formula=False in its entry in unvanish/words/activations.py"
    )
_table = {entry.name: _by_name[entry.name] for entry in ENTRIES if entry.formula}

CENTRED = "centred sigmoid"


def centred_sigmoid() -> Activation:
    """4(σ(x) − ½) = 2 tanh(x/2): a sigmoid through the origin with slope one there, which no torch function is."""
    tanh = activation("tanh")
    return Activation(
        CENTRED, lambda x: 2 * tanh.phi(x / 2), lambda x: tanh.slope(x / 2), lambda x: 2 * tanh.one(x / 2)
    )
