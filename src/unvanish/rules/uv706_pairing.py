"""UV706: the last layer and the loss do not fit each other."""

from __future__ import annotations

from unvanish.decide.limits import NO_LOGARITHMS, NO_MASS
from unvanish.decide.stationary import has_converged
from unvanish.records import CallFlow, Evidence, Flow, LabelFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import NORMALISERS, TAKES_LOGITS, UNREACHABLE, makes_shares, takes_logits
from unvanish.rules.wording import place
from unvanish.words.numbers import number, percent


@rule(
    "UV706",
    "pairing",
    "last layer and loss do not fit",
    tier="pairing",
    levels=("error", "note"),
    needs=("loss",),
    remedies=("output-layer",),
    fires_on=("double-softmax", "softmax-one-unit", "double-sigmoid", "relu-renormalised"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "preln-transformer-6", "generator-frozen-discriminator",
        "output-range", "output-scale", "chain-20", "sigmoid-output",
        "softplus-renormalised", "output-range-relu",
    ),
)  # fmt: skip
def pairing(flow: Flow, *, threshold: float = UNREACHABLE) -> list[Statement]:
    """What the network does to its outputs last and what the loss does to them first do not fit together.

    Example: a softmax at the end of the network, and a cross-entropy that makes a softmax of its own. Numbers between 0
    and 1 go in as logits, so over ten classes no probability ever exceeds 0.24. A softmax over one unit, a ReLU or
    sigmoid on logits, cosines as logits and a normaliser without weights before quantities of another size are of the
    same kind.

    Why: a loss that normalises by itself expects unbounded numbers of both signs. Normalised or clipped ones leave it
    only a small part of its range, and the gradient through the two in a row is weak.

    Evidence: the last call that changes a number (views, transposes and the like only move them) normalises or divides
    by its length, spread, sum or largest entry what it is given, or the loss takes logits and the last call bounds or
    clips them, as a product of unit vectors of outputs and weights does; and the lowest loss that any input of that
    call can reach leaves more than ``threshold`` of the achievable reduction out of reach. Not where the outputs are
    compared with nothing and only weigh something, as shares of a portfolio or of a mixture do: what the loss asks of a
    sample then has one direction, whatever the outputs are. Or the model's last call ends on one side, the loss divides
    the outputs by their sum (it stays the same when all of them grow by one factor), and with the outputs that lie
    exactly on that end left there, the best loss is worse than that of a constant by more than ``threshold`` of the
    achievable reduction. A ReLU has no slope there, so no sample brings its own output back, and a share of nothing
    costs the most. Or the loss takes log-probabilities, and the exponentials of what it is given do not add up to one:
    the mean of |log Σ exp(output)| is above 0.1, where a log-softmax leaves rounding; of a divergence along no axis, as
    the classes of pixels may lie along any, and not counting rows of zeros, which a mask leaves. Or the loss function
    itself gives such a loss what no logarithm was taken of, as by a softmax. Such a loss falls without end as the
    outputs grow. So does a binary cross-entropy with a target outside of 0 to 1, such as a mask of 0 and 255 or labels
    of -1 and 1; by up to a tenth, as resizing a mask leaves it, it is not asked. Or all labels are 0 and 1 where the
    loss function knows -1 and 1 (soft margin, hinge and cosine embedding; of a margin ranking it is a note, as 0 may be
    a tie): those of 0 then ask for nothing, or for both. A note, too, where labels of 0 and 1 have several ones a
    sample under a cross-entropy over classes, which is right for shares of one whole.

    What helps: remove the last activation where the loss has one of its own; a sigmoid for a single unit; a factor that
    multiplies cosines, fixed at 10 to 30 or learned; a last layer behind a normaliser; a log-softmax before a loss of
    log-probabilities, or the cross-entropy in its place.

    Source: Bridle 1990, Probabilistic interpretation of feedforward classification network outputs; Bishop 2006,
    Pattern recognition and machine learning, section 4.3.6; Wang, Xiang, Cheng & Yuille 2017, NormFace: L2 hypersphere
    embedding for face verification (the least cross-entropy of cosines).
    """
    if any(makes_shares(flow, facts) for facts in flow.across) and not takes_logits(flow):
        return _labels(flow)  # they are shares of the batch, as UV709 tells, and would fit along the other axis
    rest = _no_logarithms(flow) or _no_shares(flow) or _out_of_reach(flow, threshold) or _held(flow, threshold)
    return [*_labels(flow), *rest]


def _out_of_reach(flow: Flow, threshold: float) -> list[Statement]:
    output = flow.output
    lost = None if output is None else output.unreachable
    if output is None or lost is None or not lost > threshold:
        return []
    if output.kind != "normalised" and not (output.kind in ("bounded", "clipped") and takes_logits(flow)):
        return []
    call = flow.call_at(output.call)
    message = (
        f"{percent(lost)} of the achievable reduction of the loss is out of reach: {place(call)} {_why(flow, call)}."
        " The layers before may be sound: no training of them gets past it."
    )
    return [
        Statement(
            level="error",
            cause="" if call is None else call.name,
            message=message,
            evidence=(Evidence(name="unreachable share of the loss", value=lost, relation=">", threshold=threshold),),
            remedies=() if call is not None and (call.name in (*COSINES, *NORMALISERS) or "div" in call.name) else None,
        )
    ]


def _held(flow: Flow, threshold: float) -> list[Statement]:
    """Outputs on the flat end of the last call, under a loss that only knows their shares."""
    output, loss = flow.output, flow.loss
    if output is None or loss is None or output.held is None or not output.at_end:
        return []
    if output.constant is None or not loss.reference or has_converged(loss):
        return []
    lost = (output.held - output.constant) / loss.reference
    if not lost > threshold:
        return []
    call = flow.call_at(output.end)
    message = (
        f"{place(call)} and a loss that divides the outputs by their sum do not fit: {percent(output.at_end)} of the"
        " outputs lie exactly on the end of its range, where it has no slope that would bring them back. While they"
        f" stay, the loss cannot fall below {number(output.held)}; one constant output for all samples has"
        f" {number(output.constant)}. A softmax has no such end. On this batch."
    )
    return [
        Statement(
            level="error",
            cause="" if call is None else call.name,
            message=message,
            evidence=(
                Evidence(name="loss held beyond the best constant's", value=lost, relation=">", threshold=threshold),
                Evidence(name="share of the outputs on the end", value=output.at_end),
            ),
        )
    ]


def _labels(flow: Flow) -> list[Statement]:
    """Labels that the loss function takes and does not mean."""
    labels = flow.labels
    if labels is None or labels.kind == "mixed":  # which UV708 tells of
        return []
    if labels.kind == NO_LOGARITHMS:
        return [] if _no_logarithms(flow) else _made_in_the_loss(flow, labels)
    call = flow.call_at(labels.call)
    name = "the loss" if call is None else call.name
    share = percent(labels.share)
    if labels.kind == "several":
        message = (
            f"{name} makes the outputs of a sample shares of one whole, and {share} of the samples have several ones"
            " among their targets: it then asks for equal shares, and a sample counts as often as it has ones. Where"
            " each class is true or not by itself, binary_cross_entropy_with_logits asks for that."
        )
    elif labels.kind == "beyond":
        message = (
            f"{name} takes labels from 0 to 1, and {share} of these lie outside, as -1 does. For them the loss falls"
            " without end as the outputs grow, whatever is learned."
        )
    else:
        message = (
            f"{name} knows labels of -1 and 1, and these are 0 and 1: {_ZERO.get(name, 'those of 0 ask for nothing')}"
            f" ({share} of them). Labels of 2 y - 1 say what is meant."
        )
    return [
        Statement(
            level="note" if labels.kind == "several" or name == "margin_ranking_loss" else "error",
            cause="targets",
            message=message,
            evidence=(Evidence(name="share of such labels", value=labels.share, relation=">", threshold=0.0),),
            remedies=(),
        )
    ]


_ZERO = {"hinge_embedding_loss": "those of 0 count as both at once"}


def _no_logarithms(flow: Flow) -> list[Statement]:
    """A loss of log-probabilities that is given something else."""
    output = flow.output
    if output is None or output.log_mass is None or not output.log_mass > NO_MASS:
        return []
    loss = next((call.name for call in flow.calls if call.name in ("kl_div", "ctc_loss")), "nll_loss")
    cure = "Put a log_softmax before it" + (", or take cross_entropy instead." if loss == "nll_loss" else ".")
    return [
        Statement(
            level="error",
            cause=loss,
            message=(
                f"{loss} takes log-probabilities and is given something else: the exponentials of a sample's outputs"
                f" do not add up to 1 (mean |log Σ exp| {number(output.log_mass)}). The loss then falls without end as"
                f" the outputs grow, whatever is learned. {cure}"
            ),
            evidence=(Evidence(name="log_mass", value=output.log_mass, relation=">", threshold=NO_MASS),),
        )
    ]


def _made_in_the_loss(flow: Flow, labels: LabelFacts) -> list[Statement]:
    """The same of numbers that the loss function makes of the outputs, as by a softmax."""
    call = flow.call_at(labels.call)
    name = "the loss" if call is None else call.name
    return [
        Statement(
            level="error",
            cause=name,
            message=(
                f"{name}{f' at {call.source}' if call is not None and call.source else ''} takes log-probabilities, and"
                " no logarithm was taken of what it is given: along no axis do the exponentials add up to 1 (mean"
                f" |log Σ exp| {number(labels.share)} at least). It is then lowest elsewhere than where the outputs"
                " are as the targets are. A log_softmax in the place of a softmax gives it what it takes."
            ),
            evidence=(Evidence(name="log_mass", value=labels.share, relation=">", threshold=NO_MASS),),
            remedies=(),
        )
    ]


def _no_shares(flow: Flow) -> list[Statement]:
    """A binary cross-entropy whose targets are no shares."""
    output = flow.output
    if output is None or output.outside is None or not output.outside > NO_SHARE:
        return []
    return [
        Statement(
            level="error",
            cause="targets",
            message=(
                "A binary cross-entropy takes targets from 0 to 1, and some of these lie"
                f" {number(output.outside)} beyond. For them the loss falls without end as the outputs grow, whatever"
                " is learned. Scale the targets, or take another loss."
            ),
            evidence=(Evidence(name="outside", value=output.outside, relation=">", threshold=NO_SHARE),),
        )
    ]


NO_SHARE = 0.1
"""What a target may lie outside of 0 to 1: interpolation overshoots by a few hundredths."""

COSINES = ("cosine_similarity", "linear", "matmul", "__matmul__", "mm")
"""Calls of weights and outputs whose range is known because both have length 1."""

FACTOR = "Multiply them by a factor, of 10 to 30 or one that is learned"


def _why(flow: Flow, call: CallFlow | None) -> str:
    name = "" if call is None else call.name
    if takes_logits(flow):
        after = (each.name for each in flow.calls if call is not None and each.index > call.index)
        loss = next((name for name in after if name in TAKES_LOGITS), "the loss")
        if name in COSINES:
            return f"gives cosines, from -1 to 1, and {loss} expects unbounded numbers. {FACTOR}"
        if name in NORMALISERS:
            return f"gives the outputs a fixed size before {loss}, which expects them unbounded. {FACTOR}"
        return f"squeezes the outputs before {loss}, which normalises them once more and expects them unbounded"
    if name in NORMALISERS:
        return "gives the outputs a fixed size, and the targets cannot be reached with that"
    always = "0, the log of 1" if name == "log_softmax" else "1"
    return (
        "normalises the outputs, and the targets cannot be reached with what it returns (over one unit it is always"
        f" {always})"
    )
