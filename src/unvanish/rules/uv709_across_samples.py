"""UV709: a softmax or a normalisation over the samples of a batch."""

from __future__ import annotations

from unvanish.records import AcrossFacts, CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import makes_outputs
from unvanish.rules.wording import place


@rule(
    "UV709",
    "pairing",
    "normalised over the samples",
    tier="pairing",
    levels=("error", "note"),
    needs=("calls",),
    fires_on=("softmax-over-batch", "mixture-over-batch"),
    silent_on=(
        "mixture-density", "paired-targets", "relu-he-20", "small-cnn", "small-gpt", "preln-transformer-6",
        "batchnorm-relu-20", "attention-skips-8", "graph-2", "double-softmax", "plateau", "converged-digits",
    ),
)  # fmt: skip
def across_samples(flow: Flow) -> list[Statement]:
    """A softmax is taken over the batch: what a sample gets depends on which others are beside it.

    Example: ``softmax(logits, dim=0)`` for outputs of shape (samples, classes), or for the weights of a mixture density
    in the loss; ``softmax(scores)`` without an axis, for which torch takes the first of three.

    Why: the numbers then add up to one over the samples of a batch and not over the entries of one. The loss falls, by
    a competition of the samples, and what was learned means nothing for another batch; a sample alone always gets 1.

    Evidence: one sample is replaced by another and the pass is made again, in eval mode. Along one axis of what the
    call is given only that sample's entries change, and in what it gives those of the others change, too. Samples
    against samples (contrastive losses, attention within a batch) change along both axes and are not meant; nor are
    batch normalisation, means over the samples that the call only weighs, and lists that a loss ranks as a whole. An
    error where the call makes the outputs, of which each sample has several; else a note: a competition of the samples
    can be what is wanted.

    What helps: the axis of the classes, or of the components: ``dim=-1``, ``dim=1``.

    Source: PyTorch documentation, torch.nn.functional.softmax (dim); Bishop 1994, Mixture density networks (the weights
    of a mixture are a softmax over its components).
    """
    calls = {call.index: call for call in flow.calls}
    found = [(facts, calls[facts.call]) for facts in flow.across if facts.call in calls]
    return [_statement(flow, facts, call) for facts, call in found]


def _statement(flow: Flow, facts: AcrossFacts, call: CallFlow) -> Statement:
    size = facts.shape[facts.axis]
    several = any(n > 1 for k, n in enumerate(facts.shape) if k != facts.axis)
    outputs = several and call.part == "model" and makes_outputs(flow, call)
    what = _WHAT.get(call.name, "its numbers add up to 1")
    where = call.name + (f" in the loss at {call.source}" if call.part == "loss" and call.source else "")
    message = (
        f"{place(call) if call.part == 'model' else where} goes over the samples, along axis {facts.axis} of"
        f" {facts.shape}: {what} over the {size:,} rows of a batch, not within each. What a sample gets depends"
        " on which others are beside it; replacing one sample changed the results of the others. With"
        f" dim={_other(facts)} each sample is normalised by itself."
    )
    evidence = (Evidence(name="samples that share one normalisation", value=float(size), relation=">", threshold=1.0),)
    return Statement(level="error" if outputs else "note", cause=call.name, message=message, evidence=evidence)


_WHAT = {"normalize": "its columns have length 1", "log_softmax": "the exponentials of its numbers add up to 1"}


def _other(facts: AcrossFacts) -> int:
    """The last axis, or the one before it where the last is that of the samples."""
    return -1 if facts.axis != len(facts.shape) - 1 else -2
