"""UV406: weight decay cancels the gradient."""

from __future__ import annotations

from unvanish.decide import decay_balances
from unvanish.decide.limits import BALANCED
from unvanish.decide.stationary import has_converged
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule


@rule(
    "UV406",
    "decay",
    "weight decay cancels the gradient",
    tier="slow",
    levels=("error", "note"),
    remedies=("no-weight-decay", "decoupled-decay"),
    needs=("loss", "next_step"),
    fires_on=("decay-coupled", "decay-decoupled"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "converged-digits", "sigmoid-20",
        "lr-too-small", "bfloat16-adamw",
    ),
)  # fmt: skip
def decay(flow: Flow, *, threshold: float = BALANCED) -> list[Statement]:
    """The pull of the weight decay and the gradient are equal and opposite: training stands still between them.

    Example: SGD with a weight decay of 0.3 on a small classifier. After 1,000 steps the gradient is far from zero and
    the loss far from its minimum, yet no weight moves.

    Why: what the optimizer follows is the gradient of the loss plus that of the penalty. At the minimum of the sum the
    loss's own gradient is not zero, and a larger learning rate does not change that.

    Evidence: |g + λw| / |g| over all weights that decay, below ``threshold``; for decay that is applied to the weights
    themselves (AdamW) the same of the step with and without it. By chance vectors of so many entries never cancel to a
    tenth. An error where the loss is no better than that of a constant output, else a note.

    What helps: a smaller weight decay.

    Source: Krogh & Hertz 1992, A simple weight decay can improve generalization; Loshchilov & Hutter 2019, Decoupled
    weight decay regularization.
    """
    if not decay_balances(flow) or has_converged(flow.loss) or flow.next_step is None or flow.loss is None:
        return []
    message = (
        f"Weight decay cancels {1 - (flow.next_step.decay_balance or 0.0):.0%} of the gradient: the training stands"
        " still where the two are equal and opposite, not where the loss is lowest. The learning rate is not at fault"
        " and the gradient has not vanished."
    )
    return [
        Statement(
            level="error" if flow.loss.at_constant else "note",
            cause="weight decay",
            message=message,
            evidence=(
                Evidence(name="|g + λw| / |g|", value=flow.next_step.decay_balance, relation="<", threshold=threshold),
            ),
        )
    ]
