"""What the numbers of a running training can tell of a layer, where nothing was asked of the network itself.

A full check sends random cotangents through the network and asks how strongly its outputs depend on a layer. While a
training runs there is only what the step leaves behind: the error signal at each layer's output, and the norms of its
gradient and of its weights. Single ones of these change with the scale of the loss and with a rescaled layer, so no
limit on them means anything. Taken relative to the later layers of the same step the scale of the loss is gone, and in
gradient norm times weight norm that of the layer is gone, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unvanish.decide.limits import GATE_SIZE, SOUND, VANISHED
from unvanish.records import Flow, LayerFlow

NEEDED = ("log10_signal", "log10_grad_norm", "log10_weight_norm")
"""What both estimates rest on."""

ARRIVAL = "log10 of the signal that arrives, over the most at a later layer"
GROWTH = "log10 of the growth of the signal on its way back"
"""What the two estimates are called where a finding rests on them."""


def sizes_to_judge(layer: LayerFlow) -> tuple[float, float] | None:
    """log10 of the error signal and of gradient norm times weight norm; None where one is missing or not a number.

    The second is the change of the loss by a change of the weights in proportion to themselves. Rescaling a ReLU layer
    and the next one against it leaves it alone.
    """
    signal, gradient, weights = layer.log10_signal, layer.log10_grad_norm, layer.log10_weight_norm
    if signal is None or gradient is None or weights is None:
        return None
    size = -math.inf if -math.inf in (gradient, weights) else gradient + weights
    return (signal, size) if signal < math.inf and size < math.inf else None  # NaN is below nothing


def arrivals(layers: Sequence[LayerFlow]) -> dict[str, float]:
    """Per trainable layer, log10 of what arrives of the error signal, over the most that arrives at a layer after it.

    Three readings, and the largest counts, on the side of silence: of the signal itself (√N times a norm over all
    samples, so that samples that pull in opposite directions do not cancel), of gradient norm times weight norm, and of
    the same per entry, so that a layer of few weights is not called weak for that. It stands for the transmission of a
    full check, with the error in place of random cotangents. After a layer is whatever ran later: the order stands for
    the graph.
    """
    found: dict[str, float] = {}
    most = (-math.inf,) * 3
    for layer in reversed(layers):
        sizes = None if layer.frozen else sizes_to_judge(layer)
        if sizes is None:
            continue
        signal, size = sizes
        mine = (signal, size, size - 0.5 * math.log10(max(1, layer.parameters)))
        most = tuple(map(max, most, mine))
        found[layer.name] = max(map(_less, mine, most))
    return found


def _less(value: float, most: float) -> float:
    return value - most if value > -math.inf else -math.inf


def growths(layers: Sequence[LayerFlow]) -> dict[str, float]:
    """Per trainable layer, how many decades the error signal grows on its way back to it from the output.

    Of the signal and of gradient norm times weight norm, each added up along the layers' own ``before``, and the
    smaller counts: a tiny tensor has a small product by itself, and a rescaled layer a large signal. Where branches
    meet, the way to the layer that ran last counts: beside an expert that saw few samples, or a part of the loss that
    is small, the trunk has not grown. A fall counts,
    but never below zero, and growth next to a normaliser not at all: weights that are normalised afterwards have a
    gradient at right angles to themselves, so that training scales its own step down (Arora, Li & Lyu 2019, Theoretical
    analysis of auto rate-tuning by batch normalization).
    """
    after: dict[str, list[LayerFlow]] = {}
    for layer in layers:
        after.setdefault(layer.before, []).append(layer)
    found: dict[str, tuple[float, float]] = {}
    known = {layer.name: sizes_to_judge(layer) for layer in layers}
    before = {layer.name: layer.before for layer in layers}
    trunk: set[str] = set()
    here = layers[-1].name if layers else ""
    while here and here not in trunk:
        trunk.add(here)
        here = before.get(here, "")
    for layer in reversed(layers):
        mine = None if layer.frozen or _normed(layer) else known[layer.name]
        ways: list[tuple[float, float]] = []
        ahead = after.get(layer.name, ())
        for later in [each for each in ahead if each.name in trunk] or ahead:
            theirs, (signal, size) = known[later.name], found.get(later.name, (0.0, 0.0))
            if mine is not None and theirs is not None and not _normed(later) and -math.inf not in (*mine, *theirs):
                signal, size = signal + mine[0] - theirs[0], size + mine[1] - theirs[1]
            ways.append((max(0.0, signal), max(0.0, size)))
        found[layer.name] = min(ways, key=min, default=(0.0, 0.0))
    return {name: min(pair) for name, pair in found.items()}


def _normed(layer: LayerFlow) -> bool:
    """Whether the layer is a normaliser, or one stands between it and the layer before."""
    return "Norm" in layer.kind or layer.log10_norm_gain not in (None, 0.0)


def gate_after(layers: Sequence[LayerFlow], layer: LayerFlow, arrival: float) -> str:
    """The name of a later layer, small or exactly zero and trainable, that alone explains what is missing; "" if none.

    The shapes are unknown: small is below GATE_SIZE of the ordinary norm of a square matrix of as many entries. What is
    left without the one step back across it must be as much as at a layer that transmits well. Behind an
    exact zero nothing arrives, and it is a gate only where it has a gradient of its own and where this layer is not
    exactly zero itself: two zeros in a row may wait for each other, which these numbers do not tell.
    """
    at = next((k for k, each in enumerate(layers) if each.name == layer.name), len(layers))
    zero = layer.log10_grad_norm == -math.inf
    for gate in layers[at + 1 :]:
        weights, gradient = gate.log10_weight_norm, gate.log10_grad_norm
        if gate.frozen or weights is None or gradient is None or not -math.inf < gradient < math.inf:
            continue
        if zero and weights == -math.inf and layer.log10_weight_norm != -math.inf:
            return gate.name
        step = gate.log10_gain
        small = weights < math.log10(GATE_SIZE) + 0.25 * math.log10(max(1, gate.parameters)) - 0.5 * math.log10(3.0)
        if not zero and small and step is not None and step < -1.0 and arrival - step > SOUND:
            return gate.name
    return ""


def passed_by(layers: Sequence[LayerFlow], layer: LayerFlow, arrived: Mapping[str, float]) -> bool:
    """Whether the signal seems to pass a layer by, as it does query and key weights beside the trunk of a transformer.

    A layer before it gets a good part of the signal, which then comes by another way. In a first block there is none
    before; what holds for its namesakes of the same size in later blocks is taken to hold for it. A walk can decide.
    """
    known = [each for each in layers if each.name in arrived]
    sound = next((at for at, each in enumerate(known) if arrived[each.name] > SOUND), len(known))
    return any(
        at > sound and (each is layer or _namesakes(each, layer)) and arrived[each.name] < VANISHED
        for at, each in enumerate(known)
    )


def _namesakes(one: LayerFlow, other: LayerFlow) -> bool:
    last = [each.name.rpartition(".")[2] for each in (one, other)]
    return last[0] == last[1] and not last[0].isdigit() and one.parameters == other.parameters


def shut_by(layers: Sequence[LayerFlow], layer: LayerFlow) -> str:
    """The name of the layer, this one or a later one, whose whole activation is off for every sample; "" if none."""
    at = next((k for k, each in enumerate(layers) if each.name == layer.name), len(layers))
    return next(
        (each.name for each in layers[at:] if (each.dead_fraction or 0.0) >= 1.0 and each.log10_grad_norm == -math.inf),
        "",
    )


def not_asked(flow: Flow) -> str:
    """A sentence that says what a finding from these numbers leaves open."""
    if flow.asks("log10_transmission", "loss"):
        return ""
    if flow.asks("log10_transmission"):
        return " Measured on the batch of a running training: whether there is anything left to learn was not asked."
    return (
        " Read off a running training: how strongly the outputs depend on each layer, and whether there is anything"
        " left to learn, was not asked."
    )
