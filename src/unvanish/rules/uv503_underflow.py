"""UV503: the gradient exists, but its number type cannot hold it."""

from __future__ import annotations

from unvanish.decide.limits import UNDERFLOW
from unvanish.decide.live import not_asked
from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, sources, subject
from unvanish.words.numbers import percent
from unvanish.words.spans import called


@rule(
    "UV503",
    "underflow",
    "underflow of the number type",
    tier="rounding",
    levels=("error",),
    needs=("underflow_fraction",),
    fires_on=("underflow-loss-1e-42", "half-precision-underflow"),
    silent_on=(
        "loss-scaled-1e-6",
        "relu-he-20",
        "small-cnn",
        "small-gpt",
        "below-eps-adam",
        "below-eps-rmsprop",
        "lstm",
        "sigmoid-50",
    ),
)
def underflow(flow: Flow, *, threshold: float = UNDERFLOW) -> list[Statement]:
    """The gradient is there, but most of its entries are too small for their number type and are lost.

    Example: a loss multiplied by 1e-42 in float32, or the tiny gradients of a network in float16, whose smallest
    normal number is 6.1e-5.

    Why: below the smallest normal number of a type the digits fade, and a little further down everything is 0. The
    network itself is fine: the signal reaches the layer in proportion, and it is only small in absolute size.

    Evidence: the share of the layer's gradient entries that are truly not zero, by an exact walk, and lie below the
    smallest normal number of the type they are computed in; more than ``threshold``. A layer whose signal has
    vanished on the way is UV101's, whatever its type, and one below the optimizer's eps UV504's. A stricter
    ``threshold`` does not report the milder layers.

    What helps: scale the loss up and the gradient down again before the step (a gradient scaler), or compute in
    bfloat16, which has the range of float32.

    Source: Micikevicius et al. 2018, Mixed precision training; Goldberg 1991, What every computer scientist should
    know about floating-point arithmetic.
    """
    layers = [layer for layer in judged(flow, "underflow") if _lost(layer) > threshold]
    if not layers:
        return []
    worst = max(layers, key=_lost)
    kind = worst.dtype or "its number type"
    message = (
        f"{subject(flow, layers, 'loses', 'lose')} most of the gradient to rounding: {percent(_lost(worst))} of the"
        f" non-zero entries of {called(worst.name)} are below the smallest normal number of {kind}."
        f"{not_asked(flow)}{sources(layers)}"
    )
    return [
        Statement(
            layers=names(layers),
            cause=worst.dtype,
            message=message,
            evidence=(Evidence(name="underflow_fraction", value=_lost(worst), relation=">", threshold=threshold),),
        )
    ]


def _lost(layer: LayerFlow) -> float:
    """A layer judged underflow has a share; a flow that says otherwise is not worth an alarm."""
    return 0.0 if layer.underflow_fraction is None else layer.underflow_fraction
