"""UV504: the gradient is smaller than the optimizer's eps, which then decides how far to go."""

from __future__ import annotations

import math

from unvanish.decide import below_eps
from unvanish.decide.limits import UNDERFLOW, VANISHED
from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import cancels, flat_in_loss
from unvanish.rules.wording import factor, judged, names, sources, subject
from unvanish.words.spans import called

HARDLY_COUNTS = "a branch that hardly counts"


@rule(
    "UV504",
    "underflow",
    "gradient below the optimizer's eps",
    tier="rounding",
    levels=("error", "note"),
    needs=("log10_grad_norm", "loss", "decrement"),
    fires_on=("below-eps-adam", "below-eps-rmsprop"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "preln-transformer-6", "underflow-loss-1e-42",
        "loss-scaled-1e-6", "sigmoid-50",
    ),
)  # fmt: skip
def gradient_below_eps(flow: Flow) -> list[Statement]:
    """The gradient is there, but it is smaller than the optimizer's eps, and the steps shrink with it.

    Example: a loss multiplied by 10^-12 under Adam, whose eps is 10^-8. Adam is meant to take steps of the size of the
    learning rate whatever the loss is measured in; here it does not.

    Why: adaptive optimizers divide the gradient by its own running size plus eps. As long as eps is the smaller of the
    two the scale of the loss cancels; once it is the larger, the step is the gradient over eps.

    Evidence: the rms of the layer's gradient entries, below ``eps`` of the optimizer. The layer transmits, and its
    entries are not lost to their number type: that would be UV101 or UV503. A note where what the loss asks for cancels
    on the way and a layer after it has a gradient above eps: a last layer of equal weights under a cross-entropy, say,
    which differ after the first step, and the signal comes then. A note, too, where a layer on a way past it learns and
    gets far more of the signal: an expert whose gate is nearly shut, and the gate.

    What helps: a loss that is a mean and not divided further, a smaller eps, or the loss scaled up.

    Source: Kingma & Ba 2015, Adam: a method for stochastic optimization, section 2; Choi et al. 2019, On empirical
    comparisons of optimizers for deep learning, section 4.
    """
    eps = flow.setting.eps
    layers = [
        layer
        for layer in judged(flow, "underflow")
        if below_eps(layer, eps) and not (layer.underflow_fraction or 0.0) > UNDERFLOW
    ]
    if not layers or not eps:
        return []
    ways = _beside(flow, layers)
    rest = [layer for layer in layers if layer.name not in ways]
    found = [_statement(flow, rest, eps, "")] if rest else []
    weak = [layer for layer in layers if layer.name in ways]
    return found + ([_statement(flow, weak, eps, ways[min(weak, key=_rms).name])] if weak else [])


def _statement(flow: Flow, layers: list[LayerFlow], eps: float, way: str) -> Statement:
    """What is said of these layers; ``way``: the layer beside which they stand, if they do."""
    least = min(layers, key=_rms)
    share = factor(_rms(least) - math.log10(eps))
    message = (
        f"{subject(flow, layers, 'has', 'have')} a gradient below the optimizer's eps: its entries have an rms of"
        f" {factor(_rms(least))} in {called(least.name)}, eps is {eps:.1g}, so the steps are about {share} of what"
        f" the learning rate says. {_weighed(flow, least, way) if way else _arrives(flow, least)}{sources(layers)}"
    )
    return Statement(
        level="note" if way or all(_waits(flow, layer) for layer in layers) else "error",
        layers=names(layers),
        cause=HARDLY_COUNTS if way else "eps",
        message=message,
        evidence=(
            Evidence(name="log10 rms of the gradient", value=_rms(least), relation="<", threshold=math.log10(eps)),
        ),
    )


def _beside(flow: Flow, layers: list[LayerFlow]) -> dict[str, str]:
    """By layer, the one that gets most of the signal on a way past it, where that is far more, and above eps."""
    sound = [a for a in flow.layers if a.call is not None and a.verdict == "healthy" and a.log10_signal is not None]
    found = dict[str, str]()
    for layer in layers:
        signal = layer.log10_signal
        far = [a for a in sound if signal is not None and signal - (a.log10_signal or 0.0) < VANISHED]
        series = _in_series(flow, layer) if far and layer.call is not None else set[int]()
        past = [a for a in far if series and a.call not in series]
        if past:
            found[layer.name] = max(past, key=lambda a: a.log10_signal or 0.0).name
    return found


def _in_series(flow: Flow, layer: LayerFlow) -> set[int]:
    """The calls before and behind that of the layer, and it itself."""
    calls = sorted(flow.calls, key=lambda call: call.index)
    before, behind = {layer.call}, {layer.call}
    for call in calls:
        if not behind.isdisjoint(call.inputs):
            behind.add(call.index)
    for call in reversed(calls):
        if call.index in before:
            before.update(call.inputs)
    return {index for index in before | behind if index is not None}


def _weighed(flow: Flow, layer: LayerFlow, way: str) -> str:
    """What is said of a layer beside which the network learns, as an expert does that gets next to no weight."""
    most = next(a.log10_signal for a in flow.layers if a.name == way) or 0.0
    return (
        f"It stands beside {called(way)}, which learns: of the error signal there only"
        f" {factor((layer.log10_signal or 0.0) - most)} arrives here, as what follows hardly counts it: a gate that is"
        " nearly shut, or a small factor. The network can learn without it; that branch takes no part."
    )


def _arrives(flow: Flow, layer: LayerFlow) -> str:
    """Whether the whole signal is small, or only what arrives here of it."""
    known = [each for each in flow.layers if each.log10_signal is not None]
    top = max(known, key=lambda each: each.log10_signal or 0.0, default=layer)
    if layer.log10_signal is None or layer.log10_signal - (top.log10_signal or 0.0) > VANISHED:
        lost = flat_in_loss(flow)
        if lost:
            return f"The network passes the signal on, but the loss hardly sends one: {lost}"
        return "It is not vanished: the signal arrives, it is only small in absolute size."
    why = (
        ": what the loss asks for cancels on the way, as it does where all units of a layer have the same weights"
        if cancels(layer)
        else ""
    )
    return (
        f"The outputs depend on the layer, but of the error signal at {top.name} only"
        f" {factor(layer.log10_signal - (top.log10_signal or 0.0))} arrives{why}."
        + (f" What {called(top.name)} learns may end that." if _waits(flow, layer) else "")
    )


def _waits(flow: Flow, layer: LayerFlow) -> bool:
    """Whether what the loss asks of it cancels to rounding on the way, and a later layer has a gradient to go by."""
    eps, later = flow.setting.eps, flow.layers[flow.layers.index(layer) + 1 :]
    learns = any(each.log10_grad_norm is not None and not below_eps(each, eps) for each in later)
    return cancels(layer) and learns


def _rms(layer: LayerFlow) -> float:
    return layer.log10_grad_rms or 0.0
