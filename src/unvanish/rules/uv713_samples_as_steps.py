"""UV713: a recurrent or attention layer takes the samples of a batch for the steps of a sequence."""

from __future__ import annotations

from unvanish.records import AcrossFacts, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import NORMALISES
from unvanish.rules.wording import place


@rule(
    "UV713",
    "pairing",
    "samples taken for steps",
    tier="pairing",
    levels=("error",),
    needs=("calls",),
    fires_on=("samples-as-steps", "samples-attended"),
    silent_on=(
        "lstm", "lstm-lag-8", "gru-chrono-200", "small-gpt", "preln-transformer-6", "attention-skips-8", "relu-he-20",
        "softmax-over-batch", "padding-not-read", "small-cnn",
    ),
)  # fmt: skip
def samples_as_steps(flow: Flow) -> list[Statement]:
    """A recurrent layer reads on from one sample to the next, or attention mixes samples, for want of ``batch_first``.

    Example: ``nn.GRU(8, 16)`` is given a batch of shape (samples, steps, features). It expects (steps, samples,
    features), and nothing raises.

    Why: what a sample gets depends on which others come before it, and nothing goes from one of its own steps to the
    next. The loss may fall, since a sample's last step reaches its output; what was learned means nothing for another
    batch.

    Evidence: the layer is built with ``batch_first=False`` and its input has the samples along axis 0. One sample is
    replaced by another and the pass is made again, in eval mode: of the layer's input only that entry changes, of its
    results others do, too. Outputs and targets have an entry for each sample, and the outputs no axis for the steps; a
    network that gives an output to every step may be meant to have its steps first, and is not asked.

    What helps: ``batch_first=True``; or ``x.transpose(0, 1)`` before the layer and after it.

    Source: PyTorch documentation, torch.nn.GRU and torch.nn.MultiheadAttention (batch_first).
    """
    calls = {call.index: call for call in flow.calls}
    return [
        _statement(flow, each) for each in flow.across if each.call in calls and calls[each.call].name not in NORMALISES
    ]


def _statement(flow: Flow, facts: AcrossFacts) -> Statement:
    call = next(call for call in flow.calls if call.index == facts.call)
    samples, steps = facts.shape[:2]
    layers = tuple(layer.name for layer in flow.layers if layer.call == call.index)
    message = (
        f"{place(call)} takes the {samples:,} samples of the batch for the steps of a sequence: it is given"
        f" {facts.shape} and built with batch_first=False, so that axis 0 is that of the steps. Replacing one sample"
        f" changed its results for others, and nothing goes from one of the {steps:,} steps of a sample to the next."
        " With batch_first=True each sample is read by itself."
    )
    evidence = (Evidence(name="samples that are read as one sequence", value=float(samples)),)
    return Statement(layers=layers, cause=call.name, message=message, evidence=evidence)
