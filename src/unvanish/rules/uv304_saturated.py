"""UV304: bounded activations sit on their flat ends, and not because the network is sure and right."""

from __future__ import annotations

import math

from unvanish.records import CallFlow, Evidence, Flow, PinnedFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import (
    LEARNED,
    feeding,
    goes_around,
    is_piecewise_linear,
    makes_outputs,
    regained,
    settled,
    to_reach,
)
from unvanish.rules.saturation import FLAT, copying_calls, only_gates, saturated_calls
from unvanish.rules.wording import names, place
from unvanish.words.numbers import number, percent


@rule(
    "UV304",
    "saturated",
    "saturated activations",
    tier="activations",
    levels=("error", "note"),
    needs=("calls", "saturated_fraction", "loss"),
    remedies=("small-embeddings", "lsuv-init", "orthogonal-init", "batchnorm", "layernorm", "standardise-inputs"),
    fires_on=("saturated-tanh", "saturated-sigmoid", "large-embedding"),
    silent_on=(
        "sigmoid-20", "tanh-orthogonal-50", "chaotic-tanh-50", "converged-digits", "relu-he-20", "relu6-cnn",
        "small-cnn", "lstm", "small-gpt", "preln-transformer-6", "generator-frozen-discriminator", "unscaled-inputs",
    ),
)  # fmt: skip
def saturated(flow: Flow, *, threshold: float = FLAT, passed: float = 1 / 3) -> list[Statement]:
    """Most entries of a bounded activation lie on its flat ends, where nothing gets through.

    Example: a tanh network whose weights are thirty times too large: nearly every unit is at -1 or 1.

    Why: a sigmoid or tanh is flat far from zero: a unit there passes no gradient to its weights, however wrong it is.

    Evidence: the share of entries whose slope is below 1% of the activation's largest, greater than ``threshold``,
    while the loss is no better than that of the best constant: confident, correct units are flat too. Outputs do not
    count while the loss corrects them: a confidently wrong one is flat as well. Where standardised inputs undo it UV707
    speaks for that layer. Piecewise linear ones (hardtanh, hardsigmoid, ReLU6) pass at full slope where they are not
    flat: for them UV303 counts units that are flat on every sample. Nor does one count whose argument reaches the loss
    mainly by another way: a sigmoid in x·sigmoid(x). The entries that are not flat still pass the signal on: √(1 −
    share) of it, in rms. While that is ``passed`` or more, it is a note: a third is left where nine entries in ten are
    flat, the limit that UV303 has for dead units. Of outputs, and before a loss without a scale, such as a policy
    gradient or what a generator gets from a sure judge, the direction decides: at least a quarter of what the loss
    asks, in squares, would move flat entries away from their end (with a scale, of it times the way left to go). An
    output counts where less than a hundredth of the gradient passes that inputs of size 1 would let through (a
    logarithm may make up for the slope), and as a note where less than ``passed`` of it does. Within the network flat
    entries pass where what they send back falls by less than the root of their slope; where the argument reaches the
    loss by another way, it is a note. Where all that is saturated multiplies something else, as the shut gate of a
    highway network does, it is a note if real steps, tried and taken back, win half of the loss, or if an edge of the
    graph leads past it and there is no optimizer to try any. A softmax counts by its rows: those of which one entry has
    all but 1/400. In an attention more than ``threshold`` of them are an error, a tenth a note: blocks that copy or
    turn round 64 texts reached a loss of 0.01 on others without such rows at the start, and 5 to 9 with a tenth or
    more; of 256 texts 0.004, and 0.01 to 0.8. With examples that are new at every step most such networks learn, if
    later, so it is a note where up to 400 real steps on training batches, taken back, bring samples that they have not
    seen a fifth of the way from the best constant to the lowest loss. Heads that look at one place rest.

    What helps: smaller weights, standardised inputs, a normalisation before; for an attention, scaled scores.

    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks; LeCun,
    Bottou, Orr & Müller 1998, Efficient BackProp, section 4.4; Vaswani et al. 2017, Attention is all you need, 3.2.1.
    """
    if flow.loss is None or settled(flow):
        return []
    if not flow.loss.at_constant:
        return _pinned(flow, threshold, passed) if flow.pinned else []
    calls = saturated_calls(flow, threshold)
    if not calls:
        return _pinned(flow, threshold, passed) or _copying(flow, threshold)
    worst = max(calls, key=lambda call: call.saturated_fraction or 0.0)
    share = worst.saturated_fraction or 0.0
    left = math.sqrt(max(0.0, 1.0 - share))
    behind = {layer.name for call in calls for layer in feeding(flow, call)}
    evidence = [Evidence(name="saturated_fraction", value=share, relation=">", threshold=threshold)]
    if left < passed:
        evidence.append(Evidence(name="share of the signal passed on", value=left, relation="<", threshold=passed))
    beside = _beside(flow) if left < passed else _rest(left)
    return [
        Statement(
            level="note" if beside else "error",
            layers=names([layer for layer in flow.layers if layer.name in behind]),
            cause=worst.name,
            message=_message(worst, len(calls), flow.loss.value) + beside,
            evidence=tuple(evidence),
            remedies=_remedies(flow),
        )
    ]


def _beside(flow: Flow) -> str:
    """What speaks for a network whose gates alone are saturated, if anything does."""
    if not only_gates(flow):
        return ""
    if flow.step is None:
        past = " It is a gate, and the signal has a way past it: without an optimizer, no steps tell what it costs."
        return "" if any(call.trunk for call in saturated_calls(flow)) else past
    back = regained(flow)
    if back is None:
        return ""
    return (
        f" But it is a gate, and the network trains past it: {back.regained_after} real steps, tried on this batch and"
        f" taken back, bring the loss to {number(back.regained or 0.0)}."
    )


ASKED, LET_THROUGH = 0.25, 0.01
AROUND = (
    " But its argument reaches the loss by another way as well, and the signal with it: the network may well learn."
)
COPIES = 0.1
"""Share of rows from which on all the networks of which ``saturated`` tells ended worse than with scaled scores."""


def _copying(flow: Flow, threshold: float) -> list[Statement]:
    """Attention of which many queries copy one value each, picked by weights that have learned nothing yet."""
    calls = copying_calls(flow, COPIES)
    if not calls:
        return []
    worst = max(calls, key=lambda call: call.saturated_fraction or 0.0)
    share = worst.saturated_fraction or 0.0
    learns = _learns(flow)
    level = "error" if share > threshold and not learns else "note"
    own = {call.index: [a for a in flow.layers if a.call == call.index] for call in calls}
    behind = {layer.name for call in calls for layer in own[call.index] or feeding(flow, call)}
    others = f", and {len(calls) - 1} more attentions are like it" if len(calls) > 1 else ""
    message = (
        f"{percent(share)} of the queries of the attention at {place(worst)} look at one entry alone{others}: a softmax"
        " is flat there, so what they look at was picked by weights that have learned nothing, and hardly changes. With"
        " few examples such a network learns them by heart. Divide the scores by the root of their width, as"
        f" scaled_dot_product_attention does, or make queries and keys smaller.{learns}"
    )
    evidence = Evidence(
        name="share of rows that are one entry alone",
        value=share,
        relation=">",
        threshold=threshold if share > threshold else COPIES,
    )
    return [
        Statement(
            level=level,
            layers=names([layer for layer in flow.layers if layer.name in behind]),
            cause=worst.name,
            message=message,
            evidence=(evidence,),
            remedies=(),
        )
    ]


def _learns(flow: Flow) -> str:
    """What speaks for attention that copies, if real steps on training batches do."""
    step, enough = flow.step, None if flow.loss is None else to_reach(flow.loss, LEARNED)
    if step is None or step.unseen is None or enough is None or not step.unseen < enough:
        return ""
    return (
        f" But it learns: {step.unseen_after} real steps, tried on training batches and taken back, bring the loss of"
        f" samples they have not seen to {number(step.unseen)}."
    )


def _pinned(flow: Flow, threshold: float, passed: float) -> list[Statement]:
    """What lies on its flat ends before a loss without a scale, though the loss asks it to move away from there."""
    found = [
        (flow.calls[each.call], each)
        for each in flow.pinned
        if each.asked >= ASKED
        and (each.passed is None or each.passed < passed)
        and (each.passed is not None or not makes_outputs(flow, flow.calls[each.call]))
        and not is_piecewise_linear(flow.calls[each.call])
        and _flat(flow, each) > threshold
        and not goes_around(flow.calls, flow.calls[each.call])
    ]
    if not found:
        return []
    call, facts = max(found, key=lambda each: _flat(flow, each[1]))
    share, behind = _flat(flow, facts), {layer.name for each, _ in found for layer in feeding(flow, each)}
    left = math.sqrt(max(0.0, 1.0 - share + facts.undone))
    shut = left < passed and (facts.passed is None or facts.passed < LET_THROUGH)
    around = shut and goes_around(flow.calls, call, mainly=False)
    level = "error" if shut and not around else "note"
    what, they = f"of what leaves {place(call)} lies on its flat ends", "such entries away from their end"
    if facts.rows is not None:
        what, they = f"of the rows that {place(call)} gives are one entry alone", "such rows away from it"
    weighed = facts.rows is None and flow.loss is not None and flow.loss.relative_gap is not None
    room = ", as far as the ends leave room," if weighed else ""
    message = (
        f"{percent(share)} {what}, where the slope is nearly zero, so the layers before it get almost no signal through"
        " it. They are not there because the loss wants them there:"
        f" {percent(facts.asked)} of what it asks{room} would move {they}."
    )
    evidence = [
        Evidence(
            name="saturated_fraction" if facts.rows is None else "share of rows that are one entry alone",
            value=share,
            relation=">",
            threshold=threshold,
        ),
        Evidence(name="asked to leave a flat end", value=facts.asked, relation=">", threshold=ASKED),
    ]
    if facts.passed is not None:
        limit = LET_THROUGH if level == "error" else passed
        evidence.append(Evidence(name="gradient let through", value=facts.passed, relation="<", threshold=limit))
    if level == "note":
        message += AROUND if around else _made_up(facts.undone) if facts.undone else _rest(facts.passed or left)
    if facts.undone:
        evidence.append(Evidence(name="flat entries whose slope is made up for", value=facts.undone))
    return [
        Statement(
            level=level,
            layers=names([layer for layer in flow.layers if layer.name in behind]),
            cause=call.name,
            message=message,
            evidence=tuple(evidence),
            remedies=_remedies(flow),
        )
    ]


def _remedies(flow: Flow) -> tuple[str, ...]:
    """Names of things are not to be scaled as quantities are, but what they are looked up as is."""
    usual = ("lsuv-init", "orthogonal-init", "batchnorm", "layernorm")
    looks_up = any(layer.kind.startswith("Embedding") for layer in flow.layers)
    return ("small-embeddings", *usual) if looks_up else (*usual, "standardise-inputs")


def _flat(flow: Flow, facts: PinnedFacts) -> float:
    return (flow.calls[facts.call].saturated_fraction or 0.0) if facts.rows is None else facts.rows


def _made_up(undone: float) -> str:
    return (
        f" But a call after it makes up for the slope on {percent(undone)} of the entries: the network may well learn."
    )


def _rest(left: float) -> str:
    return f" The other entries still pass {percent(left)} of the signal on, so the network may well learn."


def _message(worst: CallFlow, count: int, loss: float) -> str:
    others = f", and {count - 1} more activations are like it" if count > 1 else ""
    return (
        f"{percent(worst.saturated_fraction or 0.0)} of what leaves {place(worst)} lies on its flat ends{others}:"
        " there the slope is nearly zero, so the layers before it get almost no signal. They are not flat because the"
        f" network is confident and correct: its loss, {number(loss)}, is no better than that of a constant output."
    )
