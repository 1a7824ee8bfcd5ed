"""UV501: the forward pass produces inf or nan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unvanish.records import CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import call_place, factor, names
from unvanish.words.numbers import listing

OUTGROWING = 4.0
"""log10 of an rms from which numbers are on their way out of a type's range: float16 ends at 4.8."""


@rule(
    "UV501",
    "nonfinite",
    "non-finite forward pass",
    tier="nonfinite",
    levels=("error",),
    needs=("nonfinite",),
    remedies=("centred-sigmoid", "activation-tanh", "standardise-inputs"),
    fires_on=("nonfinite-log", "overflow-exp", "masked-row", "masked-rows", "infinite-weight"),
    silent_on=(
        "nonfinite-sqrt0",
        "masked-attention",
        "relu-he-20",
        "sigmoid-50",
        "small-gpt",
        "small-cnn",
        "chaotic-tanh-50",
        "exploding-linear-30",
    ),
)
def nonfinite_forward(flow: Flow, *, large_log10_rms: float = OUTGROWING) -> list[Statement]:
    """The forward pass produces a number that is not finite, so every gradient after it is meaningless.

    Example: the logarithm of a negative number is nan; ``exp(100)`` is inf in float32.

    Why: inf and nan spread. One of them in one output makes the loss nan, and one optimizer step then makes every
    weight nan. The place to look at is the first call whose inputs are still finite: everything later is only a
    consequence.

    Evidence: the first such call, and the largest size (log10 rms) of a finite result before it. At or above
    ``large_log10_rms`` the cause is growth (overflow), below it the call itself at a bad point. Infinities of one sign
    that were put there or added as a mask are meant: what counts is the first call that makes nan of them, a softmax
    of a row that is masked whole. Where a later call replaces what is not finite the loss is finite; it is a finding
    if the gradient is not, else a remark. Weights that hold such numbers already come first, and the batch, or a
    number made without a gradient, where the call was given it. A mean over nothing (all targets ignored, an empty
    selection, weights or a mask of zeros) is nan, and told so.

    What helps: for overflow, a bounded activation or standardised inputs. For a bad point, change the call: a
    logarithm of a clamped value, log_softmax instead of log of softmax; replace bad numbers before the call, because
    0 times nan is nan on the way back. For a masked row, leave one entry of it open and drop the row afterwards.

    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic; IEEE 754-2019.
    """
    worn = () if flow.birth is None else flow.birth.parameters
    if flow.nonfinite != "forward" and not worn:
        return []
    birth = flow.call_at(flow.nonfinite_call)
    before = _largest_before(flow, birth)
    told = worn or _known_reason(flow)
    apart = None if told or birth is None else birth.log10_apart_rms
    overflow = not told and ((before is not None and before >= large_log10_rms) or _outgrown(apart))
    said = [_worn(worn)] if worn else []
    if flow.nonfinite:
        said += [_from(flow, birth), *([] if told else [_handed_on(apart) or _size(before, overflow)]), _hidden(flow)]
    evidence = [Evidence(name="index of the first call with a non-finite result", value=_number(flow.nonfinite_call))]
    if worn:
        evidence.append(Evidence(name="tensors that hold numbers which are not finite", value=float(len(worn))))
    elif before is not None:
        evidence.append(Evidence(name="largest log10_rms before it", value=before, threshold=large_log10_rms))
    paths = {*worn, *(name.rpartition(".")[0] for name in worn)}
    owners = [layer for layer in flow.layers if layer.path in paths]
    return [
        Statement(
            layers=names(owners if worn else flow.layers),
            cause="parameters" if worn else "overflow" if overflow else birth.name if birth is not None else "",
            message=" ".join(filter(None, said)),
            evidence=tuple(evidence),
            remedies=None if overflow else (),
        )
    ]


def _worn(parameters: Sequence[str]) -> str:
    return (
        f"{listing(parameters)} {'holds' if len(parameters) == 1 else 'hold'} nan or inf already: this is the damage"
        " and not its cause, which lies in an earlier step. Go back to weights from before it and check those."
    )


def _from(flow: Flow, birth: CallFlow | None) -> str:
    """Where it begins, and what is known of the reason."""
    facts = flow.birth
    numbers = "inf or nan" if facts is None or not facts.numbers else facts.numbers
    told = f"The forward pass is not finite from {call_place(birth)} on: its result holds {numbers}"
    if birth is None:
        return told + "."
    if facts is None or (not facts.row and not facts.given and not facts.parameters):
        return told + ", its inputs do not."
    if facts.row:
        return told + ", because a row of what it normalises is -inf throughout: everything in it is masked."
    if facts.given == "nothing":
        return f"{told}, because {_NOTHING.get(facts.maker, 'there is nothing that it could take a mean of')}."
    if facts.given == "constant":
        maker = f", made by {facts.maker}" if facts.maker else ""
        return f"{told}, because a number it is given, one without a gradient, is not finite already{maker}."
    if facts.given == "weights":
        maker = f": they are computed by {facts.maker}" if facts.maker else ""
        return f"{told}, because the weights it is given are not finite, although all parameters are{maker}."
    if facts.given == "mask":
        return f"{told}, because it asks for entries that {facts.maker} has set to inf or -inf."
    if facts.given == "range":
        kind = flow.setting.autocast
        return (
            f"{told}, because inputs of this batch go up to {facts.maker}, which {kind} cannot hold: standardise them."
        )
    if facts.given:
        return f"{told}, because the {facts.given} of this batch hold such numbers already."
    return told + "."


_NOTHING = {
    "empty": "it takes the mean of no entry at all: what it is given is empty, as by a mask that selects nothing",
    "ignored": "all targets of this batch are ignored (ignore_index), and the mean is taken over the others",
    "weights": "the classes of all targets of this batch have weight 0, and the mean is divided by these weights",
    "steps": (
        "targets of this batch need more steps than their inputs have: one for each label, and one between two equal"
        " ones"
    ),
    "0/0": "it divides 0 by 0, as a mean does over a mask that is zero throughout",
}


def _outgrown(apart: float | None) -> bool:
    """Whether each step of a recurrence gives finite numbers by itself, so that it is the state that left the type."""
    return apart is not None and math.isfinite(apart)


def _handed_on(apart: float | None) -> str:
    if apart is None or not _outgrown(apart):
        return ""
    return (
        f"By themselves its steps give numbers of an rms of {factor(apart)}: the state, handed on from step to step,"
        " has outgrown the number type. The weights from state to state are too large for as many steps."
    )


def _size(before: float | None, overflow: bool) -> str:
    if before is None:
        return ""
    why = "they have outgrown the number type" if overflow else "the call was asked outside its domain or range"
    return f"The largest values before it have an rms of {factor(before)}: {why}."


def _hidden(flow: Flow) -> str:
    at = None if flow.birth is None else flow.birth.hidden_by
    if at is None:
        return ""
    return (
        f"{call_place(flow.call_at(at))} replaces it, so that the loss is finite; the gradient is not, because 0 times"
        " nan or inf is nan on the way back. Make the numbers finite before that call, not after it."
    )


def _known_reason(flow: Flow) -> bool:
    return flow.birth is not None and (flow.birth.row or bool(flow.birth.given))


def _largest_before(flow: Flow, birth: CallFlow | None) -> float | None:
    """log10 of the largest rms among the finite results before the call, or None where none was measured."""
    before = [call for call in flow.calls if birth is not None and call.index < birth.index and call.finite]
    return max((call.log10_rms for call in before if call.log10_rms is not None), default=None)


def _number(index: int | None) -> float | None:
    return None if index is None else float(index)
