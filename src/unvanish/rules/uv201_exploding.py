"""UV201: the network reacts so strongly to early layers that steps through them are out of proportion."""

from __future__ import annotations

import math

from unvanish.decide.limits import EXPLODING
from unvanish.decide.live import GROWTH, growths, not_asked
from unvanish.records import Evidence, Flow, LayerFlow, TimeFacts
from unvanish.rules import Statement, rule
from unvanish.rules.blame import Route, because, cause, gain_evidence, route
from unvanish.rules.conditions import LEARNED, to_reach
from unvanish.rules.wording import factor, judged, names, sources, subject
from unvanish.words.numbers import number
from unvanish.words.spans import called


@rule(
    "UV201",
    "exploding",
    "exploding gradient",
    tier="exploding",
    levels=("error", "note"),
    needs=("log10_signal", "log10_grad_norm", "log10_weight_norm"),
    remedies=("activation-tanh", "activation-selu", "centred-sigmoid", "clip-gradients"),
    fires_on=("chaotic-tanh-50", "sine-fast"),
    silent_on=(
        "sine-siren",
        "relu-he-20",
        "tanh-orthogonal-50",
        "selu-20",
        "batchnorm-relu-20",
        "residual-50",
        "sigmoid-20",
    ),
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
    alone. The same is asked of a recurrent layer, from what it gives back to the inputs of each step: of RNNs, GRUs and
    LSTMs over 20 and 40 steps those at 1.8 and below learned what they were asked, those at 3.1 and above did not. Of a
    running training: how much the error signal, and gradient norm times weight norm, both grow along the layers, with
    the same exceptions and the same limit; reference networks that train lie at 1.6 or below. What it does not see: a
    hundred layers of batch normalisation, whose growth is real and hard to train.

    A loss of the batch that falls excuses nothing: chaotic networks fit it faster than sound ones, sample by sample. So
    up to 100 real steps are taken on every other sample, and taken back: a note where the others come a fifth of the
    way from the best constant output to the lowest loss, too. Chaotic tanh networks and sine networks of too high a
    frequency fitted every sample they were given and left the others worse than that constant; sine networks that also
    fitted what lies between came a third of the way or further.

    What helps: another activation; clipping the gradient stops divergence in some cases. Weights of the critical size
    are the theory's answer. Batch normalisation explodes at a hundred layers itself.

    Source: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks; Poole et al. 2016,
    Exponential expressivity in deep neural networks through transient chaos; Hanin 2018, Which neural net architectures
    give rise to exploding and vanishing gradients?
    """
    judged_so = judged(flow, "exploding")
    rises = _rises(flow) if judged_so else {}
    layers = [each for each in judged_so if rises[each.name] > threshold]
    along = [
        _through_time(flow, facts, threshold)
        for facts in flow.time
        if (facts.log10_rise or 0.0) > threshold and any(each.path == facts.layer for each in judged_so)
    ]
    return [*along, *(_through_depth(flow, layers, rises, threshold) if layers else ())]


def _through_time(flow: Flow, facts: TimeFacts, threshold: float) -> Statement:
    layers = [each for each in flow.layers if each.path == facts.layer]
    rise = facts.log10_rise or 0.0
    pace = (
        "" if facts.log10_gain is None else f"; a step back multiplies the error signal by {factor(facts.log10_gain)}"
    )
    learns, more = _tried(flow)
    return Statement(
        level="note" if learns else "error",
        layers=names(layers),
        cause="depth in time",
        message=(
            f"{facts.layer} ({facts.kind}) upsets the whole network: the error signal grows on its way back through"
            f" {facts.steps:,} steps until a small change of an early input changes the outputs {factor(rise)} times as"
            f" much as the same change of its results{pace}.{more}{sources(layers)}"
        ),
        evidence=(
            Evidence(name="log10 rise of the sensitivity through time", value=rise, relation=">", threshold=threshold),
            Evidence(name="log10 of the signal, a step back", value=facts.log10_gain),
        ),
        remedies=("clip-gradients",),
    )


def _through_depth(
    flow: Flow, layers: list[LayerFlow], rises: dict[str, float], threshold: float
) -> tuple[Statement, ...]:
    worst = max(layers, key=lambda each: rises[each.name])
    path = route(flow, worst)
    name = "log10_sensitivity_rise" if flow.asks("log10_sensitivity_rise") else GROWTH
    rise = Evidence(name=name, value=rises[worst.name], relation=">", threshold=threshold)
    learns, more = _tried(flow)
    message = (
        f"{subject(flow, layers, 'upsets', 'upset')} the whole network: {_reason(flow, worst, path, rises)}.{more}"
        f"{not_asked(flow)}{sources(layers)}"
    )
    return (
        Statement(
            level="note" if learns else "error",
            layers=names(layers),
            cause=cause(path, shrinking=False),
            message=message,
            evidence=(rise, *gain_evidence(path)),
        ),
    )


def _tried(flow: Flow) -> tuple[bool, str]:
    """Whether samples that real steps have not seen are learned too, and what to say of it."""
    step, enough = flow.step, None if flow.loss is None else to_reach(flow.loss, LEARNED)
    if step is None or step.unseen is None or enough is None or flow.loss is None:
        return False, ""
    learns = step.unseen < enough
    left = number(step.unseen) if math.isfinite(step.unseen) else "no finite number"
    verb, to = ("bring", "to") if learns else ("leave", "at")
    said = (
        f" {'But it learns: ' if learns else ''}{step.unseen_after} real steps of {step.optimizer} on every other"
        f" sample, tried and taken back, {verb} the loss of the rest {to} {left}"
    )
    constant = flow.loss.best_constant
    return learns, said + ("." if constant is None else f"; one constant output for all has {number(constant)}.")


def _rises(flow: Flow) -> dict[str, float]:
    """What the verdict rests on. A layer judged exploding has it; a flow that says otherwise is not worth an alarm."""
    if not flow.asks("log10_sensitivity_rise"):
        return growths(flow.layers)
    return {each.name: each.log10_sensitivity_rise or 0.0 for each in flow.layers}


def _reason(flow: Flow, worst: LayerFlow, path: Route, rises: dict[str, float]) -> str:
    """The growth of the signal where it explains the verdict, else the number that it rests on."""
    if path.end and path.change > 1:
        way = f"from {called(path.end)} back to {called(worst.name)}"
        return f"the error signal grows {factor(path.change)} times {way}; {because(path)}"
    share = factor(rises[worst.name])
    if not flow.asks("log10_sensitivity_rise"):
        return f"the error signal grows at least {share} times on its way back to {called(worst.name)}"
    change = f"a small change of {called(worst.name)} changes the outputs"
    return f"{change} {share} times as much as the same change further on"
