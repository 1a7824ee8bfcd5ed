"""What if these layers were others: a reported network beside its idealisation as a wide random network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from unvanish.lab import Column, Drawing, Outcome, Parameter, Progress, Settings, experiment
from unvanish.population.initialisations import scales, variances_of
from unvanish.records import LayerFlow, UnvanishError
from unvanish.report import Report
from unvanish.theory import Activation, activation, activations
from unvanish.theory.activations import CENTRED, centred_sigmoid
from unvanish.theory.meanfield import critical, critical_with_bias, moments
from unvanish.words.activations import BY_NAME
from unvanish.words.numbers import exactly

AS_REPORTED = "as reported"
INITIALISATIONS = ("torch default", "lecun", "xavier", "he", "orthogonal", "critical")
RESIDUALS = ("none", "plain", "scaled")
FEWEST_Q, LARGEST_Q = 1e-12, 1e12
"""Beyond these variances an activation is its slope at 0, or its outer slopes, and nothing changes any more."""
EXAMPLE = "sigmoid-20"
SIMILAR = {"prelu": "leaky_relu_0.2", "swish": "silu"}
"""What the theory has in place of calls that it does not have by name."""

SETTINGS = (
    Parameter(
        "report", "", "a report that was saved as .json; none: the zoo's network sigmoid-20, checked here", local=True
    ),
    Parameter("activation", "tanh", "φ of every layer", choices=(AS_REPORTED, CENTRED, *activations())),
    Parameter(
        "initialisation",
        "critical",
        "variances of weights and biases; critical: those that hold the gradient",
        choices=INITIALISATIONS,
    ),
    Parameter(
        "residual",
        "none",
        "plain: each layer adds what entered it; scaled: with its branch times 1/√L",
        choices=RESIDUALS,
    ),
)
COLUMNS = (
    Column("layer"),
    Column("log10_reported", "log10", "the error signal the report has, per sample"),
    Column("log10_idealised", "log10", "the error signal of the wide random network, equal at the last layer"),
    Column("log10_reported_step", "log10", "what the step back to this layer multiplied by, as reported"),
    Column("log10_idealised_step", "log10", "the same in the wide random network"),
    Column("variance", help="q of the idealised pre-activations"),
)


class Ideal(NamedTuple):
    """A wide random network: per layer q, and log10 of the step back from the layer after it (0 at the last)."""

    variances: list[float]
    steps: list[float]


@experiment(
    "whatif",
    title="What if these layers were others?",
    question="What would another activation, initialisation or residual connection do to a reported network?",
    settings=SETTINGS,
    pace="live",
    on_report=lambda report, s, progress: what_if(report, s, progress),
)
def run(s: Settings, progress: Progress) -> Outcome:
    """A saved report's error signal beside that of a wide random network of as many layers.

    The variance of the pre-activations goes forward as q ← σ_w² E φ² + σ_b², the signal back by √(σ_w² E φ′²) a layer;
    with a residual branch times s the stream's mean and square grow by s E φ and s² E φ², and the signal in the stream
    by √(1 + s² σ_w² E φ′²). Source: Schoenholz et al. 2017; Yang and Schoenholz 2017.
    """
    return what_if(_read(s.report) if s.report else _example(), s, progress)


def what_if(report: Report, s: Settings, progress: Progress) -> Outcome:
    """The layers of a report, and what idealised layers with these settings would do in their place."""
    layers = [layer for layer in report.layers if layer.log10_signal is not None and not layer.frozen]
    if len(layers) < 2 or not all(math.isfinite(layer.log10_signal or 0.0) for layer in layers[-1:]):
        raise UnvanishError(
            f"lab whatif: the report has {len(layers)} layers with an error signal, and needs at least two, the last of"
            " them with one that is a number above 0; save a report of a network through which some signal flows"
        )
    phi = _activation(s.activation, report)
    weight, bias = variances(s.initialisation, phi, _fan_in(layers))
    ideal = idealised(phi, weight, bias, len(layers), s.residual, progress)
    reported = [layer.log10_signal for layer in layers]
    signals = _carried(reported[-1] or 0.0, ideal.steps)
    label = _label(phi, s)
    return Outcome(
        sentence=_sentence(reported, signals, label),
        columns=COLUMNS,
        rows=tuple(_rows(layers, signals, ideal)),
        pictures=(_picture(report, layers, signals, label),),
        notes=_notes(phi, s, weight, bias, len(report.layers) - len(layers)),
    )


def variances(name: str, phi: Activation, fan_in: int) -> tuple[float, float]:
    """σ_w² and σ_b² of an initialisation; UnvanishError where the activation has no critical one."""
    if name in ("lecun", "orthogonal"):
        return 1.0, 0.0
    if name != "critical":
        init = "default" if name == "torch default" else name
        return variances_of(init, scales(init, phi.name, fan_in, fan_in), fan_in, fan_in)
    one = critical(phi, 1.0)
    roots = [one] if one.feasible else list(critical_with_bias(phi, 0.0))
    if not roots:
        raise UnvanishError(
            f"lab whatif: {phi.name} has no initialisation that holds the gradient; choose another initialisation than"
            " critical, or another activation"
        )
    return roots[0].sigma_w2, max(roots[0].sigma_b2, 0.0)


def idealised(
    phi: Activation, sigma_w2: float, sigma_b2: float, depth: int, residual: str, progress: Progress
) -> Ideal:
    """Variances and steps back of ``depth`` wide layers on inputs of mean square one; the last is a linear head.

    The signal is that at a layer's own output z_l, before the activation: in the residual case ∂C/∂z_l is the stream's
    signal times s φ′(z_l).
    """
    plain = residual == "none"
    scale = 1 / math.sqrt(depth - 1) if residual == "scaled" else 1.0
    known = cache(lambda q: moments(phi, q))
    mean, square = 0.0, 1.0
    variances: list[float] = []
    slopes: list[float] = []
    for at in range(depth):
        progress(at / depth, f"layer {at + 1:,}")
        q = sigma_w2 * square + sigma_b2
        variances.append(q)
        here = known(_settled(q))
        slopes.append(here.slope_square)
        if plain:
            # beyond the clipped variance the square goes on in proportion
            mean, square = here.mean, here.square * (q / here.q)
        else:
            square += 2 * scale * mean * here.mean + scale * scale * here.square
            mean += scale * here.mean
    return Ideal(
        variances, [*(_step(slopes, at, sigma_w2, depth, None if plain else scale) for at in range(depth - 1)), 0]
    )


def _settled(q: float) -> float:
    """Twelve digits of q, so that layers whose variance has settled share their averages."""
    return float(f"{min(max(q, FEWEST_Q), LARGEST_Q):.11e}")


def _step(slopes: Sequence[float], at: int, sigma_w2: float, depth: int, scale: float | None) -> float:
    """log10 ‖∂C/∂z_l‖ / ‖∂C/∂z_{l+1}‖."""
    if scale is None or at == depth - 2:
        squared = sigma_w2 * slopes[at] * (1.0 if scale is None else scale * scale)
    elif slopes[at + 1] == 0:
        return math.nan
    else:
        squared = (1 + scale * scale * sigma_w2 * slopes[at + 1]) * slopes[at] / slopes[at + 1]
    return 0.5 * math.log10(squared) if squared > 0 else -math.inf


def _activation(name: str, report: Report) -> Activation:
    if name == CENTRED:
        return centred_sigmoid()
    if name != AS_REPORTED:
        return activation(name)
    called = Counter(call.name.rstrip("_") for call in report.calls if call.role == "slopes")
    for call, _ in called.most_common():
        known = BY_NAME.get(SIMILAR.get(call, call))
        if known and known.formula:
            return activation(known.name)
    raise UnvanishError(
        f"lab whatif: the report names {', '.join(called) or 'no activation'}, which the theory does not have; choose"
        f" an activation: {', '.join(activations())}"
    )


def _fan_in(layers: Sequence[LayerFlow]) -> int:
    """The width that the usual number of parameters of a square layer speaks for."""
    counts = sorted(layer.parameters for layer in layers)
    return max(1, math.isqrt(counts[len(counts) // 2]))


def _carried(last: float, steps: Sequence[float]) -> list[float]:
    """The signal from the last layer back, each the one after it plus its step."""
    logs = [last]
    for step in reversed(steps[:-1]):
        logs.append(logs[-1] + step)
    return logs[::-1]


def _label(phi: Activation, s: Settings) -> str:
    weights = {"torch default": "torch's default weights", "orthogonal": "orthogonal weights"}
    said = f"{phi.name} with {weights.get(s.initialisation, f'{s.initialisation} weights')}"
    return said if s.residual == "none" else f"{said}, {s.residual} residual"


def _sentence(reported: Sequence[float | None], signals: Sequence[float], label: str) -> str:
    def share(values: Sequence[float | None]) -> str:
        return exactly((values[0] if values[0] is not None else math.nan) - (values[-1] or 0.0))

    return (
        f"From the last of {len(signals):,} layers to the first the reported error signal is multiplied by"
        f" {share(reported)}; in wide layers of {label} it would be multiplied by {share(signals)}."
    )


def _rows(layers: Sequence[LayerFlow], signals: Sequence[float], ideal: Ideal) -> list[dict[str, Any]]:
    names = [column.name for column in COLUMNS]
    rows: list[dict[str, Any]] = []
    for at, (layer, signal) in enumerate(zip(layers, signals, strict=True)):
        last = at == len(layers) - 1
        own, after = layer.log10_signal, None if last else layers[at + 1].log10_signal
        taken = own - after if own is not None and after is not None and after > -math.inf else None
        step = None if last else ideal.steps[at]
        rows.append(dict(zip(names, (layer.name, own, signal, taken, step, ideal.variances[at]), strict=True)))
    return rows


def _picture(report: Report, layers: Sequence[LayerFlow], signals: Sequence[float], label: str) -> Drawing:
    return Drawing.of(
        "staircase",
        "The reported error signal, and the idealised one",
        f"One line for the report, one for wide random layers of {label}; both start at the reported signal of the last"
        " layer, at the right.",
        [layer.name for layer in layers],
        [layer.log10_signal for layer in layers],
        None,
        report.setting.dtype,
        compare=[(label, signals)],
        line="as reported",
    )


def _notes(phi: Activation, s: Settings, weight: float, bias: float, left_out: int) -> tuple[str, ...]:
    """What was assumed, and what therefore is not in the number."""
    notes = [
        f"Idealised: every layer is wide and dense, its weights drawn with σ_w² = {weight:.6g} and biases with σ_b² ="
        f" {bias:.6g}, the last a linear head; inputs have mean square 1.",
        "Left out: the real widths and how one draw of the weights differs from the next, convolutions, normalisers,"
        " attention and branches, correlations that training has made, and whether the network would train.",
    ]
    if s.initialisation == "orthogonal":
        notes.append(
            "On average orthogonal weights act as those of lecun; what they change is how little the result scatters."
        )
    if s.residual == "plain":
        notes.append(
            "A residual stream with a mean, as of ReLU, gains more at finite width: 20 layers of width 256 half as much"
            " again."
        )
    if s.initialisation == "critical":
        one = critical(phi, 1.0)
        if one.feasible and one.q_slope >= 1 + 1e-9:
            notes.append(f"For {phi.name} the variance does not stay where the gradient is held: it drifts with depth.")
    if left_out:
        notes.append(f"{left_out:,} layers of the report are frozen or have no error signal; they are left out.")
    return tuple(notes)


def _read(path: str) -> Report:
    try:
        return Report.from_json(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, UnvanishError):
            raise
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UnvanishError(
            f"lab whatif: cannot read the report {path!r}: {reason}; give a file that report.save('….json') wrote"
        ) from None


@cache
def _example() -> Report:
    from unvanish import diagnose
    from unvanish.zoo import get

    return diagnose(get(EXAMPLE).build(0), effort="quick")
