"""UV502: the forward pass is finite, but its gradient is not, or not in the type it is computed in."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import call_place, factor, judged, names, sources, subject
from unvanish.words.numbers import LARGEST
from unvanish.words.spans import called


@rule(
    "UV502",
    "nonfinite",
    "non-finite backward pass",
    tier="nonfinite",
    levels=("error",),
    needs=("nonfinite", "log10_grad_norm"),
    remedies=("centred-sigmoid", "activation-tanh"),
    fires_on=("nonfinite-sqrt0",),
    silent_on=(
        "nonfinite-log",
        "masked-attention",
        "overflow-exp",
        "relu-he-20",
        "chaotic-tanh-50",
        "half-precision-underflow",
        "exploding-linear-30",
        "small-gpt",
    ),
)
def nonfinite_backward(flow: Flow) -> list[Statement]:
    """The loss is finite, but the gradient is inf or nan.

    Example: the square root at exactly 0 is 0 with infinite slope, and a norm of a zero vector contains it. Times a
    zero error signal this gives nan, and one step later every weight is nan.

    Why: slopes can be infinite where values are not, and a gradient can grow beyond the range of its number type
    although the outputs stay small. The tool's own walk keeps exponents apart and does not overflow; the optimizer's
    gradient does.

    Evidence: the first call of the backward pass with a non-finite result. Where the exact walk is finite: log10 of
    the rms of a layer's gradient entries, above log10 of the largest number of the type (float16 4.816, bfloat16 and
    float32 38.53, float64 308.25); at least one entry is then inf.

    What helps: for an infinite slope, change the call: add a small constant under the root. For overflow, see UV201;
    clipping comes too late, as inf cannot be scaled back.

    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic; Pascanu, Mikolov &
    Bengio 2013, On the difficulty of training recurrent neural networks.
    """
    if flow.nonfinite == "backward":
        return [_from_call(flow)]
    layers = [layer for layer in flow.layers if _rms(layer) > _largest(layer)]
    return [_from_size(flow, layers)] if layers and not flow.nonfinite else []


def _from_call(flow: Flow) -> Statement:
    birth = flow.call_at(flow.nonfinite_call)
    index = None if flow.nonfinite_call is None else float(flow.nonfinite_call)
    forward = f"The {'forward pass' if all(call.finite for call in flow.calls) else 'loss'} is finite"
    masked = flow.birth is not None and flow.birth.row
    row = ": a row of what it normalises is -inf throughout, everything in it is masked" if masked else ""
    return Statement(
        layers=names(judged(flow, "nonfinite")),
        cause=birth.name if birth is not None else "",
        message=f"{forward}, but the gradient is inf or nan from {call_place(birth)} on back{row}.",
        evidence=(Evidence(name="index of the first call with a non-finite gradient", value=index),),
        remedies=(),
    )


def _from_size(flow: Flow, layers: list[LayerFlow]) -> Statement:
    worst = max(layers, key=lambda layer: _rms(layer) - _largest(layer))
    limit = _largest(worst)
    message = (
        f"{subject(flow, layers, 'gets', 'get')} an infinite gradient in training: the exact entries of"
        f" {called(worst.name)} have an rms of {factor(_rms(worst))}, and {worst.dtype} ends at"
        f" {factor(limit)}.{sources(layers)}"
    )
    return Statement(
        layers=names(layers),
        cause="overflow",
        message=message,
        evidence=(Evidence(name="log10 rms of the gradient", value=_rms(worst), relation=">", threshold=limit),),
    )


def _largest(layer: LayerFlow) -> float:
    return LARGEST.get(layer.dtype, math.inf)


def _rms(layer: LayerFlow) -> float:
    return -math.inf if layer.log10_grad_rms is None else layer.log10_grad_rms
