"""UV203: inside normalised layers, a turn of early weights upsets the outputs far more than one of later weights."""

from __future__ import annotations

import math
from typing import NamedTuple

from unvanish.decide.stationary import has_converged, is_stationary
from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import factor, names, sources

GROWN = 3.0
"""Decades, between the 1.8 at most of networks that train and the 4.1 at least of those that do not; see the rule."""
LEAST = 8
"""Normalised layers: fewer are no way along which anything grows."""


class Growth(NamedTuple):
    """By how many decades the effect of a turn grows, between which layers, and which lie beyond the limit."""

    decades: float
    strongest: LayerFlow
    weakest: LayerFlow
    layers: tuple[LayerFlow, ...]


@rule(
    "UV203",
    "exploding",
    "growth inside normalised layers",
    tier="exploding",
    levels=("error",),
    needs=("calls", "log10_jacobian_norm", "log10_weight_norm", "loss", "decrement"),
    fires_on=("batchnorm-relu-50", "batchnorm-relu-80"),
    silent_on=("batchnorm-relu-20", "relu-he-20", "residual-50", "small-cnn", "small-gpt", "chaotic-tanh-50"),
)
def normalised_growth(flow: Flow, *, threshold: float = GROWN) -> list[Statement]:
    """Early layers before a normaliser are so much stronger than the late ones that no learning rate suits both.

    Example: 50 or 80 layers of ``Linear``, ``BatchNorm`` and ``ReLU``. Each normaliser makes up for what the ReLU takes
    away, so that the signal forward keeps its size, and the gradient grows by about a fifth from layer to layer.

    Why: weights that are normalised afterwards have no size that counts, only a direction. What a step does to them is
    a turn, and what a turn does to the outputs is the Jacobian times the size of the weights. Where that grows by
    decades towards the input, plain gradient steps turn the first layers by a right angle while the last ones hardly
    move; steps of the same size for all, such as Adam's, upset the outputs through the first layers alone.

    Evidence: Jacobian times norm of the weights, of the strongest layer that a normaliser follows, beside the weakest
    one behind it, greater than 10^threshold. Of such networks in three widths under SGD and Adam, those of 20 layers
    lie at 1.8 at most and train; those of 50 layers at 4.1 to 4.7 and those of 80 at 6.7 to 7.2 do not. With residual
    connections 80 layers lie at 1.4 at most, and train under Adam.

    What helps: residual connections; fewer layers between normalisers that see the whole batch; an activation nearer
    to a straight line, of which the normaliser has less to make up for.

    Source: Yang et al. 2019, A mean field theory of batch normalization; van Laarhoven 2017, L2 regularization versus
    batch and weight normalization.
    """
    found = growth(flow, threshold)
    if found is None or found.decades <= threshold or has_converged(flow.loss) or is_stationary(flow):
        return []
    strong, weak = found.strongest, found.weakest
    message = (
        f"A turn of {strong.name} changes the outputs {factor(found.decades)} times as much as the same turn of"
        f" {weak.name}: each layer is normalised, so that only the direction of its weights counts, and no step is"
        f" right for both.{sources(found.layers)}"
    )
    grown = "log10 of the growth of a turn's effect"
    evidence = [Evidence(name=grown, value=found.decades, relation=">", threshold=threshold)]
    for layer in (strong, weak):
        if layer.update_to_weight_ratio is not None:
            evidence.append(Evidence(name=f"the next step turns {layer.name} by", value=layer.update_to_weight_ratio))
    return [Statement(layers=names(found.layers), cause="normalisers", message=message, evidence=tuple(evidence))]


def growth(flow: Flow, limit: float = GROWN) -> Growth | None:
    """The growth among the layers whose weights are normalised before anything else uses them; None for a few."""
    free = [(_effect(each), each) for each in flow.layers if _scale_free(flow, each)]
    turned = [(effect, each) for effect, each in free if effect is not None]
    if len(turned) < LEAST:
        return None
    best: tuple[float, LayerFlow, LayerFlow] | None = None
    least, weakest = turned[-1]
    for effect, layer in reversed(turned):
        if effect < least:
            least, weakest = effect, layer
        if best is None or effect - least > best[0]:
            best = effect - least, layer, weakest
    assert best is not None
    decades, strongest, weak = best
    floor = next(effect for effect, each in turned if each is weak)
    return Growth(decades, strongest, weak, tuple(each for effect, each in turned if effect - floor > limit))


def _effect(layer: LayerFlow) -> float | None:
    """log10 of what a turn of the layer's weights by one radian does to the outputs."""
    jacobian, weights = layer.log10_jacobian_norm, layer.log10_weight_norm
    found = None if jacobian is None or weights is None else jacobian + weights
    return found if found is not None and math.isfinite(found) else None


def _scale_free(flow: Flow, layer: LayerFlow) -> bool:
    """Whether a normaliser is the next to use what the layer's weights make."""
    if layer.call is None or layer.call >= len(flow.calls) or flow.calls[layer.call].role != "weights":
        return False
    following = flow.calls[layer.call].next
    if following is None:
        return False
    normaliser = flow.calls[following]
    return normaliser.role == "norm" and "softmax" not in normaliser.name  # a softmax keeps the size of its input
