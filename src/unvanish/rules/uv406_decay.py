"""UV406: weight decay cancels the gradient, or shrinks the weights faster than they can learn."""

from __future__ import annotations

import math

from unvanish.decide import decay_balances
from unvanish.decide.limits import BALANCED, DECAYS_FAST
from unvanish.decide.stationary import has_converged
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import fast_decay_level
from unvanish.words.numbers import number, percent


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
    """Weight decay holds the weights where the loss does not want them: against the gradient, or near zero.

    Example: SGD with a weight decay of 0.3 on a small classifier. After 1,000 steps the gradient is far from zero and
    the loss far from its minimum, yet no weight moves. AdamW at a rate of 1e-3 with a decay of 100 takes a tenth of all
    weights at every step.

    Why: what the optimizer follows is the gradient of the loss plus that of the penalty. At the minimum of the sum the
    loss's own gradient is not zero, and a larger learning rate does not change that. Where the decay is applied to the
    weights themselves they end within one over it (0.01 of a decay of 100), whatever the gradient asks.

    Evidence: |g + λw| / |g| over all weights that decay, below ``threshold``; for decay that is applied to the weights
    themselves (AdamW) the same of the step with and without it. By chance vectors of so many entries never cancel to a
    tenth. An error where the loss is no better than that of a constant output, else a note.

    Before that, the share of the weights that decay alone takes at every step (the rate times the decay), 0.7% or more:
    half of them are gone within 100 steps; ordinary settings take 700 to 70,000. Real steps are then tried and taken
    back, with the decay and without. An error where the loss stays at that of the best constant with it, and comes a
    tenth of the way down without it; a note where the decay costs a tenth of the way; nothing where it costs less, as
    in a network whose weights are all normalised. A note, too, where these steps do not tell: the loss has no scale, or
    comes no tenth of the way without decay either, or layers have vanished, as they do once their weights are gone.

    What helps: a smaller weight decay.

    Source: Krogh & Hertz 1992, A simple weight decay can improve generalization; Loshchilov & Hutter 2019, Decoupled
    weight decay regularization; Xie & Li 2024, Implicit bias of AdamW: l-infinity norm constrained optimization.
    """
    if flow.next_step is None or flow.loss is None or has_converged(flow.loss):
        return []
    return _balanced(flow, threshold) if decay_balances(flow) else _fast(flow)


def _balanced(flow: Flow, threshold: float) -> list[Statement]:
    assert flow.next_step is not None and flow.loss is not None
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


def _fast(flow: Flow) -> list[Statement]:
    """Decay that halves the weights within some tens of steps."""
    step, share = flow.step, None if flow.next_step is None else flow.next_step.decay_share
    level = fast_decay_level(flow)
    if not level or share is None:
        return []
    half = math.ceil(math.log(2.0) / -math.log1p(-share)) if share < 1.0 else 1
    message = (
        f"Weight decay alone takes {percent(share)} of the weights at every step: half of them"
        f" {'are gone in one' if half == 1 else f'are gone in {half}'}, whatever the gradient asks."
    )
    evidence = [Evidence(name="share that decay takes a step", value=share, relation=">=", threshold=DECAYS_FAST)]
    if step is not None and step.decayed is not None and step.undecayed is not None:
        message += (
            f" {step.decayed_after} real steps, tried on this batch and taken back, bring the loss to"
            f" {number(step.decayed)} with it and to {number(step.undecayed)} without."
        )
        evidence.append(Evidence(name=f"loss after {step.decayed_after} steps", value=step.decayed))
        evidence.append(Evidence(name="without weight decay", value=step.undecayed))
    if level == "error":
        message += f" That of the best constant output is {number((flow.loss and flow.loss.best_constant) or 0.0)}."
    return [Statement(level=level, cause="weight decay", message=message, evidence=tuple(evidence))]
