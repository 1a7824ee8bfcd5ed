"""UV707: the inputs are on a scale the first layer was not made for."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow, InputFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import inputs_saturate, settled
from unvanish.rules.wording import about, factor
from unvanish.words.numbers import number, percent


@rule(
    "UV707",
    "input_scale",
    "input scale",
    tier="inputs",
    levels=("error", "note"),
    needs=("inputs",),
    remedies=("standardise-inputs", "batchnorm"),
    fires_on=("unscaled-inputs", "raw-pixels"),
    silent_on=(
        "raw-pixels-batchnorm", "saturated-tanh", "saturated-sigmoid", "relu-he-20", "small-cnn", "lstm", "small-gpt",
        "unet-small", "residual-50", "sigmoid-20", "converged-digits",
    ),
)  # fmt: skip
def input_scale(
    flow: Flow, *, saturated: float = 0.5, gone: float = 0.25, step_limit: float = -2.0, off: float = 100.0
) -> list[Statement]:
    """The inputs are far from unit size, and the first layer suffers from it; standardised ones cure it.

    Example: readings in the hundreds into a sigmoid layer, or pixels from 0 to 255 into a network made for 0 to 1.

    Why: initialisations assume inputs of about unit size. Large ones drive bounded units onto their flat ends; in any
    case the curvature of the first layer grows with their square, and with it shrinks the learning rate it can stand.
    Without anything that bounds them they reach the outputs, which then are thousands where the targets are ones.

    Evidence: the network looked at twice, with the inputs as they are and standardised (mean 0, deviation 1 a feature).
    More than ``saturated`` of the entries of the first bounded activation saturated, at most ``gone`` afterwards; or
    log10 of the step the first layer's curvature allows, over that of the median layer, below ``step_limit`` and above
    it afterwards; or the loss more than ``off`` times that of the best constant (for squares: outputs ten times as far
    off as the targets spread), and less than the root of ``off`` times afterwards. A note where the loss is already
    better than that of a constant: the network has begun to live with it.

    What helps: standardise the inputs by the training set's mean and deviation, or start with a batch normalisation.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5.1.
    """
    inputs = flow.inputs
    if inputs is None or flow.nonfinite or settled(flow):
        return []
    flat, steep = inputs_saturate(flow, saturated, gone), _steep(inputs, step_limit)
    times = _far_off(flow, inputs, off)
    if not flat and not steep and times is None:
        return []
    largest = number(inputs.largest_deviation)
    called = f"{'layer ' if inputs.layer[:1].isdigit() else ''}{inputs.layer}"
    message = f"The inputs are too large for {called}: a feature has an rms of {largest}, not 1."
    evidence: list[Evidence] = []
    if flat and inputs.saturated is not None:
        message += (
            f" {percent(inputs.saturated)} of what leaves the first bounded activation lies on its flat ends;"
            " standardised,"
            f" {percent(inputs.saturated_standardised)}. It is not the weights: the same weights work then."
        )
        evidence.append(Evidence(name="saturated_fraction", value=inputs.saturated, relation=">", threshold=saturated))
        evidence.append(
            Evidence(name="saturated_fraction, standardised", value=inputs.saturated_standardised, relation="<=",
                     threshold=gone)
        )  # fmt: skip
    if steep and inputs.step_limit is not None:
        message += (
            f" It can stand only {factor(inputs.step_limit)} of the step the other layers can; standardised,"
            f" {factor(inputs.step_limit_standardised)}."
        )
        evidence.append(Evidence(name="log10 step limit", value=inputs.step_limit, relation="<", threshold=step_limit))
        evidence.append(
            Evidence(name="log10 step limit, standardised", value=inputs.step_limit_standardised, relation=">",
                     threshold=step_limit)
        )  # fmt: skip
    if times is not None:
        before, after = times
        message += (
            f" They reach the outputs: the loss is {about(before)} times that of the best constant answer; with"
            f" standardised inputs, {number(after)} times."
        )
        evidence.append(Evidence(name="loss over that of the best constant", value=before, relation=">", threshold=off))
        evidence.append(
            Evidence(name="the same, inputs standardised", value=after, relation="<", threshold=math.sqrt(off))
        )
    worthless = times is not None or (flow.loss is not None and flow.loss.at_constant)
    return [
        Statement(
            level="error" if worthless else "note",
            layers=(inputs.layer,),
            cause="scale of the inputs",
            message=message,
            evidence=tuple(evidence),
        )
    ]


def _steep(inputs: InputFacts, limit: float) -> bool:
    """Whether the first layer allows too small a step, and no longer does once the inputs are standardised."""
    before, after = inputs.step_limit, inputs.step_limit_standardised
    return before is not None and after is not None and before < limit < after


def _far_off(flow: Flow, inputs: InputFacts, off: float) -> tuple[float, float] | None:
    """The loss as it is and with standardised inputs, over that of the best constant; None unless the inputs decide."""
    constant = None if flow.loss is None else flow.loss.best_constant
    if flow.loss is None or constant is None or inputs.loss_standardised is None or not constant > 0.0:
        return None
    before, after = flow.loss.value / constant, inputs.loss_standardised / constant
    return (before, after) if before > off and after < math.sqrt(off) else None
