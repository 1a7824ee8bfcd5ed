"""UV707: the inputs are on a scale the first layer was not made for."""

from __future__ import annotations

import math

from unvanish.decide.stationary import floor_of
from unvanish.records import Evidence, Flow, InputFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import inputs_saturate, settled
from unvanish.rules.pace import planned
from unvanish.rules.wording import about, factor
from unvanish.words.numbers import number, percent
from unvanish.words.spans import called

WON, HALF = 0.05, 0.5
"""Of the way from the loss of the best constant output to the lowest: with less than the first nothing has been
learned, with the second most of what there is in that many steps."""
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
    flow: Flow,
    *,
    saturated: float = 0.5,
    gone: float = 0.25,
    step_limit: float = -2.0,
    off: float = 100.0,
    slow: float = 100.0,
) -> list[Statement]:
    """The inputs are far from unit size, and the first layer suffers from it; standardised ones cure it.

    Example: readings in the hundreds into a sigmoid layer, or pixels from 0 to 255 into a network made for 0 to 1; such
    pixels divided by 255 twice.

    Why: initialisations assume inputs of about unit size. Large ones drive bounded units onto their flat ends; in any
    case the curvature of the first layer grows with their square, and with it shrinks the learning rate it can stand.
    Without anything that bounds them they reach the outputs, which then are thousands where the targets are ones. Of
    small ones the first layer learns in proportion to their size, and so much do they move the outputs: the network
    answers with one constant for as long as that takes.

    Evidence: the network looked at twice, with the inputs as they are and standardised (mean 0, deviation 1 a feature).
    More than ``saturated`` of the entries of the first bounded activation saturated, at most ``gone`` afterwards; or
    log10 of the step the first layer's curvature allows, over that of the median layer, below ``step_limit`` and above
    it afterwards; or the loss more than ``off`` times that of the best constant (for squares: outputs ten times as far
    off as the targets spread), and less than the root of ``off`` times afterwards. A note where the loss is already
    better than that of a constant: the network has begun to live with it. A note, too, where only the loss tells and is
    at most ``off`` squared times that large: within hundreds of steps Adam has made good for it then, at times. Where
    there are training batches, up to 800 real steps, taken back, decide instead: an error where on standardised inputs
    they go half of the way from the best constant output to the lowest loss, and on these less than a twentieth, nor
    would in the planned steps at their pace; a note where they go half as far on these as on those. Small are inputs of
    which no feature has a deviation of a tenth, where at most 100 steps of the optimizer leave the loss at that of the
    best constant output, and as many on standardised inputs go a twentieth of the way from there. An error where the
    steps that took, over that deviation, over its square for SGD, are more than ``slow`` times the planned ones:
    networks that did learn took a tenth to a half of so many.

    What helps: standardise the inputs by the training set's mean and deviation, or start with a batch normalisation.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5.1.
    """
    inputs = flow.inputs
    if inputs is None or flow.nonfinite or settled(flow):
        return []
    if inputs.small:
        return _too_small(flow, inputs, inputs.steps or 0, slow)
    far = _far_off(flow, inputs, off)
    flat = _flat_ends(inputs, saturated, gone) if inputs_saturate(flow, saturated, gone) else None
    said = [each for each in (flat, _short_steps(inputs, step_limit), far) if each is not None]
    if not said:
        return []
    size = number(inputs.largest_deviation)
    opening = f"The inputs are too large for {called(inputs.layer)}: a feature has an rms of {size}, not 1."
    hurt = len(said) > (far is not None) and flow.loss is not None and flow.loss.at_constant
    worthless = hurt or (far is not None and (far[1][0].value or 0.0) > off**2)
    harmful, tried, shown = _tried(flow, inputs)
    level = "error" if (worthless if harmful is None else harmful) else "note"
    message = " ".join([opening, *(sentence for sentence, _ in said)]) + tried
    evidence = *(each for _, pair in said for each in pair), *shown
    return [
        Statement(level=level, layers=(inputs.layer,), cause="scale of the inputs", message=message, evidence=evidence)
    ]


def _tried(flow: Flow, inputs: InputFacts) -> tuple[bool | None, str, tuple[Evidence, ...]]:
    """Whether real steps fail on these inputs and learn on standardised ones, in words and numbers.

    None where they show neither: a network that has gone some of the way on both, or none on either.
    """
    loss, after, standard = flow.loss, inputs.after, inputs.after_standardised
    constant, floor = (None, None) if loss is None else (loss.best_constant, floor_of(loss))
    if inputs.small or loss is None or after is None or standard is None or constant is None or floor is None:
        return None, "", ()
    shown = (
        Evidence(name="loss after real steps", value=after),
        Evidence(name="the same, inputs standardised", value=standard),
    )
    won, cured = ((constant - value) / (constant - floor) if constant > floor else 0.0 for value in (after, standard))
    steps, other, optimizer = inputs.steps or 0, inputs.steps_standardised or 0, flow.setting.optimizer
    if cured >= WON and won >= HALF * cured:
        learns = f" But it learns: {steps} real steps of {optimizer}, taken back, bring the loss to {number(after)};"
        return False, f"{learns} {other} on standardised inputs, to {number(standard)}.", shown
    if won >= WON or cured < HALF:
        return None, "", shown
    fails = f" {steps} real steps of {optimizer}, taken back, leave the loss at {number(after)};"
    return True, f"{fails} {other} on standardised inputs bring it to {number(standard)}.", shown


def _too_small(flow: Flow, inputs: InputFacts, steps: int, slow: float) -> list[Statement]:
    """SGD moves the first layer in proportion to its inputs, which count once more in what that does; Adam does not."""
    constant = None if flow.loss is None else flow.loss.best_constant
    if inputs.after is None or inputs.after_standardised is None or constant is None:
        return []
    optimizer, size = flow.setting.optimizer, inputs.largest_deviation
    expected = steps / (size**2 if optimizer == "SGD" else size)
    message = (
        f"The inputs are too small for {called(inputs.layer)}: no feature has a deviation from its mean above"
        f" {number(size)}, not 1, so the network can hardly tell samples apart. {steps} steps of {optimizer} bring the"
        f" loss to {number(inputs.after)}, no better than one constant output ({number(constant)}); as many on"
        f" standardised inputs bring it to {number(inputs.after_standardised)}. It is not vanished: the signal reaches"
        " the layers."
    )
    evidence = (
        Evidence(name="largest deviation of a feature", value=size, relation="<", threshold=0.1),
        Evidence(name="loss after real steps", value=inputs.after),
        Evidence(name="the same, inputs standardised", value=inputs.after_standardised),
    )
    level = "error" if expected > slow * planned(flow.step) else "note"
    return [
        Statement(level=level, layers=(inputs.layer,), cause="scale of the inputs", message=message, evidence=evidence)
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
