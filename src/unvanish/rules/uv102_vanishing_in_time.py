"""UV102: along a sequence, the error signal is lost before it reaches the inputs of early steps."""

from __future__ import annotations

import math

from unvanish.decide.limits import STATE
from unvanish.decide.reach import comes_back, depends_beyond, time_level
from unvanish.records import Evidence, Flow, TimeFacts
from unvanish.rules import Statement, rule
from unvanish.rules.wording import factor
from unvanish.words.numbers import number, percent


@rule(
    "UV102",
    "vanished",
    "vanishing through time",
    tier="vanishing",
    levels=("error", "note"),
    needs=("time", "loss"),
    remedies=("attached-state",),
    fires_on=(
        "lstm-lag-200", "rnn-lag-100", "lstm-recent-200", "convolutions-lag-200", "state-space-lag-200",
    ),
    silent_on=(
        "lstm", "lstm-lag-8", "gru-chrono-200", "convolutions-lag-24", "state-space-slow-200", "relu-he-20",
        "small-gpt", "sigmoid-20", "small-cnn", "converged-digits",
    ),
)  # fmt: skip
def vanishing_in_time(flow: Flow) -> list[Statement]:
    """The last outputs hardly depend on early steps: what happened there cannot be learned, or only its echo can.

    Example: an LSTM that reads 200 numbers and is to return the first. At the default initialisation half of the memory
    is kept from one step to the next, so that of the error signal 10^-39 arrives at the first number.

    Why: going back through time is going back through depth with the same weights at every step. Where the factor of
    one step is below one, the product falls exponentially with the distance. The gradient of the weights is a sum over
    all steps, in which the near ones drown the far ones: once the ratio is below the rounding of the number type, the
    sum is the same whether the far steps are there or not.

    Evidence: the gradient of a random probe of the last outputs at the inputs of each step, beside that of the last
    steps. The horizon is the number of steps that get at least a thousandth: where an input 5 to 30 steps back was the
    target, all networks learned it within 2,000 steps that began with 10^-3.4 or more there, and none that began with
    10^-4.9 or less. An error where what the targets ask depends on the inputs of a step, or of a few in a row, that
    gets less than 10^-4, and less on any of the others, by a test that shuffles the samples; or where the loss is no
    better than that of the best constant, after a hundred steps or at a stationary point, and steps are lost to
    rounding. Where an optimizer and training batches are given, real steps are tried and taken back before that is an
    error: 100, and up to 400 as long as fewer and fewer steps are out of reach. (Not on one batch: that can be learned
    by heart.) It is a note where what is needed is then within reach at two looks in a row (a GRU that copies what
    stood 20 to 30 steps back begins at 10^-6, lets a tenth through after 100 steps of Adam and has learned it after
    400), and a note and an open question where more and more steps still come within reach. Else a note where steps are
    lost to rounding.

    What helps: a forget gate that starts open (a bias of about the logarithm of the distance), which a GRU has too; a
    shortcut to the early steps, by attention or by strides; shorter sequences that hold what is asked for.

    Source: Hochreiter 1991, Untersuchungen zu dynamischen neuronalen Netzen; Bengio, Simard & Frasconi 1994, Learning
    long-term dependencies with gradient descent is difficult; Pascanu, Mikolov & Bengio 2013, On the difficulty of
    training recurrent neural networks; Tallec & Ollivier 2018, Can recurrent neural networks warp time?
    """
    return [_statement(flow, facts, level) for facts in flow.time if (level := time_level(flow, facts))]


def _statement(flow: Flow, facts: TimeFacts, level: str) -> Statement:
    who = f"{facts.layer} ({facts.kind})" if facts.layer else f"The network along its inputs ({facts.kind})"
    last = "of" if facts.horizon == 1 else f"{facts.horizon:,} of"
    gets = "gets" if facts.horizon == 1 else "get"
    heard = f"only the last {last} {facts.steps:,} steps {gets} a thousandth of the error signal or more"
    message = f"{who} does not reach far back: {heard}, and {_first(facts)}. "
    horizon = Evidence(
        name="horizon in steps", value=float(facts.horizon or 0), relation="<", threshold=float(facts.steps)
    )
    if comes_back(facts):
        fewer = "gets" if facts.faint == 1 else "get"
        message = (
            f"{who} does not reach all steps: {facts.faint:,} of {facts.steps:,}, between the first and the last,"
            f" {fewer} less than a thousandth of the error signal. "
        )
        horizon = Evidence(
            name="steps that get less than a thousandth",
            value=float(facts.faint),
            relation="of",
            threshold=float(facts.steps),
        )
    if cut := _is_cut(flow, facts):
        message += (
            "Exactly zero is no decay: a detach(), no_grad() or .data between two steps cuts the graph, or all units"
            " are off. "
        )
    shrinks = Evidence(name="log10 of the signal, a step back", value=facts.log10_gain)
    evidence = [
        horizon,
        shrinks,
        Evidence(name="steps lost to rounding", value=float(facts.lost), relation="of", threshold=float(facts.steps)),
    ]
    if depends_beyond(facts):
        message += (
            "What the targets ask depends on the inputs of a step out of reach"
            f" ({number(facts.beyond, 2)} of 1, in {percent(facts.beyond_chance)} of shuffles by chance), and less on"
            f" those of any step within reach ({number(facts.within, 2)}).{_tried(flow, facts)}"
        )
        evidence.append(
            Evidence(name="dependence on steps out of reach", value=facts.beyond, relation=">", threshold=facts.within)
        )
    elif level == "error" or facts.tried:
        message += f"The loss stays at that of the best constant output.{_tried(flow, facts)}"
    else:
        message += (
            f"In the gradient of the weights, a sum over all steps, {facts.lost:,} of them are rounded away; nothing"
            " seen here says that the targets need them."
        )
    names = tuple(each.name for each in flow.layers if facts.layer and each.path == facts.layer)
    cause = "a cut between two steps" if cut else "depth in time"
    remedies = ("attached-state",) if cut else ()
    return Statement(
        level=level, layers=names, cause=cause, message=message, evidence=tuple(evidence), remedies=remedies
    )


def _tried(flow: Flow, facts: TimeFacts) -> str:
    """What real steps do about it."""
    if not facts.tried:
        return ""
    who = f"{facts.tried:,} real steps of {flow.setting.optimizer}, tried and taken back,"
    if facts.in_reach:
        return f" But {who} bring it within reach: the network may well learn it."
    if facts.rising:
        return (
            f" But in {who} the signal reached further and further: whether it reaches that far in time was not tried."
        )
    return f" {who} do not bring it within reach."


def _is_cut(flow: Flow, facts: TimeFacts) -> bool:
    """Whether a recurrence gets exactly nothing at all steps that are too far back, as no decay can do."""
    far = facts.steps - (facts.horizon or 0)
    beyond = [s for s, step in zip(facts.log10_signal, facts.at, strict=True) if step < far]
    loop = bool(facts.layer) or any(each.kind == STATE for each in flow.bypassed)
    return loop and bool(beyond) and all(s == -math.inf for s in beyond)


def _first(facts: TimeFacts) -> str:
    """What arrives at the first step, or how far it can be followed."""
    known = [(s, step) for s, step in zip(facts.log10_signal, facts.at, strict=True) if s is not None]
    if not known:
        return "nothing could be followed further"
    signal, step = known[0]
    if signal == -math.inf:
        return f"none at all arrives at step {step:,}"
    return f"{factor(signal)} arrives at step {step:,}"
