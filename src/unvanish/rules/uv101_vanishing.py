"""UV101: layers that hardly learn because the error signal has shrunk on its way back to them."""

from __future__ import annotations

from collections.abc import Sequence

from unvanish.decide import decay_balances, vanishing_level
from unvanish.decide.limits import UNDERFLOW, VANISHED
from unvanish.decide.live import ARRIVAL, arrivals, not_asked
from unvanish.decide.stationary import comes_through, steps_to_leave
from unvanish.records import CallFlow, Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.blame import Route, because, cause, gain_evidence, route
from unvanish.rules.wording import about, factor, judged, names, not_converged, sources, subject
from unvanish.words.numbers import number
from unvanish.words.spans import called


@rule(
    "UV101",
    "vanished",
    "vanishing gradient",
    tier="vanishing",
    levels=("error", "note"),
    needs=("log10_signal", "log10_grad_norm", "log10_weight_norm"),
    remedies=(
        "centred-init", "centred-sigmoid", "batchnorm", "residual", "activation-tanh", "activation-selu",
        "activation-relu", "layernorm", "rezero", "orthogonal-init", "lsuv-init", "he-init", "critical-init",
    ),
    fires_on=(
        "chain-20", "chain-50", "chain-200", "sigmoid-20", "sigmoid-50", "stuck-sigmoid-10", "xavier-sigmoid-20",
        "postnorm-small-gain-60",
    ),
    silent_on=(
        "relu-he-20", "tanh-orthogonal-50", "selu-20", "batchnorm-relu-20", "residual-50", "preln-transformer-6",
        "converged-digits", "layerscale-1e-5", "loss-scaled-1e-6", "underflow-loss-1e-42", "chaotic-tanh-50",
    ),
)  # fmt: skip
def vanishing(flow: Flow, *, threshold: float = VANISHED) -> list[Statement]:
    """The first layers hardly learn: the error signal shrinks at every step back towards the input.

    Example: twenty layers of ``Linear`` and ``Sigmoid`` with the default initialisation. A sigmoid's slope is at most
    1/4, and the default weights shrink the signal further, so each layer passes on about a tenth of what it receives.

    Why: by the chain rule the gradient of an early layer is a product with one factor for each later layer. If the
    factors are typically below one, the product falls exponentially with depth; the last layers learn while the first
    stay random.

    Evidence: log10 T_rel, how strongly the outputs depend on the layer (Jacobian times size of the weights), relative
    to the best layer after it, below ``threshold``. Neither the loss scale, nor the learning rate, nor the error still
    left changes it. The change of the error signal along the dominant path is split into slopes, weights, normalisers
    and joins; the smallest share is the cause. A stricter ``threshold`` does not report the milder layers.

    Of a running training: log10 of the error signal, and of gradient norm times weight norm, over the largest of a
    later layer, both below the same limit, because the error signal then stands for the random cotangents that T_rel is
    measured with. Of the reference networks, three seeds each, the lowest layer lay at -1.7 or above in all that train,
    and at -3.8 or below in all with a vanishing gradient.

    Under Adam and its like, whose steps do not shrink with the gradient, it is a note down to -4.5 while the gradient
    is above eps and the loss does not stay at that of the best constant: of random chains of 4 to 14 layers without
    normalisation all from -2.6 to -4.1 fitted at once, of sigmoid chains at -5.3 and less none. Below that, down to
    -12, and where a loss has stayed there for 100 steps, real steps are tried and taken back: 100 where these throw it
    below -12, else 200, and up to 800 as long as what the weakest layer transmits rises. It is a note where it then
    transmits above the limit, and has for half as many steps again as that took, or the loss has come half of the way
    down by what these layers learn, or nine tenths by what any learn. Where it still rises it is a note and an open
    question, if the signal comes through within what is left of the planned steps (10,000 if none are given), at the
    latest, at a rate of growth in proportion to itself: 13 chains all left the plateau so, at 0.45 to 1.3 times the
    step foretold. Of 11 that did not rise after 800 steps, or too slowly, seven left it after 3,500 to 9,400 and four
    not within 10,000; nothing measured tells which, and they are errors. All of 118 chains of sigmoids that were notes
    left it within 4,000. Steps are tried on ``train_batches`` where these are given; on one batch over and over a
    plateau is shorter: a chain of 11 sigmoids left it after 800 steps, and after 4,000 on a quarter of it at a time.

    What helps: for sigmoids, the centred initialisation, which keeps the sigmoid; otherwise batch normalisation
    before the activations, another activation, residual connections. Xavier and He initialisation do not rescue deep
    sigmoids, and no optimizer or learning rate does.

    Source: Hochreiter 1991, Untersuchungen zu dynamischen neuronalen Netzen; Bengio, Simard & Frasconi 1994, Learning
    long-term dependencies with gradient descent is difficult; Glorot & Bengio 2010, Understanding the difficulty of
    training deep feedforward neural networks.
    """
    values = _values(flow) if (judged_so := judged(flow, "vanished")) else {}
    layers = [each for each in judged_so if values[each.name] < threshold]
    if not layers:
        return []
    worst = min(layers, key=lambda each: values[each.name])
    path = route(flow, worst)
    who = f"{subject(flow, layers, 'hardly learns', 'hardly learn')}: {_reason(flow, worst, path, values)}."
    (level, further), blamed = _level(flow, layers), cause(path, shrinking=True)
    return [
        Statement(
            level=level,
            layers=names(layers),
            cause=blamed,
            message=f"{who}{further}{sources(layers)}",
            evidence=_evidence(flow, values[worst.name], layers, path, threshold),
            remedies=_remedies(blamed, flow.calls),
        )
    ]


def _level(flow: Flow, layers: Sequence[LayerFlow]) -> tuple[str, str]:
    """How bad it is, and what speaks for that."""
    if decay_balances(flow):
        return "note", DECAYED + not_converged(flow) + not_asked(flow)
    level = vanishing_level(flow, layers)
    return level, not_converged(flow) + not_asked(flow) + _steps(flow, level)


def _evidence(
    flow: Flow, value: float, layers: Sequence[LayerFlow], path: Route, threshold: float
) -> tuple[Evidence, ...]:
    asked = "log10_transmission" if flow.asks("log10_transmission") else ARRIVAL
    evidence = [Evidence(name=asked, value=value, relation="<", threshold=threshold)]
    evidence += [*gain_evidence(path), *_arrived(flow, threshold)]
    lost = [layer.underflow_fraction for layer in layers if (layer.underflow_fraction or 0.0) > UNDERFLOW]
    if lost:
        evidence.append(Evidence(name="underflow_fraction", value=lost[0], relation=">", threshold=UNDERFLOW))
    return tuple(evidence)


LATER = (
    " Some networks leave such a plateau much later: of eleven chains in which the signal did not rise within 800 steps"
    " either, seven did, after 3,500 to 9,400."
)

OTHER_BATCHES = " Where each step sees other samples, a plateau can last several times as long as on one batch."

DECAYED = " Weight decay, which cancels the gradient, has pulled the weights there."


def _steps(flow: Flow, level: str) -> str:
    """What real steps of an optimizer whose steps do not shrink with the gradient do, or may do, about it."""
    step = flow.step
    tried = 0 if step is None or step.arrived is None else step.arrived_after or 0
    if level == "error":
        over = step is not None and step.planned is not None and flow.steps_taken >= step.planned
        if over and step is not None and flow.setting.eps is not None:
            return (
                f" Of {flow.setting.optimizer}'s {step.planned or 0:,} planned steps none is left to bring it through."
            )
        who = f" {tried} real steps of {flow.setting.optimizer}, tried and taken back, do not let the signal through."
        return who + LATER if tried and not comes_through(flow) else ""
    through, then = "", "may well train"
    if step is not None and step.arriving is not None:
        through = (
            f", and in {tried} of them, tried and taken back, the signal that arrives rose steadily, at last by"
            f" {number(100.0 * step.arriving)} decades in 100 steps"
        )
        left = (step.arrived_after or 0) + steps_to_leave(step.arriving)
        then = f"may train once it has stood still for about {about(left)} steps"
    elif step is not None and step.learned is not None:
        through = f", and {tried} of them, tried and taken back, lower the loss to {number(step.learned)}"
    elif tried:
        through = f", and {tried} of them, tried and taken back, let the signal through"
    return (
        f" {flow.setting.optimizer} takes steps of full length in every layer, however small its gradient{through}, so"
        f" the network {then}; plain gradient descent would not.{OTHER_BATCHES if tried else ''}"
    )


def _arrived(flow: Flow, threshold: float) -> list[Evidence]:
    step = flow.step
    if step is None or step.arrived is None:
        return []
    relation = "<" if step.arrived < threshold else ">"
    name = f"log10_transmission after {step.arrived_after} real steps"
    return [Evidence(name=name, value=step.arrived, relation=relation, threshold=threshold)]


def _values(flow: Flow) -> dict[str, float]:
    """What the verdict rests on. A layer judged vanished has it; a flow that says otherwise is not worth an alarm."""
    if flow.asks("log10_transmission"):
        known = {each.name: each.log10_transmission for each in flow.layers}
    else:
        arrived = arrivals(flow.layers)
        known = {each.name: arrived.get(each.name) for each in flow.layers}
    return {name: 0.0 if value is None else value for name, value in known.items()}


def _reason(flow: Flow, worst: LayerFlow, path: Route, values: dict[str, float]) -> str:
    """The loss of signal where it explains the verdict, else the number that it rests on."""
    if path.end and path.change < -1:
        arrives = f"only {factor(path.change)} arrives at {called(worst.name)}"
        share = f"of the error signal that reaches {called(path.end)} {arrives}"
        return f"{share}, because {because(path)}"
    share = factor(values[worst.name])
    if not flow.asks("log10_transmission"):
        return f"at most {share} of the error signal that reaches the later layers arrives at {called(worst.name)}"
    return f"the outputs depend on {called(worst.name)} only {share} times as much as on the best layer after it"


def _remedies(blamed: str, calls: tuple[CallFlow, ...]) -> tuple[str, ...]:
    """What the measured table of repairs supports for vanishing, by the factor to blame."""
    general = ("batchnorm", "residual", "activation-tanh", "activation-selu", "activation-relu")
    if any("sigmoid" in call.name for call in calls):
        return ("centred-init", "centred-sigmoid", *general)
    if blamed == "weights":
        return ("orthogonal-init", "lsuv-init", "he-init", "critical-init", "batchnorm", "layernorm", "residual")
    return (*general, "layernorm", "rezero")
