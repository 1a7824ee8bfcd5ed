"""Activations bent so that a deep network starts well-behaved: TAT and DKS, with parameters from the package dks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import BETWEEN_LAYERS, Anatomy
from unvanish.remedies.initialisation import free_layers, redraw
from unvanish.remedies.swap import swap

NODES = 400
STARTS, CURVATURE, STEEPEST = 50, 0.3, 2.0  # of dks: starts it tries, C″(1) of the whole network, the most of a · b


@remedy(
    "tat",
    "activations transformed by TAT, orthogonal weights",
    kind="activation",
    answers=("UV101",),
    cures_on=("sigmoid-20", "saturated-sigmoid"),
    no_help_on=("lr-too-small", "output-scale"),
)
def tat(draft: Draft) -> Change:
    """Activations bent until a deep plain network starts almost linear, but not quite.

    What: every activation f between two layers becomes a (f(b x + c) + d), a ReLU a leaky one with a tuned slope,
    with numbers from the package dks for a chain of as many activations; weights are orthogonal, biases zero.
    Helps: very deep plain networks: 1,000 sigmoid layers learned the digits.
    Does not help: it needs a small, tuned learning rate; networks with shortcuts, activations that dks does not know,
    and pretrained weights, where it is refused.
    Source: Zhang, Botev & Martens 2022, Deep learning without shortcuts: shaping the kernel with tailored rectifiers.
    """
    return transform(draft, "TAT")


@remedy(
    "dks",
    "activations transformed by DKS, orthogonal weights",
    kind="activation",
    answers=("UV101",),
    cures_on=("sigmoid-20", "saturated-sigmoid"),
    no_help_on=("lr-too-small", "output-scale"),
)
def dks(draft: Draft) -> Change:
    """Activations bent until a deep plain network keeps its inputs as far apart as a shallow one does.

    What: every smooth activation f between two layers becomes a (f(b x + c) + d), with numbers from the package dks for
    a chain of as many activations; weights orthogonal, biases zero.
    Helps: deep plain networks: sigmoids and tanhs of 20 to 100 layers.
    Does not help: it needs a small, tuned learning rate; ReLUs (take TAT), networks with shortcuts, and pretrained
    weights, where it is refused.
    Source: Martens et al. 2021, Rapid training of deep neural networks without skip connections or normalization.
    """
    return transform(draft, "DKS")


def transform(draft: Draft, method: str) -> Change:
    """Bend the activations and draw the weights anew. Raises Refused."""
    layers, those = free_layers(draft)
    anatomy = Anatomy.of(draft)
    sites = anatomy.hidden
    kinds = {site.name for site in sites}
    kind = next(iter(kinds), "")
    known = BETWEEN_LAYERS.get(kind)
    if len(kinds) != 1 or known is None or not known.dks:
        names = ", ".join(sorted(kinds)) or "none"
        raise Refused(f"it needs one kind of activation that dks knows between its layers, not {names}")
    if any(call.name.strip("_") in ("add", "cat") and len(call.inputs) > 1 for call in anatomy.calls):
        raise Refused("the network has branches that are joined; the numbers here are made for a plain chain")
    depth = sum(len(site.calls) for site in sites)
    name, function = known.dks, known.function.replace("torch.nn.functional", "F")
    if kind == "relu" and method == "DKS":
        raise Refused("DKS wants a smooth activation; TAT has a form for ReLUs")
    a, b, c, d, slope = _numbers(method, name, depth)
    if slope is not None:
        function = f"lambda x: F.leaky_relu(x, {slope!r})"
    make = f"lambda: Transformed({function}, a={a!r}, b={b!r}, c={c!r}, d={d!r})"
    model = draft.model
    label = kind.replace("_", " ")
    formula = f"{a:.4g} · (f({b:.4g} x {_signed(c)}) {_signed(d)})"
    sentence = f"{label} transformed by {method} for {depth} layers: {formula}"
    swapped = swap(draft, anatomy, sites, make, sentence, (surgery.Transformed,))
    fill = "nn.init.orthogonal_(w, gain=max(1.0, math.sqrt(w.shape[0] / w[0].numel())), generator=g)"
    try:
        drawn = redraw(draft, layers, fill, f"orthogonal weights in {those}")
    except Refused:
        draft.model = model
        raise
    return Change.joined([swapped, drawn])


@cache
def _numbers(method: str, name: str, depth: int) -> tuple[float, float, float, float, float | None]:
    """a, b, c, d and the slope of a leaky ReLU, read off what dks makes of a probe."""
    try:
        from dks.base import activation_transform as dks
    except ImportError as error:
        raise Refused(f"it needs the package dks: pip install 'unvanish[dks]' ({error})") from error
    seen: dict[str, Any] = {"result": 0.0, "slope": None}

    def probe(x: float, **more: Any) -> float:
        seen["input"], seen["slope"] = x, more.get("negative_slope")
        return seen["result"]

    def repeated(x: float, r: Callable[[float], float]) -> float:
        for _ in range(depth):
            x = r(x)
        return x

    # dks integrates over 100,000 nodes, which takes minutes; 400 give smooth functions to ten digits and more.
    expectation = partial(dks._estimate_gaussian_mean, order=NODES)
    try:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(dks, "_estimate_gaussian_mean", expectation))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", RuntimeWarning)  # its search passes values that overflow
            if (method, name) == ("TAT", "sigmoid"):
                stack.enter_context(mock.patch.object(dks, "sp_opt", SimpleNamespace(root=_root(depth))))
            bent = dks.get_transformed_activations(
                [name],
                method=method,
                max_slope_func=lambda slope: slope**depth,
                max_curv_func=lambda curvature: depth * curvature,
                subnet_max_func=repeated,
                activation_getter=lambda _: probe,
            )[name]
    except (ValueError, RuntimeError) as error:
        raise Refused(f"dks finds no transform of {name} for {depth} layers: {error}") from error
    low = float(bent(0.0))
    c = float(seen["input"])
    seen["result"] = 1.0
    a = float(bent(1.0)) - low
    b = float(seen["input"]) - c
    slope = None if seen["slope"] is None else float(seen["slope"])
    if not all(math.isfinite(value) for value in (a, b, c)) or a == 0.0:
        raise Refused(f"dks gives no usable numbers for {name} and {depth} layers")
    return a, b, c, low / a, slope


def _root(depth: int) -> Callable[..., Any]:
    """scipy's root for a TAT sigmoid, but for starts that the same equations in closed form show to lead nowhere.

    The starts of dks are independent of each other, and it takes the first that leads to a solution it accepts: often
    the twentieth, or none of fifty, each a thousand integrals. What it takes is solved by dks: its numbers are dks's.
    """
    import numpy as np
    from scipy import optimize, special

    x, weights = special.roots_legendre(NODES)
    x, weights = 10.0 * x, 10.0 * weights * np.exp(-50.0 * x**2) / math.sqrt(2.0 * math.pi)
    starts = 0

    def at(p: Any) -> tuple[Any, Any, float]:
        """For p = (b, c, d): σ(b x + c), σ + d, and a² so that Q(1) = a² E(σ + d)² = 1."""
        y = special.expit(p[0] * x + p[1])
        return y, y + p[2], 1.0 / (weights @ (y + p[2]) ** 2)

    def residual(p: Any) -> Any:
        """Q′(1) − 1, C′(1) − 1 and C″(1) − τ/L, where E is over x ~ N(0, 1)."""
        y, shifted, square = at(p)
        first = p[0] * y * (1.0 - y)
        second = p[0] * first * (1.0 - 2.0 * y)
        q_slope = square * (weights @ (shifted * first * x))
        c_slope, c_curvature = square * (weights @ first**2), square * (weights @ second**2)
        return np.array([q_slope - 1.0, c_slope - 1.0, c_curvature - CURVATURE / depth])

    def root(equations: Callable[[Any], Any], start: Any, **options: Any) -> Any:
        nonlocal starts
        starts += 1
        if starts < STARTS:  # dks judges by the last one whether there is a solution
            solution = optimize.root(residual, start, **options)
            if not solution.success or solution.x[0] * math.sqrt(at(solution.x)[2]) > STEEPEST + 1e-6:
                return SimpleNamespace(success=False)
        return optimize.root(equations, start, **options)

    return root


def _signed(term: float) -> str:
    return f"{'−' if term < 0.0 else '+'} {abs(term):.4g}"
