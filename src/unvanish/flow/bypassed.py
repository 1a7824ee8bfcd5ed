"""Cuts beside which the signal goes on: layers that are trained, but not by all that is made of them.

A summand that was detached leaves its makers the signal of the other one alone; what only chooses, as an argmax does,
leaves them that of their own terms of the loss. A gradient that is led around a cut on purpose, as by
``x + (q - x).detach()``, comes through a summand that no weight separates from what was cut, and is none of these.

And a state that a loop detaches again and again: the same layers work before and after the cut, and each of their
turns learns only what it does by itself. Between two forward passes that is truncated backpropagation through time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unvanish.decide.limits import CHOICES, STATE
from unvanish.flow.layers import Layer
from unvanish.records import BypassFacts
from unvanish.trace.calls import Call, Capture
from unvanish.trace.cuts import Cut
from unvanish.words.numbers import listing

SUMS = ("add", "iadd", "radd")
AGAIN = 2
"""Times that one line cuts in one forward pass for it to stand in a loop. Once is enough for a last step from a fixed
point, or for an own estimate handed back in, which are meant."""


def bypass_facts(capture: Capture, layers: Sequence[Layer]) -> tuple[BypassFacts, ...]:
    """For each such cut that a later layer depends on, in order, the trained layers before it."""
    if not capture.cuts or capture.loss_index is None:
        return ()
    calls, alive = capture.calls, capture.leading_to([capture.loss_index])
    found = list[BypassFacts]()
    for call in calls:
        if not call.cuts or call.index not in alive or call.part != "model" or not _trained_from(calls, call, alive):
            continue
        cuts, makers = _behind(capture, call, alive)
        if not makers or any(cut.library for cut in cuts):
            continue
        choice = next((each for each in cuts if each.name in CHOICES), None)
        if choice is None and _is_sum(calls, call, _behind(capture, call, alive, weights=False)[1]):
            kind, cut, at = "sum", cuts[-1].why, cuts[-1].source
        elif choice is not None and _after(calls, makers).isdisjoint(_after(calls, {call.index})):
            kind, cut, at = "choice", choice.name, choice.source
        else:
            continue
        before = capture.leading_to(makers)
        those = tuple(a.name for a in layers if a.live and not before.isdisjoint(a.calls))
        if those:
            found.append(BypassFacts(kind=kind, cut=cut, cut_at=at, at=call.source, layers=those))
    found += _states(capture, layers)
    return tuple({(each.kind, each.cut_at): each for each in found}.values())  # of a line that runs again, the last


def _states(capture: Capture, layers: Sequence[Layer]) -> Iterator[BypassFacts]:
    """Layers whose results are detached again and again, and that they themselves consume at the next turn of a loop.

    Where nothing else of one turn goes into the next: a part of the state that is cut, as the reset of a neuron that
    spikes, leaves the rest to carry the signal.
    """
    lines: dict[str, list[int]] = {}
    for index, cut in enumerate(capture.cuts):
        if cut.why == "detach" and not cut.library and cut.calls:
            lines.setdefault(cut.source, []).append(index)
    found: dict[tuple[str, ...], list[str]] = {}
    at: dict[tuple[str, ...], str] = {}
    for line, cuts in lines.items():
        if len(cuts) < AGAIN:
            continue
        cut = cuts[-AGAIN]  # behind the last one a state that is handed on with another may meet no layer any more
        before, later = capture.leading_to(capture.cuts[cut].calls), _made_of(capture, cut)
        own = _parameters(capture, before) & _parameters(capture, later)
        turns = [{k for k in calls if not own.isdisjoint(_parameters(capture, {k}))} for calls in (before, later)]
        names = tuple(a.name for a in layers if a.first and not own.isdisjoint(map(id, a.live)))
        if names and (_after(capture.calls, turns[0]) & later).isdisjoint(_before_any(capture, turns[1])):
            found.setdefault(names, []).append(line)
            at.setdefault(names, capture.calls[min(later)].source)
    for names, those in found.items():
        yield BypassFacts(kind=STATE, cut="detach", cut_at=listing(those), at=at[names], layers=names)


def _parameters(capture: Capture, calls: set[int]) -> set[int]:
    return {id(p) for k in calls for p in capture.calls[k].parameters}


def _before_any(capture: Capture, ends: set[int]) -> set[int]:
    """The calls from which one of these is reached, through cuts as well, and they themselves."""
    found, cuts, waiting = set[int](), set[int](), list(ends)
    while waiting:
        index = waiting.pop()
        if index >= 0 and index not in found:
            found.add(index)
            waiting += capture.calls[index].inputs
            behind = [cut for cut in capture.calls[index].cuts if cut not in cuts]
            while behind:
                cut = behind.pop()
                if cut not in cuts:
                    cuts.add(cut)
                    waiting += capture.cuts[cut].calls
                    behind += capture.cuts[cut].inputs
    return found


def _made_of(capture: Capture, cut: int) -> set[int]:
    """The calls of the model that depend on a cut, through other cuts as well."""
    cuts, calls, known = {cut}, set[int](), 0
    while known < len(cuts) + len(calls):
        known = len(cuts) + len(calls)
        starts = {call.index for call in capture.calls if call.part == "model" and not cuts.isdisjoint(call.cuts)}
        calls |= _after(capture.calls, starts)
        for index, each in enumerate(capture.cuts):
            if not cuts.isdisjoint(each.inputs) or not calls.isdisjoint(each.calls):
                cuts.add(index)
    return calls


def _is_sum(calls: Sequence[Call], call: Call, makers: set[int]) -> bool:
    """Whether it adds what was cut to what layers have made of the same, and nothing leads the gradient around that."""
    if call.name.strip("_") not in SUMS or len(call.inputs) != 1 or call.parameters:
        return False
    plain, all_ways = (_before(calls, call.inputs[0], weights) for weights in (False, True))
    return makers.isdisjoint(plain) and not makers.isdisjoint(all_ways)


def _trained_from(calls: Sequence[Call], call: Call, alive: set[int]) -> bool:
    """Whether the call, or one after it on the way to the loss, has weights."""
    return any(calls[k].parameters for k in _after(calls, {call.index}) if k in alive)


def _behind(capture: Capture, call: Call, alive: set[int], weights: bool = True) -> tuple[list[Cut], set[int]]:
    """The cuts behind what a call consumes, and the calls on the way to the loss that these were made of.

    Without ``weights`` past nothing that has some: then what was cut is no layer's work.
    """
    cuts, makers, waiting, behind = list[Cut](), set[int](), list(call.cuts), list[int]()
    seen, passed = set[int](), set[int]()  # of a recurrence the ways back are more than anyone can go
    while waiting or behind:
        if waiting:
            index = waiting.pop(0)
            cut = capture.cuts[index]
            if index not in seen and (weights or not cut.parameters):
                seen.add(index)
                cuts.append(cut)
                waiting += cut.inputs
                behind += cut.calls
            continue
        index = behind.pop()
        if index in alive:
            makers.add(index)
        elif index >= 0 and index not in passed and (weights or not capture.calls[index].parameters):
            passed.add(index)
            waiting += capture.calls[index].cuts
            behind += capture.calls[index].inputs
    return cuts, makers


def _before(calls: Sequence[Call], start: int, weights: bool) -> set[int]:
    """The calls from which this one is reached, itself among them; without ``weights`` past none that has some."""
    found, waiting = set[int](), [start]
    while waiting:
        index = waiting.pop()
        if index >= 0 and index not in found:
            found.add(index)
            waiting += calls[index].inputs if weights or not calls[index].parameters else []
    return found


def _after(calls: Sequence[Call], start: set[int]) -> set[int]:
    """The calls of the model that are reached from these, they themselves among them."""
    found = set(start)
    for call in calls:
        if call.part == "model" and not found.isdisjoint(call.inputs):
            found.add(call.index)
    return found
