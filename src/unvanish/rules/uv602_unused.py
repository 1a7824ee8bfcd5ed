"""UV602: layers that take no part in computing the loss."""

from __future__ import annotations

from collections.abc import Sequence

from unvanish.decide.limits import CHOICES, NOT_CHOSEN, PLACES, STATE, SWITCHED_OFF
from unvanish.decide.siblings import is_one_of_many
from unvanish.records import BypassFacts, Evidence, Flow, LayerFlow, StoppedFacts, UnusedFacts
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, sources, subject, together
from unvanish.words.numbers import listing


@rule(
    "UV602",
    "unused",
    "unused layers",
    tier="unused",
    levels=("error", "note"),
    needs=(),
    fires_on=("unused-layer", "unused-expert"),
    silent_on=(
        "relu-he-20",
        "frozen-backbone",
        "shared-module-twice",
        "two-branch",
        "unet-small",
        "lora-zero-b",
        "small-gpt",
    ),
)
def unused(flow: Flow) -> list[Statement]:
    """The layer takes no part in computing the loss, or its part has no gradient.

    Example: a ``Linear`` made in ``__init__`` and forgotten in ``forward``; the first blocks of a network in whose
    middle stands a ``detach``. A mixture of experts that sent no sample of this batch to one of its experts looks the
    same to the gradient, and is fine.

    Why: parameters outside the graph of the loss never change. That is a mistake where the forward pass can never use
    them or cuts them off, and an accident of the batch where it chooses among equals.

    Evidence: the layer has no call from which the loss can be reached. What left the graph is followed: where a trained
    layer consumes numbers made of it, the layer was cut off, by a ``detach``, under ``no_grad``, in a checkpoint none
    of whose inputs needs a gradient, or by a call without one. That is an error, unless a library's own forward does it
    or an optimizer was given that does not hold the layer (a frozen teacher, the other player of a game). Of what no
    trained layer consumes it is a note where the layer was called on what a used one computed (poolers), or has a twin
    that is trained (a target network). A layer never called is a note where a numbered sibling of the same kind is used
    and the siblings do not follow each other (experts), or where a library's forward, or a condition in the user's own,
    leaves it out; an error otherwise. No batch and no other loss changes that what a layer returns only chooses, as by
    an argmax or a comparison with a threshold, or goes to a name that nothing in the user's own program reads: an error
    both. A branch or a penalty that is multiplied by a constant of zero is in the graph and gets nothing: a note, where
    the loss goes on beside it; but where it goes on with what was cut off from the same layers, as with a code that an
    encoder only chooses, the cut counts. Experts that all run, where a mask, an index or weights of zero take nothing
    of one of them on this batch, are the same note. A note, too, inside the forward of an ``autograd.Function``, whose
    backward may run it again. Layers that are trained by another way are noted where one summand of a sum was cut and
    the other, made of it by layers, was not (``x.detach() + block(x)``), and where a later layer is given what they
    only choose, as by an argmax, and nothing else that is made of them meets it before the loss; not where a gradient
    is led around the cut, as by ``x + (q - x).detach()``. Noted, too, where a loop along a sequence detaches its whole
    state at every step; not where it goes along none, as one that refines an estimate. Weights that are taken out of
    the graph before they meet any data, as by ``.data`` or a comparison, are an error also where the bias beside them
    learns. Of a running training, a layer without a gradient in several samples in a row: what a check of that step
    says, or a note.

    What helps: call the layer, or remove it; take the ``detach`` away, or freeze what stands before it on purpose. For
    a checkpoint ``use_reentrant=False``, or inputs that need a gradient (``enable_input_require_grads``).

    Source: Shazeer et al. 2017, Outrageously large neural networks: the sparsely-gated mixture-of-experts layer
    (experts without a sample); Chen et al. 2016, Training deep nets with sublinear memory cost (checkpoints).
    """
    rest = (_bypassed(flow, facts) for facts in flow.bypassed)
    return [*_without_any(flow), *_cut_alone([each for each in flow.stopped if each.cut]), *rest]


def _cut_alone(facts: Sequence[StoppedFacts]) -> list[Statement]:
    """Weights that are taken out of the graph before they meet any data, in layers whose other tensors learn."""
    if not facts:
        return []
    weights = [name for each in facts for name in each.parameters]
    where, many = listing(each.at for each in facts if each.at), len(weights) > 1
    by = listing(f"a comparison ({each.by})" if each.by in COMPARISONS else each.by for each in facts)
    message = (
        f"{listing(weights)} {'are' if many else 'is'} used, but taken out of the graph by {by}"
        f"{f' at {where}' if where else ''} before {'they meet' if many else 'it meets'} any data: no gradient comes"
        " back, and what else the layers hold, as a bias, learns alone."
    )
    return [
        Statement(
            level="error",
            layers=tuple(dict.fromkeys(each.layer for each in facts)),
            cause=f"cut off: {facts[0].by}",
            message=message,
        )
    ]


def _bypassed(flow: Flow, facts: BypassFacts) -> Statement:
    """Of layers that other ways to the loss train."""
    who, one = together(facts.layers, flow), len(facts.layers) == 1
    if facts.kind == "sum":
        message = (
            f"In the sum at {facts.at} one summand is cut out of the graph by {facts.cut} at {facts.cut_at}: {who}"
            f" {'gets' if one else 'get'} the signal through the other summand alone, not past it."
        )
    elif facts.kind == STATE:
        message = (
            f"Between two turns of a loop the state is cut out of the graph by {facts.cut} at {facts.cut_at}: what"
            f" {who} {'does' if one else 'do'} at one turn learns nothing from what a later one makes, and nothing"
            " is learned that takes more than one turn. Between two batches that is meant; within one forward pass,"
            " leave it out."
        )
    else:
        message = (
            f"What {facts.at} is given was only chosen by {facts.cut} at {facts.cut_at}, which has no gradient: {who}"
            f" {'learns' if one else 'learn'} nothing from what follows it, only from other terms of the loss. A"
            " gradient can be led around a choice, as by x + (q - x).detach()."
        )
    return Statement(level="note", layers=facts.layers, cause="a part cut off", message=message)


def _without_any(flow: Flow) -> list[Statement]:
    """Of layers that get no gradient at all."""
    layers = judged(flow, "unused")
    if not flow.asks("calls"):
        return [_finding(flow, list(layers), "note", "this step", "", {})] if layers else []
    known = {facts.layer: facts for facts in flow.unused}
    called = {call.module for call in flow.calls}
    kinds: dict[tuple[str, str, str], list[LayerFlow]] = {}
    for layer in layers:
        facts = known.get(layer.name) or UnusedFacts(layer=layer.name, called=layer.path in called)
        kinds.setdefault(_kind(layer, facts, flow), []).append(layer)
    return [
        _finding(flow, each, *kind, known) for kind, each in sorted(kinds.items(), key=lambda k: CAUSES.index(k[0][1]))
    ]


FUNCTION = "function"
CAUSES = (
    "never called",
    "cut off",
    "never read",
    "inside a Function",
    "left out by the optimizer",
    "library",
    "switched off",
    "this batch",
)
COMPARISONS = ("gt", "lt", "ge", "le", "eq", "ne")
THIS_BATCH = "not part of this loss on this batch; other batches or losses may use"


def _kind(layer: LayerFlow, facts: UnusedFacts, flow: Flow) -> tuple[str, str, str]:
    """Level, cause, and for a cut what made it."""
    if facts.cut == SWITCHED_OFF:
        return "note", "switched off", ""
    if facts.cut == FUNCTION:
        return "note", "inside a Function", facts.cut
    if facts.cut == NOT_CHOSEN:
        return "note", "this batch", ""
    chosen = facts.cut.strip("_") in CHOICES + PLACES  # no batch and no loss brings a gradient back
    if facts.cut and (facts.feeds or chosen):
        if facts.library or facts.held is False:
            return "note", "library" if facts.library else "left out by the optimizer", facts.cut
        return "error", "cut off", facts.cut
    excused = (
        facts.library or _is_side_branch(layer, flow) or facts.held is False or (facts.cut and _has_twin(layer, flow))
    )
    if facts.dropped and not facts.cut and not facts.library and facts.held is not False:
        return "error", "never read", ""
    if excused or is_one_of_many(layer, flow) or facts.conditional:
        return "note", "this batch", ""
    return "error", "cut off" if facts.called else "never called", facts.cut


def _finding(
    flow: Flow, layers: list[LayerFlow], level: str, cause: str, by: str, known: dict[str, UnusedFacts]
) -> Statement:
    parameters = sum({layer.path: layer.parameters for layer in layers}.values())  # a record is one call
    where = listing(known[layer.name].cut_at for layer in layers if layer.name in known and known[layer.name].cut_at)
    used = "used" if all(layer.kind == "Parameter" for layer in layers) else "called"
    results = "what it computes is" if len(layers) == 1 else "what they compute is"
    why = {
        "never called": "never called in the forward pass",
        "cut off": _cut(by, where, used),
        "never read": f"called, but nothing in the program reads what {_returned(layers)}",
        "left out by the optimizer": f"{_cut(by, where, used)}; the optimizer does not hold {_them(layers)} either",
        "inside a Function": _cut(by, where, used),
        "library": f"{_cut(by, where, used)}, by a library's own forward",
        "switched off": f"switched off: {results} multiplied by zero{f' at {where}' if where else ''}",
        "this step": f"without a signal and a gradient in this step; others may use {_them(layers)}",
        "this batch": f"{THIS_BATCH} {_them(layers)}",
    }[cause]
    return Statement(
        level=level,
        layers=names(layers),
        cause=f"{cause}: {by}" if by else cause,
        message=f"{subject(flow, layers, 'is', 'are')} {why} ({parameters:,} parameters).{sources(layers)}",
        evidence=(Evidence(name="parameters without a gradient", value=float(parameters)),),
    )


def _returned(layers: list[LayerFlow]) -> str:
    return "it returns" if len(layers) == 1 else "they return"


def _them(layers: list[LayerFlow]) -> str:
    return "it" if len(layers) == 1 else "them"


def _cut(by: str, where: str, used: str) -> str:
    at = f" at {where}" if where else ""
    if by == "no_grad":
        return f"called without gradients (torch.no_grad or inference mode{at}), so that nothing of the loss comes back"
    if by == FUNCTION:
        return (
            f"{used} inside the forward of an autograd.Function{at}, where nothing is recorded: whether its backward"
            " gives a gradient all the same, as that of a checkpoint of one's own does, is not decided here"
        )
    if by == "checkpoint":
        return (
            f"called in an activation checkpoint{at} none of whose inputs needs a gradient, which cuts it off (the"
            " reentrant kind); use_reentrant=False does not"
        )
    if by:
        call = f"a comparison ({by})" if by.strip("_") in COMPARISONS else by
        return f"{used}, but what came of it is cut out of the graph by {call}{at}"
    return f"{used}, but nothing of the result reaches the loss"


def _has_twin(layer: LayerFlow, flow: Flow) -> bool:
    """Whether a used layer of the same kind and size has the same path but for one name, as a target network's has."""
    parts = layer.path.split(".")
    used = [
        a.path.split(".")
        for a in flow.layers
        if a.call is not None and (a.kind, a.parameters) == (layer.kind, layer.parameters)
    ]
    return any(len(o) == len(parts) and sum(a != b for a, b in zip(o, parts, strict=True)) == 1 for o in used)


def _is_side_branch(layer: LayerFlow, flow: Flow) -> bool:
    """Whether the layer was called on what a used layer computed; what is cut off has no used layer before it."""
    calls = {call.index: call for call in flow.calls}
    used = {each.call for each in flow.layers if each.call is not None}
    waiting = [call.index for call in flow.calls if call.module == layer.path]
    seen: set[int] = set()
    while waiting:
        index = waiting.pop()
        if index in used:
            return True
        if index not in seen and index in calls:
            seen.add(index)
            waiting += calls[index].inputs
    return False
