"""UV901: what this check could not tell."""

from __future__ import annotations

import math

from unvanish.decide import UNJUDGED
from unvanish.decide.stationary import gap_is_known
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names


@rule(
    "UV901",
    "undecided",
    "undecided",
    tier="undecided",
    levels=("error", "note"),
    needs=(),
    fires_on=("clamped-loss", "flat-loss"),
    silent_on=("relu-he-20", "sigmoid-20", "converged-digits", "nonfinite-log", "small-cnn", "small-gpt"),
)
def undecided(flow: Flow) -> list[Statement]:
    """The check could not tell, and says so: a guess would be worse than no answer.

    Example: a loss that is unbounded below, such as a plain sum of the outputs, has no scale by which anything could
    be called converged. A model all of whose layers are frozen has nothing to judge.

    Why: every verdict needs certain numbers. Where one is missing or is not a number the layer is left open, never
    healthy.

    Evidence: the number of layers that were judged, and the reasons one by one. An error where not a single layer was
    judged, because then nothing at all is known; a note otherwise. What was not asked for, as while a training runs, is
    no open question, but for a gradient of exactly zero whose reason was left out: that is a note. So is a running
    training of which no layer can be seen, such as a compiled one.

    What helps: what each reason says; often a larger batch, a loss given apart from the model, or thawed layers.

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.2, on why small gradients alone decide
    nothing.
    """
    known = [layer for layer in flow.layers if layer.verdict not in UNJUDGED]
    failed, left_out = judged(flow, "undecided"), judged(flow, "not_asked")
    layers = (*failed, *(layer for layer in left_out if layer.log10_grad_norm == -math.inf))
    if flow.nonfinite or not (layers or _other_questions(flow, bool(known), bool(left_out))):
        return []
    unseen = not flow.layers and not flow.asks("loss")  # in a running training, whose layers may be hidden
    reasons = "; ".join(f"{what}: {why}" for what, why in flow.undecided)
    if known:
        message = f"Some questions stay open: {reasons}."
    elif not flow.layers:
        why = "of none of them an error signal was seen" if unseen else "the model has no parameters"
        message = f"No layer could be judged: {reasons or why}."
    else:
        message = f"No layer could be judged: {reasons or 'all of them are frozen or unused'}."
    return [
        Statement(
            level="note" if known or unseen or (left_out and not failed) else "error",
            layers=names(layers),
            cause="",
            message=message,
            evidence=(
                Evidence(
                    name="layers judged", value=float(len(known)), relation="of", threshold=float(len(flow.layers))
                ),
            ),
        )
    ]


def _other_questions(flow: Flow, known: bool, left_out: bool) -> bool:
    """Whether something is open where no layer is: what the loss asks of all, or that there is nothing to judge."""
    return not left_out if not known else flow.asks("loss") and not gap_is_known(flow.loss)
