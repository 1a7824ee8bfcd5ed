"""UV201: the network reacts so strongly to early layers that steps through them are out of proportion."""

from __future__ import annotations

from unvanish.decide import EXPLODING
from unvanish.records import Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.blame import Route, because, cause, gain_evidence, route
from unvanish.rules.wording import called, factor, judged, names, sources, subject


@rule(
    "UV201",
    "exploding",
    "exploding gradient",
    tier="exploding",
    levels=("error",),
    remedies=("activation-tanh", "activation-selu", "centred-sigmoid", "clip-gradients"),
    fires_on=("chaotic-tanh-50",),
    silent_on=("relu-he-20", "tanh-orthogonal-50", "selu-20", "batchnorm-relu-20", "residual-50", "sigmoid-20"),
)
def exploding(flow: Flow, *, threshold: float = EXPLODING) -> list[Statement]:
    """The error signal grows on its way back: a small change of an early layer upsets the whole output.

    Example: fifty layers of ``Linear`` and ``Tanh`` with weights well above the size that keeps signals steady. Two
    nearly equal inputs end in unrelated outputs, and the gradient of the first layer is huge.

    Why: where the factors of the chain rule are typically above one their product grows exponentially with depth. A
    step that is right for the last layers is far too large for the first, and one that suits the first moves nothing
    else.

    Evidence: how much the relative sensitivity of the outputs (Jacobian times size of a layer's output) grows from the
    output back to the layer, in decades, greater than ``threshold``. Growth between a layer and the next does not count
    where a normaliser stands between them: such weights have a gradient at right angles to themselves, which shrinks as
    they grow, so that training scales its own step down. Networks that train reach 1.4 at most (20 and 50 layers of
    BatchNorm and ReLU 0.5, 50 of SELU 1.3), chaotic ones start at 3.0. Loss scale and rescaled ReLU layers leave it
    alone. What it does not see: a hundred layers of batch normalisation, whose growth is real and hard to train.

    What helps: another activation; clipping the gradient stops divergence in some cases. Weights of the critical size
    are the theory's answer. Batch normalisation explodes at a hundred layers itself.

    Source: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks; Poole et al. 2016,
    Exponential expressivity in deep neural networks through transient chaos; Hanin 2018, Which neural net architectures
    give rise to exploding and vanishing gradients?
    """
    layers = [each for each in judged(flow, "exploding") if _rise(each) > threshold]
    if not layers:
        return []
    worst = max(layers, key=_rise)
    path = route(flow, worst)
    rise = Evidence(name="log10_sensitivity_rise", value=_rise(worst), relation=">", threshold=threshold)
    message = f"{subject(flow, layers, 'upsets', 'upset')} the whole network: {_reason(worst, path)}.{sources(layers)}"
    return [
        Statement(
            layers=names(layers),
            cause=cause(path, shrinking=False),
            message=message,
            evidence=(rise, *gain_evidence(path)),
        )
    ]


def _rise(layer: LayerFlow) -> float:
    """A layer judged exploding has one; a flow that says otherwise is not worth an alarm."""
    return 0.0 if layer.log10_sensitivity_rise is None else layer.log10_sensitivity_rise


def _reason(worst: LayerFlow, path: Route) -> str:
    """The growth of the signal where it explains the verdict, else the sensitivity itself."""
    if path.end and path.change > 1:
        way = f"from {called(path.end)} back to {called(worst.name)}"
        return f"the error signal grows {factor(path.change)} times {way}; {because(path)}"
    share = factor(_rise(worst))
    change = f"a small change of {called(worst.name)} changes the outputs"
    return f"{change} {share} times as much as the same change further on"
