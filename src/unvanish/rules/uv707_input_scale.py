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
    flow: Flow, *, saturated: float = 0.5, gone: float = 0.25, step_limit: float = -2.0, start: float = 30.0
) -> list[Statement]:
    """The inputs are far from unit size, and the first layer suffers from it; standardised ones cure it.

    Example: readings in the hundreds into a sigmoid layer, or pixels from 0 to 255 into a network made for 0 to 1.

    Why: initialisations assume inputs of about unit size. Large ones drive bounded units onto their flat ends; in any
    case the curvature of the first layer grows with their square, and with it shrinks the learning rate it can stand.

    Evidence: the network looked at twice, with the inputs as they are and standardised (mean 0, deviation 1 a feature).
    More than ``saturated`` of the entries of the first bounded activation saturated, at most ``gone`` afterwards; or
    log10 of the step the first layer's curvature allows, over that of the median layer, below ``step_limit`` and above
    it afterwards. A note where the loss is already better than that of a constant. A note, too, where neither is so but
    the loss is more than ``start`` times as high above its floor as that of the best constant output, and at most twice
    as high on standardised inputs: a network of ReLU hands the size of its inputs on to all its layers alike.

    What helps: standardise the inputs by the training set's mean and deviation, or start with a batch normalisation.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5.1.
    """
    inputs = flow.inputs
    if inputs is None or flow.nonfinite or settled(flow):
        return []
    flat, steep = inputs_saturate(flow, saturated, gone), _steep(inputs, step_limit)
    if not flat and not steep:
        return _far_start(flow, inputs, start)
    largest = number(inputs.largest_deviation)
    message = f"The inputs are too large for {inputs.layer}: a feature has an rms of {largest}, not 1."
    evidence: list[Evidence] = []
    if flat and inputs.saturated is not None:
        message += (
            f" {percent(inputs.saturated)} of what leaves the first bounded activation lies on its flat ends;"
            f" standardised, {percent(inputs.saturated_standardised)}. It is not the weights: they work then."
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
    return [
        Statement(
            level="error" if flow.loss is not None and flow.loss.at_constant else "note",
            layers=(inputs.layer,),
            cause="scale of the inputs",
            message=message,
            evidence=tuple(evidence),
        )
    ]


def _far_start(flow: Flow, inputs: InputFacts, start: float) -> list[Statement]:
    """Outputs as large as the inputs, and a loss to match, which standardised inputs would not have."""
    loss, after = flow.loss, inputs.loss_standardised
    if loss is None or after is None or not math.isfinite(after):
        return []
    if loss.relative_gap is None or loss.reference is None or loss.best_constant is None:
        return []
    floor = loss.value - loss.relative_gap * loss.reference
    constant = loss.best_constant - floor
    if not constant > 0.0 or not loss.value - floor > start * constant or not after - floor <= 2.0 * constant:
        return []
    times = (loss.value - floor) / constant
    message = (
        f"The inputs are far from unit size: a feature has an rms of {number(inputs.largest_deviation)}, and the"
        f" outputs grow with it. The loss is {number(loss.value)}, about {about(times)} times that of the best constant"
        f" output; on standardised inputs the same weights have {number(after)}. Training first has to undo that,"
        " and features of ordinary size beside such a one are hardly heard."
    )
    return [
        Statement(
            level="note",
            layers=(inputs.layer,),
            cause="scale of the inputs",
            message=message,
            evidence=(
                Evidence(name="loss over that of the best constant", value=times, relation=">", threshold=start),
                Evidence(name="the same, standardised", value=(after - floor) / constant, relation="<=", threshold=2.0),
            ),
        )
    ]


def _steep(inputs: InputFacts, limit: float) -> bool:
    """Whether the first layer allows too small a step, and no longer does once the inputs are standardised."""
    before, after = inputs.step_limit, inputs.step_limit_standardised
    return before is not None and after is not None and before < limit < after
