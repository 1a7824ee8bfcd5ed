"""Exact zeros told apart: a gate that training opens, a saddle, a dead path, or a path dead by construction.

Every trainable tensor that is exactly zero is nudged, and the outputs are probed once more. If a gradient comes back
and some other zero tensor has a gradient now, training opens it by itself (gated); if none has, nothing breaks the
symmetry (saddle); if nothing comes back, the path is dead. Biases, and all that is only added, are left alone: a zero
bias is an ordinary start and shuts nothing, and moving it would open a layer that only sees the zeros of a dead one.
Whatever is moved is put back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unvanish.decide.limits import VANISHED
from unvanish.evidence.moving import put_back
from unvanish.flow.layers import Layer
from unvanish.flow.look import Look
from unvanish.flow.paths import Observed
from unvanish.flow.slopes import ANY_INPUTS, constant_by_construction, remove_all, removes_all
from unvanish.flow.transmission import output_cotangents
from unvanish.records import ZeroFacts
from unvanish.trace.backward import walk
from unvanish.trace.calls import Call
from unvanish.trace.capture import record
from unvanish.trace.scaled import LOG_ZERO, log10_of, normal_like
from unvanish.trace.structure import tensors

NUDGE = 1e-2  # far below an ordinary weight, so that no activation is driven to an end; the walk loses no size
REDUCES = ("mean", "sum", "norm", "vector_norm", "linalg_vector_norm", "linalg_norm", "amax", "amin", "logsumexp")


def zero_facts(look: Look, seen: Observed, steps: Mapping[int, str]) -> tuple[ZeroFacts, ...]:
    """For each layer whose Jacobian is exactly zero: what happens when the zero tensors are nudged.

    ``steps``: by the id of a tensor, the step that nothing of the loss passes on its way back to it.
    """
    shut = [a for a in look.layers if a.live and a.call is not None and _reach(seen, a) == LOG_ZERO]
    if not shut:
        return ()
    calls = look.capture.calls
    added = _only_added(calls)
    zero = {
        n: p
        for n, p in look.model.named_parameters()
        if p.requires_grad and p.numel() and not _is_bias(n, p, added) and not bool(p.detach().any())
    }
    opened: dict[int, float] = {}
    if zero:
        with nudged(list(zero.values()), look.seed):
            again = record(look.problem, look.model)
            (tape,) = walk(again, [output_cotangents(again, look.seed)])
            opened = tape.leaves
    live = {n for n, p in zero.items() if seen.loss.leaves.get(id(p), LOG_ZERO) > LOG_ZERO}
    stops = _blocking(calls, seen)
    facts = []
    for layer in shut:
        if all(id(p) in steps for p in layer.live):
            by = tuple(dict.fromkeys(steps[id(p)] for p in layer.live))
            facts.append(ZeroFacts(layer=layer.name, opens=False, blocked_by=by[:3], by_construction=True))
            continue
        opens = any(opened.get(id(p), LOG_ZERO) > LOG_ZERO for p in layer.live)
        behind = downstream(layer, calls)
        blocking = [_maker_of_zeros(c, calls) or c for c in stops if c.index in behind]
        if not blocking and (maker := _maker_of_zeros(calls[layer.calls[-1]], calls)):
            blocking = [maker]
        blocking = list({c.index: c for c in blocking}.values())
        facts.append(
            ZeroFacts(
                layer=layer.name,
                opens=opens,
                gates=tuple(sorted(live - set(layer.parameters))),
                blocked_by=tuple(c.place_and_line for c in blocking[:3]),
                by_construction=not opens and any(constant_by_construction(c) for c in blocking),
            )
        )
    return tuple(facts)


def without_normalisers(
    look: Look, seen: Observed, weak: Collection[str], facts: tuple[ZeroFacts, ...]
) -> tuple[ZeroFacts, ...]:
    """The facts, and those of layers whose every way to the loss ends in a normaliser of single numbers.

    What such a normaliser sends back is zero, and where rounding hides that, it is the gradient of rounding errors: so
    it is by construction, whatever the layers behind transmit to compare it with. Of one of pairs something is left,
    and only layers in ``weak`` count; a sign alone is left of a number that is divided by its size.
    """
    capture = look.capture
    by_hand = {call.index for call in capture.calls if of_one_number(call, capture.calls)}
    normalisers = [call for call in capture.calls if call.alone is not None]
    faint = [call for call in normalisers if _of_single_numbers(call) or _sends_little(call, capture.calls, seen)]
    signs = {call.index for call in capture.calls if _leaves_signs(call)}
    sure = by_hand | signs | remove_all(faint, ANY_INPUTS)
    if not (weak or sure) or capture.loss_index is None:
        return facts
    same = _same_samples(look.problem.inputs)
    ends = by_hand | remove_all(capture.calls if weak else [capture.calls[index] for index in sure])
    if weak and same:
        ends |= {call.index for call in capture.calls if call.name == "batch_norm" and removes_all(call, alike=True)}
    if not ends:
        return facts
    alive, waiting = set[int](), [capture.loss_index]
    while waiting:
        index = waiting.pop()
        if index not in alive and index >= 0:
            alive.add(index)
            waiting += [] if index in ends else capture.calls[index].inputs
    found = {each.layer: each for each in facts}
    for layer in look.layers:
        cut = alive.isdisjoint(layer.calls) or (layer.name in found and not ends.isdisjoint(layer.calls))
        behind = downstream(layer, capture.calls) if cut and layer.live and layer.calls else set[int]()
        if behind and (layer.name in weak or not sure.isdisjoint(behind)):
            those = [capture.calls[k] for k in sorted(ends & behind)]
            alike = same and all(c.name == "batch_norm" for c in those)
            last = tuple(c.place_and_line for c in those[:3])
            found[layer.name] = ZeroFacts(
                layer=layer.name, opens=False, blocked_by=last, by_construction=True, alike=alike
            )
    return tuple(found.values())


def _of_single_numbers(call: Call) -> bool:
    """Whether a layer or group norm is given one number at a time: of numbers of 1,000 rounding sends back a lot."""
    _, args, named = call.alone or (None, (), {})
    sizes = [*args[:1], *(named[key] for key in ("normalized_shape", "num_groups") if key in named)]
    if call.name == "layer_norm":
        return bool(sizes) and all(size == 1 for size in sizes[0])
    return call.name == "group_norm" and bool(sizes) and call.numel == call.shape[0] * sizes[0]


def _sends_little(call: Call, calls: Sequence[Call], seen: Observed) -> bool:
    """Whether less comes back through a normaliser than a three-hundredth of what one of its inputs' size sends back.

    Trying one that does not is spared: it may take as long as the network's own pass.
    """
    got = seen.probe("signals", call.index)
    sent = [seen.probe("edges", (call.index, j)) + log10_of(calls[j].rms) for j in call.inputs]
    return got > LOG_ZERO and bool(sent) and max(sent) - got < VANISHED


def _same_samples(inputs: Any) -> bool:
    """Whether every entry of a batch is its first one again, in all its tensors."""
    batch = [t for t in tensors(inputs) if t.ndim and not t.is_nested and t.layout is torch.strided]
    return bool(batch) and all(bool((t == t[:1]).all()) for t in batch)


def _leaves_signs(call: Call) -> bool:
    """Whether it is ``normalize`` along an axis of size 1: along one of size n its results have an rms of 1/√n."""
    return call.name == "normalize" and call.alone is not None and abs(call.rms - 1.0) < 1e-3


def of_one_number(call: Call, calls: Sequence[Call]) -> bool:
    """Whether it takes the mean of one number from it, divides it by its own length, or asks for its spread.

    Parts of a normaliser written by hand, over groups of one: a zero or a sign is left, whatever the numbers are.
    """
    if call.name in ("var", "std") and len(call.inputs) == 1:
        return call.numel == calls[call.inputs[0]].numel
    if call.name.strip("_") not in ("sub", "div", "truediv") or len(call.inputs) != 2:
        return False
    for number, other in (call.inputs, call.inputs[::-1]):
        reduced, here = False, calls[other]
        while here.index != number and len(here.inputs) == 1:
            before = calls[here.inputs[0]]
            reduced |= here.name in REDUCES and here.numel == before.numel
            here = before
        if reduced and here.index == number and calls[number].numel == call.numel:
            return True
    return False


def _only_added(calls: Sequence[Call]) -> set[int]:
    """The parameters, by id, that the forward pass only adds to something, as a bias or a position by any name."""
    uses = [(call.name.strip("_") in ("add", "radd", "iadd"), id(p)) for call in calls for p in call.parameters]
    return {p for adds, p in uses if adds} - {p for adds, p in uses if not adds}


def _is_bias(name: str, parameter: nn.Parameter, added: Collection[int]) -> bool:
    return id(parameter) in added or (parameter.ndim <= 1 and "bias" in name.rpartition(".")[2])


@contextmanager
def nudged(parameters: Sequence[nn.Parameter], seed: int) -> Iterator[None]:
    """The parameters moved by N(0, NUDGE²) inside, and back bit for bit afterwards."""
    generator = torch.Generator().manual_seed(seed)
    with put_back(parameters):
        for parameter in parameters:
            parameter.data.add_(normal_like(parameter.data, generator) * NUDGE)
        yield


def _reach(seen: Observed, layer: Layer) -> float:
    return max(
        (max(seen.probe("leaves", id(p)), seen.loss.leaves.get(id(p), LOG_ZERO)) for p in layer.live), default=LOG_ZERO
    )


def _blocking(calls: Sequence[Call], seen: Observed) -> list[Call]:
    """The calls that receive a signal and send exactly nothing back."""
    blocking = []
    for call in calls:
        got = seen.probe("signals", call.index)
        sent = [seen.probe("edges", (call.index, j)) for j in call.inputs]
        if got > LOG_ZERO and sent and max(sent) == LOG_ZERO:
            blocking.append(call)
    return blocking


def _maker_of_zeros(call: Call, calls: Sequence[Call]) -> Call | None:
    """The call without parameters that made of other numbers the exact zeros this one is given, if that is so."""
    here = call
    while here.inputs and all(calls[j].norm == 0.0 for j in here.inputs):
        here = calls[here.inputs[0]]
    return here if here is not call and here.norm == 0.0 and not here.parameters else None


def downstream(layer: Layer, calls: Sequence[Call]) -> set[int]:
    """The indices of a layer's calls and of all that consume what they give."""
    reached = set(layer.calls)
    for call in calls:
        if any(j in reached for j in call.inputs):
            reached.add(call.index)
    return reached
