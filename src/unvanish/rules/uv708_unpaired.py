"""UV708: the loss does not compare each output with a target of its own."""

from __future__ import annotations

from unvanish.records import Evidence, Flow, LabelFacts, LossFacts, PairFacts
from unvanish.rules import Statement, rule
from unvanish.words.numbers import number


@rule(
    "UV708",
    "pairing",
    "outputs and targets do not pair",
    tier="pairing",
    levels=("error", "note"),
    needs=("loss", "output"),
    fires_on=("broadcast-targets", "mean-before-loss"),
    silent_on=(
        "paired-targets", "relu-he-20", "small-cnn", "small-gpt", "lstm", "unet-small", "plateau", "converged-digits",
        "generator-frozen-discriminator", "output-range", "double-softmax",
    ),
)  # fmt: skip
def unpaired(flow: Flow, *, threshold: float = 0.02) -> list[Statement]:
    """The best the network can do under this loss is one constant, although the targets vary.

    Example: outputs of shape (64, 1) and targets of shape (64,). Their difference has 64 × 64 entries, each output
    minus every target, and the mean of its squares is lowest where all outputs are the mean of the targets.

    Why: the loss falls to that of the best constant and stays there, at any learning rate and with any architecture.
    Nothing raises an error, because shapes that differ by dimensions of size 1 are stretched to fit.

    Evidence: the outputs, taken as free variables, win less than ``threshold`` over the best constant, as a share of
    what it costs to scatter them about it by the targets' spread (a least-squares loss of paired targets wins about all
    of that; 2% is what a loss may be from that of the best constant to count as no better, as for a plateau). And
    either the shapes are stretched on both sides where they meet (of several outputs, those that get there are asked
    alone), or the loss stays the same when scattered outputs are dealt to other samples. Targets that are all the same
    are not asked. A note where the best constant is as good as
    any outputs because of samples whose loss no output changes, and whose targets no other sample has: labels of 0 and
    1 in a loss made for -1 and 1, or a mask that leaves one class. An error, too, where a cross-entropy is given
    outputs of a layer with an axis of steps or pixels, and what it takes for the classes of one of these are entries of
    several: a row of classes goes back to no whole axis of the outputs.

    What helps: give outputs and targets the same shape, with ``outputs.squeeze(1)`` or ``targets.unsqueeze(1)``, and
    take means over the samples after comparing.

    Source: NumPy and PyTorch documentation, Broadcasting semantics; Bishop 2006, Pattern recognition and machine
    learning, section 1.5.5 (the best constant under each loss).
    """
    pairs, loss = flow.pairs, flow.loss
    if flow.labels is not None and flow.labels.kind == "mixed":
        return [_mixed(flow, flow.labels)]
    if pairs is None or loss is None or loss.best_constant is None or not pairs.won < threshold:
        return []
    if pairs.unasked:
        told = flow.labels is not None and flow.labels.kind == "unsigned"  # by UV706: labels a loss does not mean
        return [] if told else [_some_unasked(pairs, loss, threshold)]
    constant = loss.best_constant if pairs.constant is None else pairs.constant
    where = f" at {pairs.source}" if pairs.source else ""
    best = "this output can do, the others as they are," if pairs.partly else "this network can do"
    message = (
        f"The best {best} is one constant for all samples (loss {number(constant)}), although"
        f" the targets vary: outputs of shape {pairs.outputs} meet targets of shape {pairs.targets}{where}, and no"
        " output has a target of its own. Give both the same shape, and compare before taking a mean over the samples."
        " No training gets past it."
    )
    return [
        Statement(
            level="error",
            cause="shapes" if pairs.outputs != pairs.targets else "a mean over the samples",
            message=message,
            evidence=(
                Evidence(
                    name="won over the best constant by free outputs",
                    value=pairs.won,
                    relation="<",
                    threshold=threshold,
                ),
                Evidence(name="change of the loss when outputs are dealt anew", value=pairs.shuffled),
            ),
        )
    ]


def _mixed(flow: Flow, labels: LabelFacts) -> Statement:
    """Of classes that are taken along no axis of the outputs."""
    at = flow.calls[labels.call].source if labels.call < len(flow.calls) else ""
    where = f" at {at}" if at else ""
    message = (
        f"The classes that cross_entropy{where} compares are not those of one sample and step of the outputs: a view or"
        " a reshape has cut the outputs along a wrong axis, so that entries of several steps stand as the classes of"
        " one. Move the axis of the classes instead, with transpose, permute or movedim."
    )
    evidence = Evidence(name="share of rows of classes that are mixed", value=labels.share, relation=">", threshold=0.0)
    return Statement(level="error", cause="a view in place of a transpose", message=message, evidence=(evidence,))


def _some_unasked(pairs: PairFacts, loss: LossFacts, threshold: float) -> Statement:
    constant = "" if loss.best_constant is None else f" (loss {number(loss.best_constant)})"
    many = pairs.unasked > 1
    message = (
        f"One constant output for all samples is as good as any{constant}, although the targets differ:"
        f" {pairs.unasked:,} sample{'s' * many} {'ask' if many else 'asks'} nothing of {'their' if many else 'its'}"
        " output, whatever it is, and no other sample has such a target. Is the loss made for other labels, -1 and 1"
        " where these are 0 and 1? A mask that leaves one class does the same. On this batch."
    )
    evidence = (
        Evidence(name="won over the best constant by free outputs", value=pairs.won, relation="<", threshold=threshold),
        Evidence(name="samples that the loss asks nothing of", value=float(pairs.unasked)),
    )
    return Statement(level="note", cause="labels", message=message, evidence=evidence)
