"""UV711: every sample gets the same output, whatever the weights."""

from __future__ import annotations

from unvanish.decide.alike import alike_level
from unvanish.decide.limits import ANY_CONSTANT, UNTOLD
from unvanish.decide.stationary import has_converged
from unvanish.records import Evidence, Flow, LossFacts, SameFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import hindered
from unvanish.words.numbers import number, percent


@rule(
    "UV711",
    "collapsed",
    "one output for all samples",
    tier="pairing",
    levels=("error", "note"),
    needs=("loss",),
    fires_on=("padding-read", "inputs-not-read"),
    silent_on=(
        "padding-not-read", "plateau-noise-labels", "zero-head", "dead-relu", "sigmoid-50", "relu-he-20", "small-cnn",
        "small-gpt", "lstm", "paired-targets", "converged-digits", "graph-2",
    ),
)  # fmt: skip
def same_outputs(flow: Flow) -> list[Statement]:
    """All samples of a batch have the same output, although their inputs and their targets differ.

    Example: sequences that end in padding, read at their last place; a mean over the axis of the samples; a forward
    pass that makes its outputs of everything but the inputs; a decoder given zeros for all of its steps.

    Why: what cannot tell the samples apart gives each the same answer. The loss falls to that of the best constant and
    stays there, while every gradient arrives and every layer looks sound.

    Evidence: without dropout, the outputs of all samples agree to rounding, and still do when all trainable weights are
    moved by the size of an ordinary initialisation: a head that begins at zero, or a small one, does not. Layers that
    are dead or have vanished, and rows that means have made alike, are told of instead. Other numbers are then put in
    the place of the inputs that differ. If this tells the outputs apart, what is read is a part that happens to be the
    same: an error, as is where nothing does. A note where all inputs are the same, or those that are read, such as
    first observations. Outputs of steps, along an axis that the targets have too and differ along, are asked in the
    same way: an error where nothing tells the steps apart, a note where the forward pass ends in an ``expand`` along
    them. Targets that the loss does not count, as padding, are left out of it. A model of no more weights than outputs
    is not asked: a constant is what is meant. An error, too, where the loss only compares outputs with one another and
    they are alike: in squares they, or their directions where their length does not count, differ by less than a
    hundredth of what they differ by at weights moved as above; the loss has less than a thousandth left of what random
    outputs cost, is the same for whichever constant and whatever targets, and no outputs have a lower one.

    What helps: where outputs are compared with one another, no gradient through one side of the comparison and a
    predictor on the other, a term that keeps their variance up, or other samples to stay away from. Else read the last
    place of each sequence that is no padding, by its length (``packed`` sequences give it as the final state); check
    the axis of means and indices, and that the forward pass uses what it is given.

    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic (how far equal sums
    may differ); PyTorch documentation, torch.nn.utils.rnn.pack_padded_sequence; Chen & He 2021, Exploring
    simple siamese representation learning, section 4.1 (collapse without a stop-gradient).
    """
    same, loss = flow.same, flow.loss
    if same is not None and loss is not None and same.read == ANY_CONSTANT:
        return [_any_constant(same, loss)]
    if same is None or loss is None or has_converged(loss) or alike_level(flow):
        return []
    dead = any(layer.verdict == "dead" for layer in flow.layers)  # other inputs may well wake what is off
    if dead or (same.read != PART and hindered(flow)):  # nothing comes through to the outputs, or to a mean of them
        return []
    if same.axis:
        return [_steps(same)]
    evidence = (Evidence(name="samples with one output", value=float(same.samples)),)
    level, why = _SAID[same.read]
    best = "" if loss.best_constant is None else f" (loss {number(loss.best_constant)})"
    message = (
        f"All {same.samples:,} samples of this batch have the same output, at other weights as well, although their"
        f" targets differ: {why} All that training can reach this way is the best constant{best}."
    )
    return [Statement(level=level, cause=same.read, message=message, evidence=evidence)]


def _any_constant(same: SameFacts, loss: LossFacts) -> Statement:
    """Of outputs that are only compared with one another, and have become alike."""
    message = (
        f"All {same.samples:,} samples of this batch have nearly the same output, whatever their inputs: they differ by"
        f" {percent(same.apart)}, in squares, of what they could. The loss, {number(loss.value)}, is at its lowest all"
        " the same, for it only compares outputs with one another, and any constant satisfies it. Nothing is left"
        " to tell the samples apart by. Stop the gradient through one side of the comparison and put a predictor before"
        " the other, or add a term that keeps the outputs' variance up. On this batch."
    )
    evidence = Evidence(name="share by which outputs differ", value=same.apart, relation="<", threshold=UNTOLD)
    return Statement(level="error", cause=ANY_CONSTANT, message=message, evidence=(evidence,))


def _steps(same: SameFacts) -> Statement:
    """Of outputs that are the same at every step of each sample."""
    level, why = _OF_STEPS[same.read]
    message = (
        f"All {same.samples:,} steps along axis {same.axis} of the outputs are the same for each sample, at other"
        f" weights as well, although their targets differ: {why} All that training can reach this way is one answer for"
        " all steps of a sample."
    )
    evidence = (Evidence(name="steps with one output", value=float(same.samples)),)
    return Statement(level=level, cause="one output for all steps", message=message, evidence=evidence)


_OF_STEPS = {
    "nothing": (
        "error",
        "nothing tells one step from another, for other numbers in place of the inputs do not either. Give each step"
        " something of its own: its input, what came before it, or an encoding of its position.",
    ),
    "nothing, expanded": (
        "note",
        "one answer for each sample is expanded over all of them, which is meant where several targets belong to it.",
    ),
    "others that are the same": ("note", "the inputs they are made of are the same at every step here."),
}

PART = "a part that is the same"
"""What lets other inputs tell the outputs apart has no layer that loses them on the way."""

_SAID = {
    PART: (
        "error",
        "of inputs that differ, what reaches the outputs is the same for every sample, and other numbers in their"
        " place tell the outputs apart. Is what the outputs are made of read where there is padding, or at a wrong"
        " index?",
    ),
    "the batch as a whole": (
        "error",
        "the outputs depend on the batch as a whole and not on each sample. Is a mean taken over the samples, or one"
        " sample in the place of all?",
    ),
    "nothing": (
        "error",
        "other numbers in the place of the inputs change no output: nothing of them reaches it, or what does is lost in"
        " rounding, as in a product of many probabilities.",
    ),
    "others that are the same": ("note", "what reaches them are inputs that are the same for every sample here."),
    "nothing that differs": ("note", "their inputs are all the same."),
}
