"""Gates of recurrent layers that start open, so that a state is kept for many steps."""

from __future__ import annotations

import math

from torch import Tensor, nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.trace.structure import tensors

GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)


@remedy(
    "forget-gate-bias",
    "forget gates that start open",
    kind="init",
    answers=("UV101", "UV102", "UV402"),
    cures_on=("recall-30",),
    no_help_on=("lr-too-small", "dead-relu", "lstm"),
    only_for="kind",
)
def forget_gate_bias(draft: Draft) -> Change:
    """The gate that keeps the state starts at σ(b) near 1 instead of 1/2, the same for all units.

    What: in LSTM and GRU layers and cells the bias of the gate that keeps the state (forget, update) is set to 1, or to
    the logarithm of the length of the sequence where that is more: σ(b) = 1 − 1/(T + 1) keeps it for about T steps. The
    other biases stay as they are.
    Helps: what an output needs stands many steps back: with a gate at 1/2, half of it is gone at each step.
    Does not help: short memory; plain RNNs, which have no gate, and layers without biases (refused).
    Source: Gers, Schmidhuber & Cummins 2000, Learning to forget; Jozefowicz, Zaremba & Sutskever 2015, An empirical
    exploration of recurrent network architectures.
    """
    paths, steps = _gated(draft), steps_of(draft)
    bias = round(max(1.0, math.log(steps)), 4)
    code = [f"model = open_gates(model, {paths!r}, bias={bias!r})"]
    sentence = f"a bias of {bias:g} for the gate that keeps the state in {', '.join(paths)}"
    return draft.apply(sentence, [surgery.open_gates], code, paths)


@remedy(
    "chrono-init",
    "gates that start with memories of every length",
    kind="init",
    answers=("UV101", "UV102", "UV402"),
    cures_on=("recall-30",),
    no_help_on=("lr-too-small", "dead-relu", "lstm"),
    only_for="kind",
)
def chrono_init(draft: Draft) -> Change:
    """Each unit starts with a memory of its own length, between 1 step and the length of the sequence.

    What: the bias of the gate that keeps the state is log u with u uniform between 1 and T − 1; an LSTM's input gate
    gets its negative. T is the longest dimension of the inputs after the first.
    Helps: what an output needs stands at an unknown distance, from near to very far.
    Does not help: short memory; plain RNNs and layers without biases (refused).
    Source: Tallec & Ollivier 2018, Can recurrent neural networks warp time?
    """
    paths, steps = _gated(draft), steps_of(draft)
    code = [f"model = chrono(model, {paths!r}, steps={steps}, seed={draft.seed()})"]
    sentence = f"chrono initialisation of {', '.join(paths)} for up to {steps} steps"
    return draft.apply(sentence, [surgery.chrono], code, paths)


def _gated(draft: Draft) -> list[str]:
    """The paths of the LSTM and GRU layers and cells with biases."""
    found = [path for path, each in draft.model.named_modules() if isinstance(each, GATED) and each.bias]
    if not found:
        raise Refused("the network has no LSTM or GRU with biases")
    if draft.pretrained:
        raise Refused("its weights have seen training and are kept")
    return found


def steps_of(draft: Draft) -> int:
    """The length of the sequences: of the first inputs with one, the longest dimension after the samples."""
    batch: list[Tensor] = [each for each in tensors(draft.inputs) if each.ndim > 1]
    for each in batch:
        sizes = each.shape[1:-1] if each.ndim > 2 else each.shape[1:]
        if max(sizes) > 2:
            return int(max(sizes))
    raise Refused("the inputs have no dimension that could be a sequence of more than two steps")
