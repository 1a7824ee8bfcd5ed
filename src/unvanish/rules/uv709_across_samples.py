"""UV709: a softmax, a normalisation, a recurrent layer or an attention over the samples of a batch."""

from __future__ import annotations

from unvanish.records import AcrossFacts, CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import shares_across
from unvanish.rules.wording import place


@rule(
    "UV709",
    "pairing",
    "over the samples",
    tier="pairing",
    levels=("error", "note"),
    needs=("calls",),
    remedies=("batch-first",),
    fires_on=("softmax-over-batch", "mixture-over-batch", "lstm-over-samples"),
    silent_on=(
        "mixture-density", "paired-targets", "relu-he-20", "small-cnn", "small-gpt", "preln-transformer-6",
        "batchnorm-relu-20", "attention-skips-8", "graph-2", "double-softmax", "plateau", "converged-digits",
    ),
)  # fmt: skip
def across_samples(flow: Flow) -> list[Statement]:
    """A softmax or a recurrent layer goes over the batch: what a sample gets depends on which others are beside it.

    Example: ``softmax(logits, dim=0)`` for outputs of shape (samples, classes), or for the weights of a mixture density
    in the loss; ``softmax(scores)`` without an axis, for which torch takes the first of three. ``nn.LSTM`` or
    ``nn.TransformerEncoder`` without ``batch_first=True`` for inputs of shape (samples, steps, features).

    Why: the numbers then add up to one over the samples of a batch and not over the entries of one. The loss falls, by
    a competition of the samples, and what was learned means nothing for another batch; a sample alone always gets 1. A
    recurrent layer that takes the samples for steps hands what it knows of one on to the next.

    Evidence: one sample is replaced by another and the pass is made again, in eval mode. Along one axis of what the
    call is given only that sample's entries change, and in what it gives those of the others change, too. Samples
    against samples (contrastive losses, attention within a batch) change along both axes and are not meant; nor are
    batch normalisation, means over the samples that the call only weighs, and lists that a loss ranks as a whole. An
    error where the call makes the outputs, or those that are its logarithm, of which each sample has several; else a
    note: a competition of the samples can be what is wanted. Of torch's recurrent layers and attention the same is
    asked where every sample has a target of its own: that sample's entries then fill few of the layer's steps and many
    of its places, and the outputs of other samples change.

    What helps: the axis of the classes, or of the components: ``dim=-1``, ``dim=1``. ``batch_first=True``, and a
    transpose in the place of a ``view`` or ``reshape`` between samples and steps.

    Source: PyTorch documentation, torch.nn.functional.softmax (dim), torch.nn.LSTM (batch_first); Bishop 1994, Mixture
    density networks (the weights of a mixture are a softmax over its components).
    """
    calls = {call.index: call for call in flow.calls}
    found = [(facts, calls[facts.call]) for facts in flow.across if facts.call in calls]
    return [_statement(flow, facts, call) for facts, call in found]


def _statement(flow: Flow, facts: AcrossFacts, call: CallFlow) -> Statement:
    if call.name in _STEPS:
        return _goes_along(facts, call)
    size = facts.shape[facts.axis]
    what = _WHAT.get(call.name, "its numbers add up to 1")
    where = call.name + (f" in the loss at {call.source}" if call.part == "loss" and call.source else "")
    message = (
        f"{place(call) if call.part == 'model' else where} goes over the samples, along axis {facts.axis} of"
        f" {facts.shape}: {what} over the {size:,} rows of a batch, not within each. What a sample gets depends"
        " on which others are beside it; replacing one sample changed the results of the others. With"
        f" dim={_other(facts)} each sample is normalised by itself."
    )
    evidence = (Evidence(name="samples that share one normalisation", value=float(size), relation=">", threshold=1.0),)
    level = "error" if shares_across(flow, facts) else "note"
    return Statement(level=level, cause=call.name, message=message, evidence=evidence, remedies=())


def _goes_along(facts: AcrossFacts, call: CallFlow) -> Statement:
    """A recurrent layer or an attention whose steps are the samples, or that is given pieces of them."""
    steps, places = facts.shape[facts.axis], facts.shape[1 - facts.axis]
    if facts.pieces:
        given = (
            f"is given samples in pieces: along axis {1 - facts.axis} of {facts.shape}, where it expects the samples,"
            f" the entries of one lie in {facts.pieces:,} of {places:,} places"
        )
        cure = "Where a view or reshape swaps samples and steps, a transpose keeps each sample together."
    else:
        given = (
            f"goes along axis {facts.axis} of {facts.shape}, the {steps:,} samples of the batch, and takes their"
            f" {places:,} steps for samples"
        )
        cure = "With batch_first=True, or its axes swapped before, it goes through each sample by itself."
    return Statement(
        level="error",
        cause=call.name,
        message=f"{place(call)} {given}. Replacing one sample changed the outputs of others. {cure}",
        evidence=(Evidence(name="places that one sample's entries lie in", value=float(facts.pieces or places)),),
        remedies=() if facts.pieces else None,
    )


_STEPS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
_WHAT = {"normalize": "its columns have length 1", "log_softmax": "the exponentials of its numbers add up to 1"}


def _other(facts: AcrossFacts) -> int:
    """The last axis, or the one before it where the last is that of the samples."""
    return -1 if facts.axis != len(facts.shape) - 1 else -2
