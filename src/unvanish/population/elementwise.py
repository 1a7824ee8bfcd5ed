"""Activations and normalisers of stacked networks on float32 arrays: the value, and how a cotangent comes back."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import nn

from unvanish.population.draws import Floats
from unvanish.words.activations import BY_NAME

Back = Callable[[Floats], Floats]
EPS = 1e-5
"""What torch's normalisers add to a variance."""


def activate(name: str, z: Floats) -> tuple[Floats, Back]:
    """φ(z), and a function that multiplies a cotangent by φ′(z).

    tanh, sigmoid and ReLU are numpy's own, which are several times as fast as torch's; the others are torch's.
    """
    if name == "tanh":
        a = np.tanh(z)
        return a, lambda g: g * (1 - a * a)
    if name == "sigmoid":
        with np.errstate(over="ignore"):
            s = 1 / (1 + np.exp(-z))
        return s, lambda g: g * (s * (1 - s))
    if name == "relu":
        return np.maximum(z, 0), lambda g: g * (z > 0)
    if name == "identity":
        return z, lambda g: g
    return _by_torch(name, z)


def module_of(name: str) -> nn.Module:
    """torch's module of an activation of a grid, or of the table of activations."""
    known = BY_NAME[name]
    return getattr(nn, known.module)(*known.arguments, **dict(known.options))


def function_of(name: str) -> Callable[[Any], Any]:
    """torch's function of an activation with its default settings, also of those that have no module."""
    known = BY_NAME[name]
    if not known.function:
        return lambda x: x * 1.0  # the identity, as a call that a trace can see
    function, options = attrgetter(known.function.removeprefix("torch."))(torch), dict(known.options)
    return lambda x: function(x, *known.arguments, **options)


def _by_torch(name: str, z: Floats) -> tuple[Floats, Back]:
    here = torch.from_numpy(z).requires_grad_()
    with torch.enable_grad():
        value = function_of(name)(here)

    def back(g: Floats) -> Floats:
        return torch.autograd.grad(value, here, torch.from_numpy(np.ascontiguousarray(g)))[0].numpy()

    return value.detach().numpy(), back


def normalise(kind: str, z: Floats) -> tuple[Floats, Back]:
    """z over its deviation, less its mean, by sample ("layer") or by unit over the samples ("batch").

    ``z``: (…, samples, units). Gains of one and shifts of zero, as both have at the start.
    """
    axis = {"layer": -1, "batch": -2}[kind]
    off = z - z.mean(axis, keepdims=True)
    scale = 1 / np.sqrt((off * off).mean(axis, keepdims=True) + np.float32(EPS))
    unit = off * scale

    def back(g: Floats) -> Floats:
        return (g - g.mean(axis, keepdims=True) - unit * (g * unit).mean(axis, keepdims=True)) * scale

    return unit, back
