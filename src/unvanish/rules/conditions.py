"""When a rule may speak about training, and what another rule has explained already. No rule lives here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from unvanish.decide import decay_balances
from unvanish.decide.limits import DECAYS_FAST, PLATEAU
from unvanish.decide.stationary import floor_of, gap_is_known, has_converged, is_flat, is_stationary
from unvanish.records import AcrossFacts, CallFlow, Flow, LayerFlow, LossFacts, StepFacts
from unvanish.rules.pace import little_gained, needed_at_full_pace, planned
from unvanish.words.numbers import number, percent

UNREACHABLE = 0.2
"""Share of the achievable reduction that the last call may put out of reach."""

FAR = 100.0
"""Times their own size by which the outputs may have to move."""

TAKES_LOGITS = (
    "cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "multi_margin_loss", "softmax",
    "log_softmax", "logsigmoid", "logsumexp",
)  # fmt: skip
"""Loss functions, and first steps of hand-made ones, that normalise what they are given."""

MOVES = (
    "view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "contiguous",
    "clone", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "T", "t", "expand",
    "expand_as", "broadcast_to", "__getitem__", "select", "narrow", "index_select", "gather", "take_along_dim", "flip",
    "roll", "repeat", "tile", "repeat_interleave", "atleast_1d", "atleast_2d",
)  # fmt: skip
"""Calls that put numbers elsewhere, or leave some out, and change none of them."""

NORMALISERS = ("normalize", "layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm")
"""Calls that give what they are given a fixed size; those without weights are meant where no weight is said to be."""

OF_ONE_LOOK = 10.0
"""Times the planned steps that the pace of one step must miss: as outputs grow, so does what a step moves them. Of a
network that needed 2,100 by its first, 450 closed nine tenths."""

HINDERED = ("vanished", "dead", "saddle", "nonfinite")
"""Verdicts of a layer that no step size repairs: a word about the learning rate would mislead."""


def settled(flow: Flow) -> bool:
    """Whether nothing is left to reduce, or no small move of the weights reduces it."""
    return has_converged(flow.loss) or is_stationary(flow) or any_constant_does(flow)


def any_constant_does(flow: Flow) -> bool:
    """Whether the loss is at its lowest because outputs that are only compared with one another are alike."""
    return flow.same is not None and flow.same.apart > 0.0


def hindered(flow: Flow) -> bool:
    broken = flow.next_step is not None and bool(flow.next_step.nonfinite)
    return bool(flow.nonfinite) or broken or any(layer.verdict in HINDERED for layer in flow.layers)


def steps_to_judge(flow: Flow) -> tuple[StepFacts, float] | None:
    """The steps that were tried and the reduction of the loss left; None where a word about them would mislead."""
    loss, step = flow.loss, flow.step
    if step is None or loss is None or settled(flow) or hindered(flow) or is_flat(flow) or decay_balances(flow):
        return None
    gap = gap_of(loss)
    return None if gap is None or not gap > 0.0 else (step, gap)


def fast_decay_level(flow: Flow) -> str:
    """``error`` where fast weight decay holds the loss at its best constant, ``note`` where it costs a tenth; or "".

    Of the way from the loss of the best constant output to the lowest. A note, too, where the steps that were tried do
    not tell: there is no such scale, they win less than a tenth without decay, or layers have vanished, as they do once
    their weights are gone.
    """
    loss, step, arrival = flow.loss, flow.step, flow.next_step
    if arrival is None or (arrival.decay_share or 0.0) < DECAYS_FAST or settled(flow):
        return ""
    if hindered(flow):
        verdicts = {layer.verdict for layer in flow.layers if layer.verdict in HINDERED}
        return "note" if verdicts == {"vanished"} and not flow.nonfinite and not arrival.nonfinite else ""
    if step is None or loss is None or step.decayed is None or step.undecayed is None:
        return "note"
    gap = gap_of(loss)
    if gap is None or loss.best_constant is None:
        return "note" if step.undecayed < step.decayed else ""
    way = loss.best_constant - (loss.value - gap)
    won, kept = ((loss.best_constant - value) / way if way > 0.0 else 0.0 for value in (step.undecayed, step.decayed))
    if won >= 0.1 and kept <= 1.0 - PLATEAU:
        return "error"
    return "note" if won < 0.1 or won - kept >= 0.1 else ""


def gap_of(loss: LossFacts) -> float | None:
    """The reduction of the loss left, or None where it has no scale."""
    if not gap_is_known(loss) or loss.reference is None or loss.relative_gap is None:
        return None
    return loss.relative_gap * loss.reference


def part_of_layers(flow: Flow) -> bool:
    """Whether only some layers are trained: the gap, that to the best outputs of all, need not be theirs to close."""
    step = flow.next_step
    still = step is not None and bool(step.left_out or step.standing or step.outside)
    return still or any(layer.frozen for layer in flow.layers) or any(each.cut and each.feeds for each in flow.unused)


class Grown(NamedTuple):
    """By how many decades the rms of the results of layers grows at most, and where; layers whose results grow so.

    A recurrence stands twice in a row among the ``sizes``: with what its steps give each by itself, and with its
    result. ``within``: the one inside which most of the growth lies, and how much.
    """

    decades: float
    steps: int
    sizes: tuple[tuple[CallFlow, float], ...]
    within: tuple[CallFlow, float] | None = None


def forward_growth_of(flow: Flow) -> Grown | None:
    """How the results of layers grow in order of execution; None where no finite one is known."""
    owned = {layer.call for layer in flow.layers}
    sizes = tuple(
        (call, size)
        for call in sorted(flow.calls, key=lambda each: each.index)
        if call.index in owned
        for size in (call.log10_apart_rms, call.log10_rms)
        if size is not None and math.isfinite(size)
    )
    if not sizes:
        return None
    largest = max(sizes, key=lambda each: each[1])
    decades = largest[1] - sizes[0][1]
    inside = [(b, after - before) for (a, before), (b, after) in pairwise(sizes) if a.index == b.index]
    most = max(inside, key=lambda each: each[1], default=None)
    within = most if most is not None and 2.0 * most[1] > decades else None
    return Grown(decades, max(1, sizes.index(largest)), sizes, within)


def out_of_proportion(loss: LossFacts, worse: float) -> bool:
    """Whether the loss is more than ``worse`` times that of the best constant output."""
    constant = loss.best_constant
    return constant is not None and constant > 0.0 and loss.value > worse * constant


OFF = 2.0
"""Times the loss of the best constant output: most of a larger loss is what the start is off by."""


def to_reach(loss: LossFacts, won: float = 0.5) -> float | None:
    """The loss below which real steps have made good for a rise: that of the best constant output from far above it.

    From elsewhere so much is ``won`` of what the start, or that output, has above the best: it has been learned.
    """
    floor = floor_of(loss)
    if loss.best_constant is None or floor is None or out_of_proportion(loss, OFF):
        return loss.best_constant
    return floor + (1.0 - won) * (min(loss.value, loss.best_constant) - floor)


def regained(flow: Flow) -> StepFacts | None:
    """The steps that brought the loss below what it has ``to_reach``, if they did.

    A loss of exactly zero is no sign of it: a softmax whose logits are thousands apart has one entry left on every
    sample, and asks for nothing once each of the batch stands right.
    """
    step, loss = flow.step, flow.loss
    enough = None if loss is None else to_reach(loss)
    if step is None or step.regained is None or enough is None:
        return None
    return step if 0.0 < step.regained < enough else None


def out_of_reach(flow: Flow) -> bool:
    """Whether the last call keeps the loss from what could be gained: then steps needed mean nothing."""
    return flow.output is not None and (flow.output.unreachable or 0.0) > UNREACHABLE


def takes_logits(flow: Flow) -> bool:
    """Whether a call after the last one of the network normalises what it is given."""
    last = None if flow.output is None else flow.output.call
    return last is not None and any(call.index > last and call.name in TAKES_LOGITS for call in flow.calls)


def cancels(layer: LayerFlow) -> bool:
    """Whether what the loss asks of a layer cancels to ten roundings of float32: its gradient is made of those."""
    return layer.log10_alignment is not None and -math.inf < layer.log10_alignment < -5.9


def far_outputs(flow: Flow, far: float = FAR) -> bool | None:
    """Whether the loss asks the outputs to move by far more than their size; True only where steps have shown it.

    None: not asked so much. False: asked, but the steps that were taken do not show that they are too few.
    """
    output, loss = flow.output, flow.loss
    if output is None or output.wanted is None or output.rms is None or loss is None or gap_of(loss) is None:
        return None
    if not far * max(output.rms, 0.1) < output.wanted < math.inf or out_of_reach(flow) or settled(flow):
        return None
    known = steps_to_judge(flow)
    if known is None:
        return False
    step, gap = known
    return step.needed is not None and step.needed > OF_ONE_LOOK * planned(step) and little_gained(step, gap)


def shrunk_level(flow: Flow, far: float = FAR) -> str:
    """``error`` or ``note`` where a constant behind the last layer makes the outputs too small for their loss; or "".

    A layer that starts small grows by itself, and 0.1 is small enough; such a constant does not, and takes as much of
    the way back to every weight. Under SGD both count, and an error needs ten times the planned steps. Steps of one
    length (Adam) feel only the first, and as all layers grow together, the pace does too: a note.
    """
    output, step, loss = flow.output, flow.step, flow.loss
    if output is None or output.shrunk is None or not output.shrunk < SHRUNK or step is None or loss is None:
        return ""
    gap, size = gap_of(loss), max(output.rms or 0.0, 0.1 * output.shrunk)
    if gap is None or not far * size < (output.wanted or 0.0) < math.inf or out_of_reach(flow):
        return ""
    if settled(flow) or hindered(flow) or not (needed := needed_at_full_pace(step)) > planned(step):
        return ""
    slow = step.best is None if step.walked is None else little_gained(step, gap)
    return "error" if slow and step.optimizer == "SGD" and needed > OF_ONE_LOOK * planned(step) else "note"


LEARNED = 0.2
"""What samples that steps have not seen must have come of the way from the best constant output to the lowest loss, for
the steps to have learned more than the samples they were taken on. After 100 steps of chaotic tanh networks and of sine
networks of too high a frequency they stood worse than that output; after those of sine networks that do fit what lies
between the samples, a third of the way down or further."""

SHRUNK = 0.1
"""What a constant leaves of the outputs, from which on it is looked at."""


def inputs_saturate(flow: Flow, saturated: float = 0.5, gone: float = 0.25) -> bool:
    """Whether the first layer is saturated, and no longer is once the inputs are standardised."""
    inputs = flow.inputs
    if inputs is None or inputs.saturated is None or inputs.saturated_standardised is None:
        return False
    return inputs.saturated > saturated and inputs.saturated_standardised <= gone


def feeding(flow: Flow, call: CallFlow) -> tuple[LayerFlow, ...]:
    """The layers whose results reach the call with no other layer between."""
    calls = {each.index: each for each in flow.calls}
    owners = {layer.call: layer for layer in flow.layers if layer.call is not None}
    waiting, seen, found = list(call.inputs), set[int](), set[str]()
    while waiting:
        index = waiting.pop()
        if index in owners:
            found.add(owners[index].name)
        elif index in calls and index not in seen:
            seen.add(index)
            waiting += calls[index].inputs
    return tuple(layer for layer in flow.layers if layer.name in found)


PARTS = ("chunk", "split", "unbind", "__getitem__", "narrow", "select", "tensor_split", "unsafe_chunk", "unsafe_split")
"""Calls whose consumers each take a part of the result, so that one says nothing about the units of another."""


def goes_around(every: Sequence[CallFlow], call: CallFlow, *, mainly: bool = True) -> bool:
    """Whether what the call is made of, back to the last call with weights, reaches the loss mainly by another path.

    A guard (the clamp beside an exponential), a penalty that is off, a second head, the sigmoid of a SiLU written out:
    the units carry their signal on. By another path at all, not ``mainly``.
    """
    calls = {each.index: each for each in every}
    consumers: dict[int, list[CallFlow]] = {}
    for each in every:
        for index in each.inputs:
            consumers.setdefault(index, []).append(each)
    own, waiting = {call.index}, list(call.inputs)
    while waiting:
        index = waiting.pop()
        maker = calls.get(index)
        if maker is None or index in own:
            continue
        own.add(index)
        others = [each for each in consumers.get(index, ()) if each.index not in own]
        live = [each for each in others if each.log10_signal is not None and each.log10_signal > -math.inf]
        if live and maker.name not in PARTS and not (mainly and maker.next in own):
            return True
        if maker.role not in ("weights", "norm"):
            waiting += maker.inputs
    return False


def is_piecewise_linear(call: CallFlow) -> bool:
    """Whether the entries that are not flat pass at full slope: then being flat for half of them is no fault.

    ReLU6 is a hardtanh from 0 to 6. A network behind a hard sigmoid with 59% of its entries flat went on to learn.
    """
    return any(word in call.name for word in ("relu", "hard", "clamp", "clip"))


def attends(call: CallFlow) -> bool:
    """Whether it is an attention, whose ``saturated_fraction`` is the share of rows that are one entry alone."""
    known = call.part == "model" and call.saturated_fraction is not None
    return known and ("softmax" in call.name or "attention" in call.name)


ONE_HOT = 17.0
"""Logits that differ by more leave a softmax exactly one entry in float32: e^-17 is below its rounding."""


def flat_in_loss(flow: Flow) -> str:
    """What in the loss is flat at these outputs, if anything: a sigmoid on its end, a softmax with one entry left."""
    calls = [call for call in flow.calls if call.part == "loss"]
    for call in calls:
        if call.bounded and not is_piecewise_linear(call) and (call.saturated_fraction or 0.0) > 0.5:
            share = percent(call.saturated_fraction or 0.0)
            return f"{share} of what leaves {call.name} in the loss lies on its flat ends."
    rms = None if flow.output is None else flow.output.rms
    soft = next((call for call in calls if call.name in SOFT), None)
    if soft is None or rms is None or not ONE_HOT < rms < math.inf:
        return ""
    return (
        f"the outputs have an rms of {number(rms)}, and {soft.name} in the loss leaves each sample one entry alone,"
        " where it is flat. Smaller outputs bring its slope back."
    )


SOFT = ("softmax", "log_softmax", "logsumexp")


def shares_across(flow: Flow, facts: AcrossFacts) -> bool:
    """Whether the outputs, several to a sample, are what a call has made shares of over the samples, or their logs."""
    several = any(size > 1 for axis, size in enumerate(facts.shape) if axis != facts.axis)
    return several and makes_shares(flow, facts)


def makes_shares(flow: Flow, facts: AcrossFacts) -> bool:
    """The same of outputs of which each sample may have one alone."""
    call = flow.calls[facts.call]
    logs = call.next is not None and flow.calls[call.next].name == "log"
    makes = makes_outputs(flow, call) or (logs and call.next is not None and makes_outputs(flow, flow.calls[call.next]))
    return call.part == "model" and makes


def makes_outputs(flow: Flow, call: CallFlow) -> bool:
    """Whether nothing but the loss consumes the call, or what it gives once it has been moved about."""
    while call.next is not None and flow.calls[call.next].part == "model" and flow.calls[call.next].name in MOVES:
        call = flow.calls[call.next]
    return call.next is None or flow.calls[call.next].part == "loss"
