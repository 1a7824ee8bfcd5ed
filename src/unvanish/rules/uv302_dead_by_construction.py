"""UV302: layers behind a call that passes no gradient on any input."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow, LayerFlow, ZeroFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import makes_outputs
from unvanish.rules.wording import judged, names, place, sources, subject
from unvanish.words.numbers import listing


@rule(
    "UV302",
    "dead",
    "dead by construction",
    tier="dead_by_construction",
    levels=("error", "note"),
    needs=("zeros",),
    remedies=("output-layer", "norm-one-group", "norm-off"),
    fires_on=("softmax-one-unit", "groupnorm-one-number", "layernorm-one-number"),
    silent_on=("guarded-clamp", "dead-relu", "relu-he-20", "small-cnn", "small-gpt", "zero-head", "all-zero-weights"),
)
def dead_by_construction(flow: Flow) -> list[Statement]:
    """No gradient can ever reach the layer: an operation after it is constant, whatever goes in.

    Example: a classifier for two classes with one output unit and a ``Softmax``. Over one unit the softmax is always
    1, so its derivative is 0. Rounding, taking a sign and comparing are other examples.

    Why: a constant has no slope. No data, no initialisation and no learning rate changes that; the network must be
    changed.

    Evidence: log10 of the Jacobian norm is -inf, a true zero, and the blocking call has no slope on random input
    either, which distinguishes it from a layer that is off on this batch only. A normaliser of single numbers (a
    group, or a feature, of its own for each) leaves nothing of a number less its mean; rounding may leave 10^-7 of
    the gradient, so it is tried by itself in float64, at inputs of every size. One of pairs leaves which of the two
    is larger, and of the gradient what its eps does, once the two are further apart than its root; a note where it is
    a batch normalisation and all samples are the same, for which the batch is to blame. Of weights of which a step is
    taken before they meet the data, the graph is searched for a way around it; where there is none they are named,
    also in a layer whose bias learns.

    What helps: an output layer that fits the loss: a sigmoid for one unit, raw logits for a loss that normalises
    itself, a linear output for regression.

    Source: Bridle 1990, Probabilistic interpretation of feedforward classification network outputs (the softmax and its
    derivative); Bengio, Léonard & Courville 2013, Estimating or propagating gradients through stochastic neurons (hard
    thresholds).
    """
    facts = {each.layer: each for each in flow.zeros}
    layers = [each for each in judged(flow, "dead") if each.name in facts and facts[each.name].by_construction]
    alike = [layer for layer in layers if facts[layer.name].alike]
    rest = [*_behind_steps(flow), *_of_this_batch(flow, alike, facts)]
    layers = [layer for layer in layers if layer not in alike]
    if not layers:
        return rest
    calls = dict.fromkeys(block for layer in layers for block in facts[layer.name].blocked_by)
    blocks, passes = listing(calls), "passes" if len(calls) < 2 else "pass"
    jacobian = Evidence(name="log10_jacobian_norm", value=_largest(layers))
    if calls and all(call.partition(" ")[0] in NORMS for call in calls):
        message = (
            f"{subject(flow, layers, 'learns', 'learn')} nothing through {blocks}, on random input as little as on this"
            f" batch.{OF_FEW}{sources(layers)}"
        )
        remedies = ("norm-one-group", "norm-off")
    else:
        message = (
            f"{subject(flow, layers, 'can', 'can')} never learn: {blocks or 'a call after it'} {passes} back exactly no"
            f" gradient, on random input as little as on this batch.{_of_one_unit(list(calls))}{sources(layers)}"
        )
        ends = [
            call for call in flow.calls if call.part == "model" and place(call) in calls and makes_outputs(flow, call)
        ]
        if _largest(layers) > -math.inf:  # the outputs depend on it: it is the loss that passes nothing back
            jacobian = Evidence(name="log10_grad_norm", value=-math.inf)
        jacobian, remedies = jacobian.replace(relation="=", threshold=-math.inf), ("output-layer",) if ends else ()
    said = Statement(
        level="error", layers=names(layers), cause=blocks, message=message, evidence=(jacobian,), remedies=remedies
    )
    return [said, *rest]


def _of_this_batch(flow: Flow, layers: list[LayerFlow], facts: dict[str, ZeroFacts]) -> list[Statement]:
    """What is said where it is no construction, but the samples that were given, that leave nothing."""
    if not layers:
        return []
    blocks = listing(block for layer in layers for block in facts[layer.name].blocked_by)
    message = (
        f"{subject(flow, layers, 'learns', 'learn')} nothing through {blocks} on this batch, because all its samples"
        " are the same: a batch normalisation takes their mean from each of them. Samples that differ get"
        f" through.{sources(layers)}"
    )
    jacobian = Evidence(name="log10_jacobian_norm", value=_largest(layers))
    cause = "this batch"
    return [
        Statement(level="note", layers=names(layers), cause=cause, message=message, evidence=(jacobian,), remedies=())
    ]


def _behind_steps(flow: Flow) -> list[Statement]:
    """Weights that are rounded, or of which a sign is taken, in layers whose other tensors learn."""
    facts = [each for each in flow.stopped if not each.cut]
    if not facts:
        return []
    weights, blocks = [name for each in facts for name in each.parameters], listing(each.by for each in facts)
    message = (
        f"{listing(weights)} can never learn: {blocks} {'passes' if len({a.by for a in facts}) == 1 else 'pass'} back"
        " exactly no gradient, whatever the weights are. What else the layers hold, as a bias, learns alone. A gradient"
        " can be led around a step, as by w + (step(w) - w).detach()."
    )
    none = Evidence(name="log10_jacobian_norm", value=-math.inf, relation="=", threshold=-math.inf)
    layers = tuple(dict.fromkeys(each.layer for each in facts))
    return [Statement(level="error", layers=layers, cause=blocks, message=message, evidence=(none,), remedies=())]


NORMS = ("layer_norm", "group_norm", "instance_norm", "batch_norm", "rms_norm")
OF_FEW = (
    " A normaliser that is given one number at a time returns 0, and given two only which of them is larger: of a"
    " gradient, no more than rounding or its eps leaves comes back."
)


def _of_one_unit(calls: list[str]) -> str:
    """What a softmax that passes nothing, whatever it is given, must be."""
    names = {call.partition(" ")[0] for call in calls}
    if not calls or not names <= {"softmax", "log_softmax"}:
        return ""
    always = "0, the log of 1" if names == {"log_softmax"} else "1"
    return (
        f" A softmax over one number is a constant, always {always}: give it one output a class, or let a sigmoid stand"
        " for two classes."
    )


def _largest(layers: list[LayerFlow]) -> float:
    """The largest that was measured: rounding may leave a little of a true zero."""
    return max((a.log10_jacobian_norm for a in layers if a.log10_jacobian_norm is not None), default=-math.inf)
