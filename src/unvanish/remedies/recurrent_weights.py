"""A recurrent weight that starts as the identity, so that a state stays as it is from step to step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.draft import called
from unvanish.remedies.recurrent import steps_of
from unvanish.trace.listening import Listening, name_of
from unvanish.trace.structure import tensors

PLAIN = (nn.RNN, nn.RNNCell)
GATES = ("sigmoid",)


@remedy(
    "identity-recurrence",
    "a recurrent weight that starts as the identity",
    kind="init",
    answers=("UV101", "UV102", "UV202", "UV402"),
    cures_on=("relu-rnn-30",),
    no_help_on=("lr-too-small", "dead-relu", "lstm"),
    only_for="kind",
)
def identity_recurrence(draft: Draft) -> Change:
    """A plain recurrent layer begins by keeping its state, to which each step adds its share of the inputs.

    What: the weight from state to state is the identity and its bias zero; in RNN layers and cells of torch the weights
    of the inputs are divided by √T besides, T the length of the sequence, so that a sum over T steps has the size that
    one step had. In a forward of one's own it is the square Linear whose input depends on its own outputs.
    Helps: plain RNNs, of ReLUs above all, that are asked for something many steps back: the default weights shrink a
    state to a fraction at each step.
    Does not help: gated layers (refused), whose gates keep the state; large learning rates, under which a weight that
    is used at every step soon lets the state grow without bounds.
    Source: Le, Jaitly & Hinton 2015, A simple way to initialize recurrent networks of rectified linear units.
    """
    if draft.pretrained:
        raise Refused("its weights have seen training and are kept")
    layers = [path for path, each in draft.model.named_modules() if isinstance(each, PLAIN)]
    own = [] if layers else _own_recurrences(draft)
    if not layers and not own:
        raise Refused("the network has no plain recurrent layer, and no square Linear that is fed its own outputs")
    steps = steps_of(draft) if layers else 1
    code = [f"model = keep_state(model, {[*layers, *own]!r}, steps={steps})"]
    sentence = f"the identity as the recurrent weight of {', '.join([*layers, *own])}"
    more = f", and weights of the inputs divided by √{steps}" if layers else ""
    return draft.apply(sentence + more, [surgery.keep_state], code, [*layers, *own])


def _own_recurrences(draft: Draft) -> list[str]:
    """The paths of square Linear layers that are called again with what depends on their own weights."""
    square = {
        path: each
        for path, each in draft.model.named_modules()
        if isinstance(each, nn.Linear) and each.in_features == each.out_features and each.weight.requires_grad
    }
    calls = dict.fromkeys(square, 0)
    found: list[str] = []
    if not square:
        return found

    def watch(path: str) -> Any:
        def before(module: nn.Linear, given: Any) -> None:
            calls[path] += 1
            if calls[path] == 2 and any(_depends(each, module.weight) for each in tensors(given)):
                found.append(path)

        return before

    handles = [each.register_forward_pre_hook(watch(path)) for path, each in square.items()]
    gates: list[str] = []
    listening = Listening(lambda func, *_: gates.append(name) if (name := name_of(func)) in GATES else None)
    try:
        with untouched(draft.model, 0), torch.enable_grad(), listening:
            called(draft.model, draft.inputs)
    finally:
        for handle in handles:
            handle.remove()
    if found and len(gates) >= max(calls[path] for path in found):
        raise Refused("its recurrent layers have gates, which keep the state")
    return found


def _depends(tensor: Tensor, weight: Tensor) -> bool:
    """Whether a tensor was computed from that weight."""
    waiting, seen = [tensor.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is weight:
            return True
        waiting += [each for each, _ in node.next_functions]
    return False
