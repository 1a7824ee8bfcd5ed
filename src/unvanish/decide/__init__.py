"""The order of the decisions: from the measured numbers of a Flow to a verdict for every layer.

Each question removes false alarms of the questions after it: a layer that cannot receive a gradient has not vanished,
and a small gradient in a network that has learned its task is no illness. A number that was not measured, or is not a
number, never counts as healthy: the layer is "undecided" and the reason is kept.

A look may ask for less than all, as one at a running training does (see ``Flow.asked``). What was not asked for is no
fault of the network: a question whose numbers were left out is passed over, or answered by ``live`` from those that are
there. Where neither tells, the layer is "not_asked".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from msgspec.structs import astuple

from unvanish.decide.limits import (
    BALANCED,
    BESIDE,
    DEAD_UNITS,
    EACH_OTHER,
    EXPLODING,
    NOT_CHOSEN,
    OWN_BRANCH,
    SOUND,
    STUCK,
    UNDERFLOW,
    VANISHED,
    VANISHED_ADAPTIVE,
)
from unvanish.decide.live import NEEDED, arrivals, gate_after, growths, passed_by, shut_by
from unvanish.decide.reach import time_level
from unvanish.decide.siblings import is_one_of_many
from unvanish.decide.stationary import (
    comes_through,
    falls,
    gap_is_known,
    has_converged,
    is_flat,
    is_stationary,
    may_be_stationary,
)
from unvanish.records import EVERYTHING, CallFlow, Flow, LayerFlow, LossFacts, Record, ZeroFacts
from unvanish.words.spans import named

CRAWL = 1_000
"""Steps for nine tenths of the gap from which plain gradient descent at a rate near its limit counts as slow."""

UNJUDGED = ("frozen", "unused", "undecided", "not_asked")
"""Verdicts that say nothing about how a layer learns."""

NOT_ASKED = "this look did not ask for"

IN_WORDS = {
    "calls": "the calls of the forward pass",
    "noise": "the noise of the gradient",
    "loss": "what is left to gain of the loss",
    "zeros": "what an exact zero waits for",
    "decrement": "curvature",
    "step": "the state of the optimizer",
    "next_step": "its next step",
    "rates": "other learning rates",
    "output": "the fit of outputs and loss",
    "inputs": "the scale of the inputs",
    "time": "the time axis",
}
"""What a look may leave out, as it is called in a remark."""

CURVATURE = "needs curvature, which this check did not measure"


def decide(flow: Flow) -> Flow:
    """The flow with a verdict on every layer, and with what could not be decided added to ``undecided``.

    The order for a layer: non-finite, frozen, unused, exactly zero (gated, saddle or dead), converged, no signal,
    vanished (or gated by a small tensor), exploding, underflow, healthy. Deciding twice changes nothing.
    """
    if flow.nonfinite:
        why = f"the {flow.nonfinite} pass met numbers that are not finite, so there is no gradient to judge"
        stopped = flow.replace(layers=tuple(layer.replace(verdict="nonfinite") for layer in flow.layers))
        return _with_undecided(stopped, [("how well each layer learns", why)])
    zeros = {facts.layer: facts for facts in flow.zeros}
    calls = {call.index: call for call in flow.calls}
    others = Others(*_estimates(flow), beside(flow))
    layers: list[LayerFlow] = []
    reasons: dict[str, list[str]] = {}
    for layer in flow.layers:
        call = None if layer.call is None else calls.get(layer.call)
        verdict, why = _verdict(_with_rise(layer, call), flow, zeros.get(layer.name), others)
        if verdict == "gated" and decay_balances(flow):  # decay has made the tensors small and keeps them so
            verdict = "plateau" if flow.loss is not None and flow.loss.at_constant else "healthy"
        if verdict == "healthy":
            verdict, why = _through_time(layer, flow)
        if verdict == "healthy" and (why := _not_a_number(_less_the_step(layer, flow), flow.loss, call)):
            verdict = "undecided"
        if why:
            reasons.setdefault(why, []).append(layer.name)
        layers.append(layer.replace(verdict=verdict))
    entries = [(f"the verdict of {named(names, [a.name for a in layers])}", why) for why, names in reasons.items()]
    flow = flow.replace(layers=tuple(layers))
    if (remark := _left_out(flow.asked)) and remark not in flow.notes:
        flow = flow.replace(notes=(*flow.notes, remark))
    return _with_undecided(flow, entries + _open_questions(flow))


def decay_balances(flow: Flow) -> bool:
    """Whether weight decay cancels the gradient: the weights stand still where the loss alone would move them."""
    step = flow.next_step
    return step is not None and step.decay_balance is not None and step.decay_balance < BALANCED


def vanishing_level(flow: Flow, layers: Sequence[LayerFlow]) -> str:
    """``note`` where the optimizer's steps do not shrink with the gradient, unless the loss stays at its constant."""
    eps, stuck = flow.setting.eps, flow.loss is not None and flow.loss.at_constant
    if eps is None or not flow.asks("log10_transmission"):
        return "error"
    if comes_through(flow):
        return "note"
    still = stuck and (is_stationary(flow) or flow.steps_taken >= STUCK)
    return "error" if still or out_of_step(flow, layers) else "note"


def out_of_step(flow: Flow, layers: Sequence[LayerFlow]) -> frozenset[str]:
    """Of these layers those that so little signal reaches that full steps may come to nothing there, too."""
    eps = flow.setting.eps
    return frozenset(a.name for a in layers if (a.log10_transmission or 0.0) <= VANISHED_ADAPTIVE or below_eps(a, eps))


def beside(flow: Flow) -> set[str]:
    """The layers a little below the limit that are reached from a layer which transmits well: by another way, then."""
    marginal = {
        a.call: a.name for a in flow.layers if a.log10_transmission and BESIDE < a.log10_transmission < VANISHED
    }
    if not marginal:
        return set()
    sound = {a.call for a in flow.layers if a.log10_transmission is not None and a.log10_transmission > SOUND}
    after = set[int]()
    for call in flow.calls:
        if call.index in sound or any(j in after for j in call.inputs):
            after.add(call.index)
    return {name for index, name in marginal.items() if index in after}


class Others(NamedTuple):
    """What is known of each layer only by comparing it with the others; empty where a walk has told it better."""

    arrivals: dict[str, float]
    growths: dict[str, float]
    beside: set[str]


def _estimates(flow: Flow) -> tuple[dict[str, float], dict[str, float]]:
    known = flow.asks(*NEEDED)
    arrived = arrivals(flow.layers) if known and not flow.asks("log10_transmission") else {}
    grown = known and flow.asks("log10_gain") and not flow.asks("log10_sensitivity_rise")
    return arrived, growths(flow.layers) if grown else {}


def _verdict(layer: LayerFlow, flow: Flow, zero: ZeroFacts | None, others: Others) -> tuple[str, str]:
    """The verdict of one layer and, where that is "undecided", the reason.

    So, too, where an exact zero was seen and its reason not asked for. What else was not asked for needs none.
    """
    loss, still = flow.loss, is_stationary(flow)
    if layer.frozen:
        return "frozen", ""
    if _is_unused(layer, flow):
        return "unused", ""
    jacobian, gradient = layer.log10_jacobian_norm, layer.log10_grad_norm
    if not flow.asks("log10_grad_norm"):
        return ("converged" if has_converged(loss) else "not_asked"), ""
    if flow.asks("log10_jacobian_norm"):
        if jacobian is None or not jacobian < math.inf:
            return _missing("how strongly the outputs depend on it", jacobian)
        if zero is not None and zero.by_construction:  # rounding may leave something where nothing can be
            return "dead", ""
        if jacobian == -math.inf and flow.asks("zeros"):
            return _closed(gradient, zero)
    if has_converged(loss):
        return "converged", ""
    if gradient is None or not gradient < math.inf:
        return _missing("the size of its gradient", gradient)
    if gradient == -math.inf:
        told = flow.asks("log10_jacobian_norm", "zeros")
        if told and zero is not None and zero.blocked_by:  # by a call of the loss, though other outputs would lower it
            return "dead", ""
        return _silent(loss) if told and flow.asks("loss") else _zero(layer, flow)
    if is_flat(flow):
        return "no_signal", ""
    if not flow.asks(*NEEDED):
        return "not_asked", ""
    return (_reached if flow.asks("log10_transmission") else _seen)(layer, flow, others, still)


def _is_unused(layer: LayerFlow, flow: Flow) -> bool:
    """Whether it has no call, or all it has is left out; without the calls, whether nothing reached it."""
    facts = next((each for each in flow.unused if each.layer == layer.name), None)
    if facts is not None and (facts.cut != NOT_CHOSEN or is_one_of_many(layer, flow)):
        return True
    nothing = layer.log10_signal is None and layer.log10_grad_norm is None
    return layer.call is None and (flow.asks("calls") or (nothing and flow.asks("log10_signal", "log10_grad_norm")))


def _reached(layer: LayerFlow, flow: Flow, others: Others, still: bool) -> tuple[str, str]:
    """Whether a layer with a gradient is reached by the signal, by the transmission of a walk."""
    loss, transmission = flow.loss, layer.log10_transmission
    if transmission is None or not transmission < math.inf:
        return _missing("its transmission", transmission)
    if transmission < (BESIDE if layer.name in others.beside else VANISHED):
        if layer.gate.startswith(OWN_BRANCH):  # its size says nothing yet: it comes with what the branch learns
            return (_at_rest(loss) if still else "healthy"), ""
        each_other = layer.gate.startswith(EACH_OTHER)
        if layer.gate and (decay_balances(flow) or not each_other):
            return "gated", ""
        if still and loss is not None and loss.at_constant and each_other:
            return "plateau", ""
        if still and loss is not None and not loss.at_constant:
            return "undecided", (
                "little signal reaches it, while the layers that transmit are at a stationary point better than any"
                " constant output: its own part in the loss cannot be told from here"
            )
        return "vanished", ""
    rise = layer.log10_sensitivity_rise
    # without the calls a result of exactly zero, which has no rise, cannot be told from a rise that was not to be had
    if flow.asks("log10_sensitivity_rise", "calls") and (rise is None or not math.isfinite(rise)):
        return _missing("the rise of its sensitivity", rise)
    return _of_size(layer, flow, rise, still)


def _seen(layer: LayerFlow, flow: Flow, others: Others, still: bool) -> tuple[str, str]:
    """The same from the numbers of a running training alone; the limits are those of the numbers they stand for."""
    arrival = others.arrivals.get(layer.name)
    if arrival is None:
        return "undecided", "its signal, the norm of its gradient or that of its weights was not measured"
    if arrival < VANISHED:
        if gate_after(flow.layers, layer, arrival):
            return "gated", ""
        return ("not_asked" if passed_by(flow.layers, layer, others.arrivals) else "vanished"), ""
    return _of_size(layer, flow, others.growths.get(layer.name, 0.0), still)


def _of_size(layer: LayerFlow, flow: Flow, rise: float | None, still: bool) -> tuple[str, str]:
    """Whether the signal that reaches a layer has a size it can learn from."""
    # Of a result that its activation cuts off nearly everywhere, or of which few steps are heard, the size is no sign.
    off = (layer.dead_fraction or 0.0) > DEAD_UNITS or _mostly_unread(layer, flow)
    if rise is not None and rise > EXPLODING and not still and not off:
        return "exploding", ""
    if still:
        return _at_rest(flow.loss), ""
    lost = layer.underflow_fraction
    if flow.asks("underflow_fraction") and (lost is None or not math.isfinite(lost)):
        return _missing("the share of its gradient that underflows", lost)
    # A gradient below eps may be that of a network that has learned what it can: loss and curvature tell.
    small = flow.asks("loss", "decrement") and below_eps(layer, flow.setting.eps) and not comes_through(flow)
    if small and flow.decrement_refused and not (lost or 0.0) > UNDERFLOW:
        return "undecided", "its gradient is below the optimizer's eps, and why cannot be told without curvature"
    return ("underflow" if (lost or 0.0) > UNDERFLOW or small else "healthy"), ""


def _mostly_unread(layer: LayerFlow, flow: Flow) -> bool:
    """Whether it stands before a recurrent layer that hears only some of its steps; the norm is that of all of them."""
    deaf = {facts.layer for facts in flow.time if facts.layer and facts.faint}
    if not deaf or layer.call is None:
        return False
    return any(a.path in deaf and a.call is not None and layer.call < a.call for a in flow.layers)


def _at_rest(loss: LossFacts | None) -> str:
    return "plateau" if loss is not None and loss.at_constant else "converged"


def _zero(layer: LayerFlow, flow: Flow) -> tuple[str, str]:
    """A gradient of exactly zero where the network was not asked why: what was measured beside it may tell."""
    if flow.asks("dead_fraction") and shut_by(flow.layers, layer):
        return "dead", ""
    if flow.asks("log10_weight_norm") and gate_after(flow.layers, layer, -math.inf):
        return "gated", ""
    return "not_asked", f"its gradient is exactly zero, and {NOT_ASKED} what a change of the zero tensors does to it"


def _through_time(layer: LayerFlow, flow: Flow) -> tuple[str, str]:
    """A layer that is healthy but for its time axis, which is recorded for every recurrent one, looked at or not."""
    facts = next((each for each in flow.time if each.layer and each.layer == layer.path), None)
    if facts is None:
        return "healthy", ""
    if facts.why:
        return "undecided", f"its time axis was not looked at: {facts.why}"
    if (facts.log10_rise or 0.0) > EXPLODING:
        return "exploding", ""
    return ("vanished" if time_level(flow, facts) == "error" else "healthy"), ""


def below_eps(layer: LayerFlow, eps: float | None) -> bool:
    """Whether the rms of the gradient lies below the optimizer's eps, which then swallows the update."""
    size = layer.log10_grad_rms
    return bool(eps) and size is not None and size < math.log10(eps)


def _closed(gradient: float | None, zero: ZeroFacts | None) -> tuple[str, str]:
    """A layer on which the outputs do not depend at all: what did nudging the exactly-zero tensors show?"""
    if gradient is not None and gradient != -math.inf:
        return "undecided", "the outputs do not depend on it, yet it has a gradient: a second loss inside the model?"
    if zero is None:
        return "undecided", "its gradient is exactly zero, and whether a zero tensor holds it back was not measured"
    if not zero.opens:
        return "dead", ""
    return ("gated" if zero.gates else "saddle"), ""


def _silent(loss: LossFacts | None) -> tuple[str, str]:
    """The outputs depend on the layer, but its gradient is exactly zero: does the loss ask for anything at all?"""
    residual = None if loss is None else loss.residual_norm
    if residual == 0 or (loss is not None and loss.reacts is False):
        return "no_signal", ""
    if residual is None or math.isnan(residual):
        return "undecided", "its gradient is exactly zero, and what the loss asks of the outputs was not measured"
    return "undecided", (
        "its gradient is exactly zero although the loss asks the outputs to change: an optimum of this layer or a lost"
        " signal, which only moving the layer itself can tell, and this check did not"
    )


def _with_rise(layer: LayerFlow, call: CallFlow | None) -> LayerFlow:
    """A result of exactly zero (a zero head) or one that nothing hears has no change to measure: nothing rises there.

    Not heard: the loss takes a derivative of it alone, or it was cut off, and the weights learn by another call.
    """
    if layer.log10_sensitivity_rise is not None or call is None:
        return layer
    unheard = call.log10_signal is None or call.log10_signal == -math.inf
    return layer.replace(log10_sensitivity_rise=0.0) if unheard or call.log10_rms == -math.inf else layer


def _less_the_step(layer: LayerFlow, flow: Flow) -> LayerFlow:
    """Without the numbers of an update that is known not to be finite: that says nothing about the layer's gradient."""
    broken = flow.next_step is not None and layer.name in flow.next_step.nonfinite
    return layer.replace(update_to_weight_ratio=None, steps_to_learn=None) if broken else layer


def _missing(what: str, value: float | None) -> tuple[str, str]:
    return "undecided", f"{what} was not measured" if value is None else f"{what} is not a finite number ({value})"


def _not_a_number(*records: Record | None) -> str:
    """The reason if any field of these records is NaN, else ""."""
    for record in records:
        for at, value in enumerate(() if record is None else astuple(record)):
            if record is not None and value.__class__ is float and value != value:
                return f"{record.__struct_fields__[at]} is not a number (nan)"
    return ""


def _open_questions(flow: Flow) -> list[tuple[str, str]]:
    """What no layer's verdict answers: questions about the loss, and those that need curvature."""
    loss = flow.loss
    questions: list[tuple[str, str]] = []
    if not flow.asks("loss"):
        return questions
    if loss is None:
        questions.append(("converged or not", "the loss was not looked at on its own"))
    elif not gap_is_known(loss):
        why = loss.why or "the loss has no scale: how far it can still be reduced is unknown"
        questions.append(("converged or not", why))
    if loss is None or loss.reacts is None:
        questions.append(("whether the loss is flat", "the loss was not tried on other outputs"))
    questions += [("how far back in time the signal reaches", a.why) for a in flow.time if a.why and not a.layer]
    questions += [
        (
            "how far back in time the signal will reach",
            f"after {a.tried:,} real steps it reached further and further, and more were too dear to try",
        )
        for a in flow.time
        if a.rising
    ]
    if flow.step is not None and flow.step.arriving is not None:
        why = f"{flow.step.arrived_after} real steps let more and more of it through, and more were too dear to try"
        questions.append(("whether the signal reaches the first layers in time", why))
    stationary = "whether this is a stationary point"
    if flow.decrement_refused:
        questions.append((stationary, f"the curvature cannot be had: {flow.decrement_refused}"))
    elif flow.asks("decrement") and may_be_stationary(flow) and flow.decrement is None and not falls(flow):
        questions.append((stationary, CURVATURE))
    return questions


@lru_cache(maxsize=64)
def _left_out(asked: tuple[str, ...]) -> str:
    """A remark on what a look at less than all did not ask for: the rules that need it have not spoken."""
    rest = [IN_WORDS.get(name, name) for name in EVERYTHING if name not in asked]
    return f"{NOT_ASKED} {', '.join(rest)}; what rests on them was not judged" if rest else ""


def _with_undecided(flow: Flow, entries: Iterable[tuple[str, str]]) -> Flow:
    return flow.replace(undecided=tuple(dict.fromkeys([*flow.undecided, *entries])))
