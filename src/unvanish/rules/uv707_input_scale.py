"""UV707: the inputs are on a scale the first layer was not made for."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow, InputFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import inputs_saturate, settled
from unvanish.rules.wording import about, factor
from unvanish.words.numbers import number, percent

Said = tuple[str, tuple[Evidence, Evidence]]
"""A sentence and the two numbers it rests on: with the inputs as they are, and standardised."""


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
    better than that of a constant: the network has begun to live with it. A note, too, where only the loss tells and is
    at most ``off`` squared times that large: within hundreds of steps Adam has made good for it then, at times.

    What helps: standardise the inputs by the training set's mean and deviation, or start with a batch normalisation.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5.1.
    """
    inputs = flow.inputs
    if inputs is None or flow.nonfinite or settled(flow):
        return []
    far = _far_off(flow, inputs, off)
    flat = _flat_ends(inputs, saturated, gone) if inputs_saturate(flow, saturated, gone) else None
    said = [each for each in (flat, _short_steps(inputs, step_limit), far) if each is not None]
    if not said:
        return []
    called = f"{'layer ' if inputs.layer[:1].isdigit() else ''}{inputs.layer}"
    size = number(inputs.largest_deviation)
    opening = f"The inputs are too large for {called}: a feature has an rms of {size}, not 1."
    hurt = len(said) > (far is not None) and flow.loss is not None and flow.loss.at_constant
    worthless = hurt or (far is not None and (far[1][0].value or 0.0) > off**2)
    return [
        Statement(
            level="error" if worthless else "note",
            layers=(inputs.layer,),
            cause="scale of the inputs",
            message=" ".join([opening, *(sentence for sentence, _ in said)]),
            evidence=tuple(each for _, pair in said for each in pair),
        )
    ]


def _flat_ends(inputs: InputFacts, saturated: float, gone: float) -> Said | None:
    """Entries of the first bounded activation on its flat ends, with the inputs as they are and standardised."""
    before, after = inputs.saturated, inputs.saturated_standardised
    if before is None:
        return None
    text = (
        f"{percent(before)} of what leaves the first bounded activation lies on its flat ends; standardised,"
        f" {percent(after)}. It is not the weights: the same weights work then."
    )
    return text, (
        Evidence(name="saturated_fraction", value=before, relation=">", threshold=saturated),
        Evidence(name="saturated_fraction, standardised", value=after, relation="<=", threshold=gone),
    )


def _short_steps(inputs: InputFacts, limit: float) -> Said | None:
    """The step the first layer can stand, where it is too small and no longer is once the inputs are standardised."""
    before, after = inputs.step_limit, inputs.step_limit_standardised
    if before is None or after is None or not before < limit < after:
        return None
    text = f"It can stand only {factor(before)} of the step the other layers can; standardised, {factor(after)}."
    return text, (
        Evidence(name="log10 step limit", value=before, relation="<", threshold=limit),
        Evidence(name="log10 step limit, standardised", value=after, relation=">", threshold=limit),
    )


def _far_off(flow: Flow, inputs: InputFacts, off: float) -> Said | None:
    """The loss over that of the best constant, where it is far above it and no longer is with standardised inputs."""
    constant = None if flow.loss is None else flow.loss.best_constant
    if flow.loss is None or constant is None or inputs.loss_standardised is None or not constant > 0.0:
        return None
    before, after = flow.loss.value / constant, inputs.loss_standardised / constant
    if not (before > off and after < math.sqrt(off)):
        return None
    text = (
        f"They reach the outputs: the loss is {about(before)} times that of the best constant answer; with standardised"
        f" inputs, {number(after)} times."
    )
    return text, (
        Evidence(name="loss over that of the best constant", value=before, relation=">", threshold=off),
        Evidence(name="the same, inputs standardised", value=after, relation="<", threshold=math.sqrt(off)),
    )
