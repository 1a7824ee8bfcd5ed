"""What a network of a sweep can be told: its names, the values they take, and which of them exclude each other."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unvanish.population.initialisations import KINDS, VARIANCES
from unvanish.words.activations import BY_NAME, ENTRIES

ACTIVATIONS = {
    (each.call if BY_NAME[each.call] is each else each.name): each for each in ENTRIES if each.module and each.formula
}
"""By its name in a grid, which is torch's for what torch does where nothing is said: leaky_relu, leaky_relu_0.2."""
NORMS = {"none": "", "batch": "batch", "layer": "layer"}
OPTIMIZERS = {"sgd": "SGD", "momentum": "momentum", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam"}
BY_DEPTH = "1/sqrt(depth)"
"""The value of ``skip`` that shrinks with the number of residual branches."""


@dataclass(frozen=True)
class Name:
    """``allowed`` in words; ``fits`` says whether a value is one of them; ``default`` None: it must be given."""

    allowed: str
    fits: Callable[[Any], bool]
    default: Any
    words: tuple[str, ...] = ()
    whole: bool = False


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether it is a whole or a real number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(low: float, strictly: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        real = is_number(value) and math.isfinite(value)
        return real and (value > low if strictly else value >= low)

    return fits


def _words(words: Iterable[str], default: Any) -> Name:
    known = tuple(words)
    return Name(f"one of {', '.join(known)}", lambda value: value in known and isinstance(value, str), default, known)


NAMES: dict[str, Name] = {
    "depth": Name("a whole number from 1 to 100,000 (hidden layers)", _whole(1, 100_000), None, whole=True),
    "width": Name("a whole number from 1 to 65,536 (units of a hidden layer)", _whole(1, 65_536), 64, whole=True),
    "activation": _words(ACTIVATIONS, "tanh"),
    "weight_variance": Name("a number above 0 (σ_w²: fan-in times the variance)", _number(0.0, True), None),
    "bias_variance": Name("a number, 0 or more (σ_b²)", _number(0.0), 0.0),
    "init": _words(KINDS, "default"),
    "norm": _words(NORMS, "none"),
    "skip": Name(
        f'a number, 0 or more (the factor of each residual branch; 0: none), or "{BY_DEPTH}"',
        lambda value: value == BY_DEPTH or _number(0.0)(value),
        0.0,
    ),
    "optimizer": _words(OPTIMIZERS, "sgd"),
    "lr": Name("a number above 0", _number(0.0, True), 0.1),
    "batch": Name("a whole number from 1 to 65,536 (samples)", _whole(1, 65_536), None, whole=True),
}
TRAINING = ("optimizer", "lr")
"""Names that mean nothing where nothing is trained."""
OUTERMOST = ("depth", "width", "norm", "batch", "init", "activation", "optimizer")
"""Networks that differ in the other names alone can be stacked, so these change slowest from point to point."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean …?", or what there is."""
    known = list(known)
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def check(name: str, value: Any) -> str:
    """What is wrong with a value, or ""."""
    known = NAMES[name]
    if known.fits(value):
        return ""
    hint = f"; {nearest(value, known.words)}" if known.words and isinstance(value, str) else ""
    return f"{value!r} is not {known.allowed}{hint}"


def conflict(values: Mapping[str, tuple[Any, ...]], train: bool) -> tuple[str, str]:
    """The name to blame and what is wrong with names and all their values taken together, or two empty texts."""
    inits = values.get("init", ())
    if "depth" not in values:
        return "", "depth is missing: give the number of hidden layers in [grid] or [fixed]"
    if "weight_variance" in values:
        other = [each for each in inits if each not in VARIANCES]
        if other:
            return "weight_variance", (
                f"init = {other[0]!r} sets the variances of the weights itself; leave out weight_variance, or take"
                f" init = {' or '.join(map(repr, VARIANCES))}"
            )
    elif "gaussian" in inits:
        return "init", "init = 'gaussian' needs weight_variance beside it"
    elif "bias_variance" in values and set(inits) != {"orthogonal"}:
        return "bias_variance", "bias_variance needs weight_variance beside it"
    if "batch" in values.get("norm", ()) and 1 in values.get("batch", ()):
        return "batch", "norm = 'batch' needs at least two samples, so batch = 1 does not go with it"
    if not train:
        for name in TRAINING:
            if name in values:
                return name, f"{name} means nothing without training; add train = true to [run], or leave it out"
    return "", ""


def scale_of_skip(skip: float | str, depth: int) -> float:
    """The factor of each residual branch."""
    return 1 / math.sqrt(depth) if isinstance(skip, str) else float(skip)
