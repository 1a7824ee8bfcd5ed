"""One neuron a layer: every factor of the gradient, exactly, at any depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Preset, Progress, Settings, experiment
from unvanish.lab.beside import beside
from unvanish.lab.sources import SOURCES
from unvanish.records import UnvanishError
from unvanish.theory import Chain, Scaled, activations, chain, running_product
from unvanish.theory.chain import LOSSES, SMALLEST, overflow_from, zero_from
from unvanish.theory.wide import Layers, draw_weights, layers
from unvanish.words.numbers import exactly

if TYPE_CHECKING:
    from unvanish.problem import Problem

MOST_NUMBERS = 20_000_000
"""Layers times inputs: what is kept for a run stays below a few gigabytes."""
MOST_WEIGHTS = 5_000_000
"""Of all layers together, where a layer has more than one neuron: 40 megabytes."""
DRAWN = 200
"""Layers in a picture at most; of a deeper chain every second, third … one."""
KNOWN = {20: -26.6821253948, 50: -67.8561163924}
"""log10 ∂a_L/∂w₁ for weight 0.17, input 1 and a sigmoid, from arithmetic with 60 digits."""
WRITTEN = ("none", "000", "003-line-2", "003-line-3")

SETTINGS = (
    Parameter("depth", 20, "layers", 1, 100_000, "layers", log=True, slide=(1, 1_000)),
    Parameter(
        "width", 1, "neurons a layer; of more than one, weights are w·N(0, 1/width)", 1, 256, "neurons", log=True
    ),
    Parameter("weight", (0.17,), "w of every layer, or one for each", -1_000, 1_000, slide=(-8, 8)),
    Parameter(
        "noise",
        0.0,
        "standard deviation of what is added to each weight; weight 0 and noise 1 is N(0, 1)",
        0,
        100,
        slide=(0, 3),
    ),
    Parameter("bias", 0.0, "the bias of every layer", -1_000, 1_000, slide=(-5, 5)),
    Parameter("input", (1.0,), "one input, or the inputs of a training set", -1e6, 1e6, slide=(-5, 5)),
    Parameter("target", (0.0,), "what the output should be, for each input or for all", -1e6, 1e6, slide=(-2, 2)),
    Parameter("loss", "output", "what is differentiated: the output, ½ Σ (o − y)² or Σ (o − y)²", choices=LOSSES),
    Parameter("activation", "sigmoid", "φ", choices=activations()),
    Parameter("residual", False, "each layer adds what entered it: a + φ(w·a + b)"),
    Parameter("written", "none", "a source document's own formula, to compare with", choices=WRITTEN),
    Parameter("seed", 0, "of the noise", 0, 2**31 - 1),
    Parameter("rows", 1_000, "rows of the table at most; layers are spread evenly", 2, 100_000, log=True),
)
FOUR: dict[str, Any] = {
    "depth": 4,
    "weight": (1.541, -0.2934, -2.1788, 0.5684),
    "input": (-1.0845, -1.3986, 0.4033, 0.8380, -0.7193),
    "target": (0.4529, 0.1768, 0.3553, 0.6219, 0.4818),
    "loss": "square",
}
"""The example of source 003."""
PRESETS = (
    Preset("000", "The recursion with φ in place of φ′", {"depth": 20, "written": "000"}, source="000"),
    Preset("001", "Weights drawn from N(0, 1)", {"depth": 20, "weight": 0.0, "noise": 1.0}, source="001"),
    Preset(
        "003",
        "Four weights and a training set",
        {**FOUR, "written": "003-line-2"},
        source="003",
    ),
    Preset("004", "20 layers, every weight 0.17", {"depth": 20, "weight": 0.17}, source="004"),
    Preset("004-50", "50 layers, every weight 0.17", {"depth": 50, "weight": 0.17}, source="004"),
)
ROW = 36
"""What a row of the table weighs beside one number of an array: a dozen numbers, each of them an object."""
CHECKED, CHECKED_WIDTH = 300, 64
"""Layers and neurons of a chain that check opens from a page: it takes some seconds for more."""
COLUMNS = (
    Column("layer", help="1 is next to the input"),
    Column("weight"),
    Column("pre_activation", help="z = w·a + b; the mean over inputs"),
    Column("activation", help="a, what the layer sends on; the mean over inputs"),
    Column("slope", help="φ′(z); the mean over inputs"),
    Column("factor", help="∂a/∂(a of the layer before): w·φ′(z), plus 1 with a residual connection"),
    Column("log10_delta", "log10", "∂C/∂z: root mean square over inputs"),
    Column("log10_gradient", "log10", "∂C/∂w, summed over inputs", sign="sign"),
    Column("sign", help="sign of ∂C/∂w"),
    Column("zero_in", help="number types in which the error signal has become 0 on its way here"),
)


@experiment(
    "chain",
    title="One neuron a layer",
    question="What is the gradient of the first weight made of?",
    sources=("000", "001", "003", "004"),
    settings=SETTINGS,
    presets=PRESETS,
    pace="live",
    cost=lambda s: s.depth * len(s.input) + ROW * min(s.rows, s.depth),
    network=lambda s: _network(s),
)
def run(s: Settings, progress: Progress) -> Outcome:
    """A chain aₗ = φ(wₗ·aₗ₋₁ + b). The gradient of weight l is δₗ·aₗ₋₁; δₗ is a product over later layers.

    Gradients are kept as mantissa and exponent, so that they are exact where every number type has long reached zero.
    """
    import numpy as np

    made = _made(s)
    if not (np.isfinite(made.activation).all() and np.isfinite(made.error).all()):
        return _overflow(made)
    gradient, zeros = made.weight_gradient, _leaving(made, zero_from)
    shown = np.unique(np.linspace(0, made.depth - 1, min(s.rows, made.depth)).round().astype(int))
    notes = [] if len(shown) == made.depth else [f"The table shows {len(shown):,} of {made.depth:,} layers."]
    notes += [f"{name} has lost the error signal from layer {place:,} down." for name, place in zeros.items() if place]
    beyond = _leaving(made, overflow_from)
    notes += [
        f"{name} holds no number as large as the one at layer {place:,}." for name, place in beyond.items() if place
    ]
    if isinstance(made, Chain) and s.written != "none":
        notes.append(_comparison(made, s.written))
    if isinstance(made, Layers):
        notes.append(
            f"Of {s.width} neurons the table has, under weight, slope and factor, what the norm of the error signal is"
            " multiplied by, and under gradient the norm for the whole layer; the output is the sum over √width."
        )
    others = beside(s, made, _made)
    return Outcome(
        sentence=_sentence(made, gradient, s, zeros),
        columns=COLUMNS,
        rows=_rows(made, gradient, shown.tolist(), zeros),
        pictures=(*_pictures(made, gradient, s), *([others] if others else [])),
        checks=_checks(made, gradient, s),
        notes=tuple(notes),
    )


def as_written(made: Chain, written: str) -> Scaled:
    """∂C/∂w₁ by a source document's own formula, summed over inputs.

    "000": φ(z) where φ′(z) belongs. "003-line-2" and "003-line-3": with the signs, and the weights, they have.
    """
    import numpy as np

    later = made.weights[1:]
    if written == "000":
        activations = made.activation - made.before if made.is_residual else made.activation
        factors = np.concatenate([activations, np.broadcast_to(later, (len(activations), len(later)))], axis=1)
        return _summed(factors, made.error * made.inputs)
    weights = made.weights if written == "003-line-3" else later
    factors = np.concatenate([made.slope, np.broadcast_to(-weights, (len(made.slope), len(weights)))], axis=1)
    return _summed(factors, made.error * made.inputs)


def _summed(factors: Any, start: Any) -> Scaled:
    from unvanish.theory.products import scaled_sum

    return scaled_sum(running_product(factors)[:, -1] * Scaled.of(start))


def _made(s: Settings) -> Chain | Layers:
    targets, weights = targets_of(s), weights_of(s)  # what is asked for is checked before weights are drawn
    if s.width == 1:
        return chain(weights, s.bias, s.input, s.activation, s.residual, s.loss, targets)
    return layers(weights, s.bias, s.input[0], s.activation, s.residual, s.loss, targets[0])


def weights_of(s: Settings) -> Any:
    """One weight a layer, shape (L,); with more than one neuron a layer its matrices, (L, n, n)."""
    import numpy as np

    if len(s.weight) not in (1, s.depth):
        raise UnvanishError(
            f"lab chain: {len(s.weight):,} weights for depth {s.depth:,} contradict each other; "
            f"give one weight for all layers, or depth {len(s.weight):,}"
        )
    weights = np.broadcast_to(np.array(s.weight), (s.depth,)).astype(float)
    if s.width > 1:
        return draw_weights(weights.tolist(), s.noise, s.width, s.seed)
    return weights + s.noise * np.random.default_rng(s.seed).standard_normal(s.depth) if s.noise else weights


def targets_of(s: Settings) -> tuple[float, ...]:
    """One target for all inputs, or one for each; UnvanishError where the settings ask for too much or for nonsense."""
    if s.width > 1:
        _check_width(s)
    if len(s.target) not in (1, len(s.input)):
        raise UnvanishError(
            f"lab chain: {len(s.target):,} targets for {len(s.input):,} inputs contradict each other; "
            "give one target for all inputs, or one for each"
        )
    if s.depth * len(s.input) > MOST_NUMBERS:
        raise UnvanishError(
            f"lab chain: {s.depth:,} layers on {len(s.input):,} inputs are more than {MOST_NUMBERS:,} numbers; "
            f"at this depth give at most {MOST_NUMBERS // s.depth:,} inputs"
        )
    return s.target


def _check_width(s: Settings) -> None:
    if len(s.input) > 1 or s.written != "none":
        raise UnvanishError(
            f"lab chain: width {s.width} goes with one input, which every neuron of the first layer sees, and with no"
            " document's formula; give one input and written none, or width 1"
        )
    if s.depth * s.width**2 > MOST_WEIGHTS:
        raise UnvanishError(
            f"lab chain: {s.depth:,} layers of {s.width} neurons have more than {MOST_WEIGHTS:,} weights; at this"
            f" width take a depth of at most {MOST_WEIGHTS // s.width**2:,}"
        )


def _leaving(made: Chain | Layers, beyond: Callable[[Scaled, str], int | None]) -> dict[str, int | None]:
    """For each number type the layer, nearest to the output, at which every input's error signal leaves its range."""
    back = made.loudest[::-1]
    places = {name: beyond(back, name) for name in SMALLEST}
    return {name: place and made.depth + 1 - place for name, place in places.items()}


def _rows(
    made: Chain | Layers, gradient: Scaled, shown: list[int], zeros: dict[str, int | None]
) -> tuple[dict[str, Any], ...]:
    means = [part.mean(axis=0)[shown] for part in (made.pre_activation, made.activation, made.slope, made.factor)]
    columns = [made.weights[shown], *means, made.log10_signal[shown], gradient.log10[shown], gradient.sign[shown]]
    names = [column.name for column in COLUMNS]
    rows: list[dict[str, Any]] = []
    for place, values in zip(shown, zip(*(column.tolist() for column in columns), strict=True), strict=True):
        lost = ", ".join(name for name, layer in zeros.items() if layer and place + 1 <= layer)
        rows.append(dict(zip(names, (place + 1, *values, lost), strict=True)))
    return tuple(rows)


def _sentence(made: Chain | Layers, gradient: Scaled, s: Settings, zeros: dict[str, int | None]) -> str:
    what = f"∂{'out' if s.loss == 'output' else 'C'}/∂w₁"
    what = f"the norm of {what.replace('w', 'W')}" if s.width > 1 else what
    first = exactly(float(gradient.log10[0]))
    value = f"-{first}" if gradient.sign[0] < 0 else first
    count = f"{made.depth:,} layers" if made.depth > 1 else "1 layer"
    count += f" of {s.width} neurons" if s.width > 1 else ""
    start = f"Through {count} {what} is {value}{' exactly' if first == '0' else ''}{_blame(made, s)}"
    gone = [name for name, layer in zeros.items() if layer or zero_from(gradient[:1], name)]
    kept = [name for name in zeros if name not in gone]
    if not gone or first == "0":
        return f"{start}."
    return f"{start}; it is 0 in {_and(gone)}{f', not in {_and(kept)}' if kept else ''}."


def _blame(made: Chain | Layers, s: Settings) -> str:
    """Which factors made it so: the product of the weights and that of the slopes, where the two can be told apart."""
    if made.depth == 1:
        return ""
    if s.residual:
        gain = float(running_product(made.factor[:, 1:])[:, -1].log10.mean())
        return f": with the connection around each layer the factors multiply to {exactly(gain)}"
    weights, slopes = (float(part) for part in blame(made))
    verbs = ["shrink" if part < -1e-12 else "raise" if part > 1e-12 else "leave" for part in (weights, slopes)]
    both = f"both {verbs[0]} it" if verbs[0] == verbs[1] else f"the weights {verbs[0]} it, the slopes {verbs[1]} it"
    return (
        f": {made.depth - 1:,} {'weights' if s.width == 1 else 'weight matrices'} multiply to {exactly(weights)},"
        f" {made.depth:,} slopes to {exactly(slopes)}"
        f" ({both.replace('leave it', 'leave it as it is')})"
    )


def blame(made: Chain | Layers) -> tuple[float, float]:
    """log10 of the product of the later weights, and of that of all slopes (the mean over inputs)."""
    weights = float(running_product(made.weights[1:]).log10[-1]) if made.depth > 1 else 0.0
    return weights, float(running_product(made.slope)[:, -1].log10.mean())


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _overflow(made: Chain | Layers) -> Outcome:
    """The activations themselves, or the error, leave float64: there is nothing to differentiate."""
    import numpy as np

    gone = (~np.isfinite(made.activation)).any(axis=0)
    if not gone.any():
        text = "The derivative of the loss by the output is beyond float64; take a smaller target or smaller weights."
        return Outcome(sentence=text, columns=COLUMNS)
    layer = int(gone.argmax()) + 1
    text = f"The activations grow beyond float64 in layer {layer:,} of {made.depth:,}, so that no gradient exists"
    return Outcome(sentence=f"{text}; take smaller weights or fewer layers.", columns=COLUMNS)


def _comparison(made: Chain, written: str) -> str:
    theirs, true = as_written(made, written), made.weight_gradient[0]
    number, _, line = written.partition("-line-")
    source = f"line {line} of source {number}" if line else f"source {number}"
    source += f" ({SOURCES[number]})"
    value = f"{'-' if theirs.sign < 0 else ''}{exactly(float(theirs.log10))}"
    if true.sign == 0 or theirs.sign == 0:
        return f"As {source} writes it, the gradient of w₁ is {value}."
    ratio = float(theirs.log10 - true.log10)
    sign = "minus " if theirs.sign != true.sign else ""
    return f"As {source} writes it, the gradient of w₁ is {value}: {sign}{exactly(ratio)} times the true one."


def _checks(made: Chain | Layers, gradient: Scaled, s: Settings) -> tuple[Check, ...]:
    """δ₁ once more, as a plain sum of logarithms; and the published example where the settings are its own."""
    import numpy as np

    checks: list[Check] = []
    if (made.factor != 0).all() and (made.slope != 0).all() and (made.error != 0).all():
        # one logarithm each: the product of two factors may underflow where neither does
        parts = (made.factor[:, 1:], made.error[:, None], made.slope[:, :1])
        logs = np.log10(np.abs(np.concatenate(parts, axis=1))).sum(axis=1)
        one, other = float(logs[0]), float(made.delta.log10[0, 0])
        checks.append(
            Check("log10 |δ₁| of the first input, as a sum of logarithms", one, other, abs(one - other) < 1e-6)
        )
    plain = s.activation == "sigmoid" and not (s.residual or s.noise or s.bias) and s.loss == "output"
    if plain and s.width == 1 and made.depth in KNOWN and set(s.weight) == {0.17} and s.input == (1.0,):
        checks.append(Check.close("log10 ∂out/∂w₁, 60 digits", KNOWN[made.depth], float(gradient.log10[0]), 1e-11))
    return tuple(checks)


def _pictures(made: Chain | Layers, gradient: Scaled, s: Settings) -> tuple[Drawing, ...]:
    import numpy as np

    apart = -(-made.depth // DRAWN)
    few = np.unique(np.append(np.arange(0, made.depth, apart), made.depth - 1))
    every = f", one layer in {apart}: the axis counts those" if apart > 1 else ""
    names = [str(place + 1) for place in few.tolist()]
    stairs = Drawing.of(
        "staircase",
        f"The error signal of a chain of {made.depth:,}{every}",
        "A line from the output at the right to the input at the left; its slope is what one layer multiplies by.",
        names,
        made.log10_signal[few].tolist(),
        gradient.log10[few].tolist(),
        "float64",
    )
    if s.residual or made.depth < 2:
        return (stairs,)
    later = few[1:]
    with np.errstate(divide="ignore"):
        weights, slopes = np.log10(np.abs(made.weights[later])), np.log10(np.abs(made.slope[:, later])).mean(axis=0)
    return stairs, Drawing.of(
        "factors",
        f"What each layer multiplies by{every}",
        "For each layer the size of its weight and its slope, around 1, and their product.",
        names[1:],
        {"weights": weights.tolist(), "slopes": slopes.tolist()},
        (weights + slopes).tolist(),
    )


def _network(s: Settings) -> Callable[[], Problem]:
    """What builds the network of these settings; UnvanishError where a check of it would take long."""
    from unvanish.lab.network import network

    if s.depth > CHECKED or s.width > CHECKED_WIDTH:
        raise UnvanishError(
            f"lab chain: from here check opens up to {CHECKED} layers of {CHECKED_WIDTH} neurons, not {s.depth:,} of"
            f" {s.width}; use unvanish check"
        )
    return lambda: network(s, weights_of(s), targets_of(s))
