"""A steep and a flat direction: what a small gradient says about the distance that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Preset, Progress, Settings, experiment

FLAT, STEEP = 0.001, 1.0
"""f(w₁, w₂) = 0.001 w₁² + w₂²; its second derivatives are 0.002 and 2."""
CURVATURE = (2 * FLAT, 2 * STEEP)
OPTIMISERS = ("gd", "momentum", "adagrad", "rmsprop", "adam", "newton")
REPORT_EVERY = 50_000
NEAR = 0.005
"""Share of the way that is left where a path is drawn to its end."""

SETTINGS = (
    Parameter("w1", 1.0, "where the flat direction starts", -1e6, 1e6),
    Parameter("w2", 1.0, "where the steep direction starts", -1e6, 1e6),
    Parameter("rate", 0.5, "learning rate of gd, momentum and Adagrad", 1e-6, 10, log=True),
    Parameter("adaptive_rate", 0.01, "learning rate of RMSprop and Adam", 1e-6, 10, log=True),
    Parameter("momentum", 0.9, "share of the last step that momentum carries over", 0, 0.9999),
    Parameter("epsilon", 0.01, "the goal: a distance to the minimum", 1e-12, 1e3, log=True),
    Parameter("stop", 0.01, "a gradient norm at which one would stop", 1e-15, 1e6, log=True),
    Parameter("steps", 200_000, "steps at most", 1, 1_000_000, "steps", log=True),
)
PRESETS = (
    Preset("000", "Gradient descent at rate 0.5 from (1, 1)", {}, source="000"),
    Preset("far", "A hundred times farther: Adagrad loses", {"w1": 100.0, "w2": 100.0}),
)
COLUMNS = (
    Column("optimiser"),
    Column("steps", help="to come within epsilon of the minimum; – where the steps were not enough"),
    Column("w1_after_1000", help="what is left of w₁ after 1,000 steps"),
    Column("distance_after_1000", help="to the minimum, after 1,000 steps"),
    Column("steps_to_stop", help="until the gradient norm first falls below the stopping bound"),
    Column("distance_at_stop", help="to the minimum, when the gradient norm first falls below the stopping bound"),
    Column("distance_over_bound", help="that distance in units of the stopping bound"),
)

Pair = tuple[float, float]


class Path(NamedTuple):
    """One optimiser's way: steps and distance when it came close and when its gradient became small, and its points."""

    steps: int | None
    stop: int | None
    at_stop: float | None
    after_1000: Pair
    points: list[Pair]


@experiment(
    "ravine",
    title="A ravine",
    question="Does a small gradient mean that the minimum is near?",
    sources=("000", "002"),
    settings=SETTINGS,
    presets=PRESETS,
    pace="live",
)
def run(s: Settings, progress: Progress) -> Outcome:
    """f = 0.001 w₁² + w₂², whose gradient in w₁ is a thousandth of that in w₂ at the same distance.

    Six optimisers start at one point. Counted are the steps until the distance to (0, 0) is below epsilon, and the
    distance at the first gradient norm below ``stop``: at most stop / 0.002, 500 times the bound.
    """
    paths: dict[str, Path] = {}
    for place, name in enumerate(OPTIMISERS):
        progress(place / len(OPTIMISERS), name)
        paths[name] = walk(name, s, progress, place)
    rows = [_row(name, path, s.stop) for name, path in paths.items()]
    return Outcome(
        sentence=_sentence(paths, s),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_picture(paths),),
        checks=_checks(paths, s),
        notes=(
            f"However small the gradient norm, the distance can be {1 / CURVATURE[0]:.0f} times as large: the smallest"
            f" second derivative is {CURVATURE[0]:g}.",
            _farther(s.rate),
        ),
    )


def walk(name: str, s: Settings, progress: Progress, place: int = 0) -> Path:
    """Step until the distance is below epsilon, the gradient was below the bound, and 1,000 steps are done."""
    step = stepper(name, s)
    w: Pair = (s.w1, s.w2)
    steps = stop = at_stop = None
    after: Pair = w
    points: list[Pair] = []
    for count in range(s.steps + 1):
        if not (math.isfinite(w[0]) and math.isfinite(w[1])):
            return Path(None, stop, at_stop, (math.inf, math.inf) if count <= 1_000 else after, points)
        if count <= 1_000:
            after = w
            points.append(w)
        if steps is None and math.hypot(*w) < s.epsilon:
            steps = count
        gradient = (CURVATURE[0] * w[0], CURVATURE[1] * w[1])
        if stop is None and math.hypot(*gradient) < s.stop:
            stop, at_stop = count, math.hypot(*w)
        if steps is not None and stop is not None and count >= 1_000:
            break
        if count % REPORT_EVERY == REPORT_EVERY - 1:
            progress((place + count / s.steps) / len(OPTIMISERS), f"{name}, step {count + 1:,}")
        w = step(w, gradient)
    return Path(steps, stop, at_stop, after, points)


def stepper(name: str, s: Settings) -> Callable[[Pair, Pair], Pair]:
    """One optimiser's step on two numbers, with the state it keeps; the formulas are those of torch.optim."""
    return {
        "gd": _gd,
        "momentum": _momentum,
        "adagrad": _adagrad,
        "rmsprop": _rmsprop,
        "adam": _adam,
        "newton": _newton,
    }[name](s)


def _gd(s: Settings) -> Callable[[Pair, Pair], Pair]:
    rate: float = s.rate
    return lambda w, g: (w[0] - rate * g[0], w[1] - rate * g[1])


def _momentum(s: Settings) -> Callable[[Pair, Pair], Pair]:
    rate, share = s.rate, s.momentum
    v = [0.0, 0.0]

    def step(w: Pair, g: Pair) -> Pair:
        v[0], v[1] = share * v[0] + g[0], share * v[1] + g[1]
        return w[0] - rate * v[0], w[1] - rate * v[1]

    return step


def _adagrad(s: Settings) -> Callable[[Pair, Pair], Pair]:
    rate, root = s.rate, math.sqrt
    total = [0.0, 0.0]

    def step(w: Pair, g: Pair) -> Pair:
        total[0] += g[0] * g[0]
        total[1] += g[1] * g[1]
        return w[0] - rate * g[0] / (root(total[0]) + 1e-10), w[1] - rate * g[1] / (root(total[1]) + 1e-10)

    return step


def _rmsprop(s: Settings) -> Callable[[Pair, Pair], Pair]:
    rate, root = s.adaptive_rate, math.sqrt
    mean = [0.0, 0.0]

    def step(w: Pair, g: Pair) -> Pair:
        mean[0] += 0.01 * (g[0] * g[0] - mean[0])
        mean[1] += 0.01 * (g[1] * g[1] - mean[1])
        return w[0] - rate * g[0] / (root(mean[0]) + 1e-8), w[1] - rate * g[1] / (root(mean[1]) + 1e-8)

    return step


def _adam(s: Settings) -> Callable[[Pair, Pair], Pair]:
    rate, root = s.adaptive_rate, math.sqrt
    first, second, share = [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]

    def step(w: Pair, g: Pair) -> Pair:
        share[0] *= 0.9
        share[1] *= 0.999
        moved: list[float] = []
        for i in (0, 1):
            first[i] += 0.1 * (g[i] - first[i])
            second[i] += 0.001 * (g[i] * g[i] - second[i])
            size = root(second[i] / (1 - share[1])) + 1e-8
            moved.append(w[i] - rate * first[i] / (1 - share[0]) / size)
        return moved[0], moved[1]

    return step


def _newton(s: Settings) -> Callable[[Pair, Pair], Pair]:
    """Divides by the curvature, the scale that a gradient alone lacks."""
    del s
    return lambda w, g: (w[0] - g[0] / CURVATURE[0], w[1] - g[1] / CURVATURE[1])


def _row(name: str, path: Path, bound: float) -> dict[str, Any]:
    over = None if path.at_stop is None else path.at_stop / bound
    values = (name, path.steps, path.after_1000[0], math.hypot(*path.after_1000), path.stop, path.at_stop, over)
    return dict(zip((column.name for column in COLUMNS), values, strict=True))


def _sentence(paths: dict[str, Path], s: Settings) -> str:
    plain, adagrad = paths["gd"], paths["adagrad"]
    start = f"From ({s.w1:g}, {s.w2:g})"

    def took(path: Path) -> str:
        if path.steps is None:
            return f"has not come there after {s.steps:,} steps"
        return f"needs {path.steps:,} step{'' if path.steps == 1 else 's'}"

    said = f"{start} to within {s.epsilon:g} of the minimum gradient descent {took(plain)}, Adagrad {took(adagrad)}"
    if plain.at_stop is None or plain.stop is None:
        return f"{said}."
    reason = f"stopping at a gradient norm below {s.stop:g} would end gradient descent at step {plain.stop:,}"
    return f"{said}; {reason}, {plain.at_stop:.3g} away."


def _farther(rate: float) -> str:
    """What a start ten times as far costs gradient descent, which shrinks each coordinate by |1 − rate · curvature|."""
    slowest = max(abs(1 - rate * curvature) for curvature in CURVATURE)
    if slowest >= 1:
        return f"At rate {rate:g} gradient descent never settles: that needs a rate below {2 / CURVATURE[1]:g}."
    more = math.log(0.1) / math.log(slowest)
    return (
        f"Starting ten times as far away costs gradient descent {more:,.1f} more steps:"
        f" each leaves {slowest:.10g} of it."
    )


def _checks(paths: dict[str, Path], s: Settings) -> tuple[Check, ...]:
    """Gradient descent has a closed form: a coordinate shrinks by 1 − rate · curvature each step."""
    done = min(1_000, s.steps)
    checks: list[Check] = []
    expected = s.w1 * (1 - s.rate * CURVATURE[0]) ** done
    if done == len(paths["gd"].points) - 1:
        what = f"w₁ after {done:,} steps of gradient descent, in closed form"
        checks.append(Check.close(what, expected, paths["gd"].after_1000[0], 1e-9))
    over = max((path.at_stop / s.stop for path in paths.values() if path.at_stop is not None), default=None)
    if over is not None:
        most = 1 / CURVATURE[0]
        checks.append(Check("distance at the stop over the bound", f"at most {most:g}", over, over <= most))
    return tuple(checks)


def _picture(paths: dict[str, Path]) -> Drawing:
    return Drawing.of(
        "paths",
        "Six ways down a ravine",
        "Lines of equal height are long ellipses; from the start each optimiser's path, for 1,000 steps at most.",
        ellipses(paths["gd"].points[0]),
        [{"optimizer": name, "points": until_there(path.points)} for name, path in paths.items()],
        (0.0, 0.0),
        x_label="w₁, the flat direction",
        y_label="w₂, the steep direction",
    )


def until_there(points: list[Pair]) -> list[Pair]:
    """A path up to its first point too near to the minimum to be told from it in the picture."""
    near = NEAR * math.hypot(*points[0])
    there = next((place for place, point in enumerate(points) if math.hypot(*point) <= near), len(points))
    return points[: there + 1]


def ellipses(start: Pair) -> list[list[Pair]]:
    """Closed lines of equal f, each four times as high as the one inside it; the start lies on the last."""
    height = FLAT * start[0] ** 2 + STEEP * start[1] ** 2 or 1.0
    turns = [2 * math.pi * i / 120 for i in range(120)]
    turns.append(0.0)
    levels = [height / 4**k for k in reversed(range(5))]
    return [
        [(math.sqrt(f / FLAT) * math.cos(turn), math.sqrt(f / STEEP) * math.sin(turn)) for turn in turns]
        for f in levels
    ]
