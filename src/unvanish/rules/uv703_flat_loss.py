"""UV703: the loss does not change when the outputs do, although it has a gradient."""

from __future__ import annotations

import math

from unvanish.decide.limits import FLAT
from unvanish.decide.stationary import is_flat
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, subject
from unvanish.words.numbers import number


@rule(
    "UV703",
    "flat_loss",
    "flat loss",
    tier="flat_loss",
    levels=("error",),
    needs=("loss",),
    fires_on=("flat-loss", "flat-loss-regression"),
    silent_on=(
        "clamped-loss", "converged-digits", "loss-scaled-1e-6", "underflow-loss-1e-42", "relu-he-20", "small-cnn",
        "small-gpt", "plateau", "stuck-sigmoid-10",
    ),
)  # fmt: skip
def flat_loss(flow: Flow) -> list[Statement]:
    """The number the loss returns does not move, however much the outputs do.

    Example: a penalty of 10^9 is added to a cross-entropy of 2. Float32 keeps seven digits, so the sum is 10^9 before
    and after any step; a run that watches it sees nothing happen.

    Why: the gradient of the small part may still be right, but what is printed, compared, and used to stop early or to
    lower the learning rate is the large part alone.

    Evidence: the outputs halved, enlarged by half and disturbed by noise of their own size change the loss by less than
    a millionth of itself, and no step that was tried lowers it by more, while the layers have a gradient that is not
    zero. Where that is zero too UV604 speaks.

    What helps: take the large constant out of the loss, or report its parts apart.

    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic.
    """
    loss = flow.loss
    live = [layer for layer in judged(flow, "no_signal") if layer.log10_grad_norm not in (None, -math.inf)]
    if loss is None or not is_flat(flow) or not live:
        return []
    message = (
        f"The loss, {number(loss.value)}, changes by less than a millionth of itself when the outputs are halved,"
        " enlarged or disturbed, so it cannot show whether anything is learned: its larger part does not depend on"
        f" them. {subject(flow, live, 'does', 'do')} have a gradient: it is not that the loss is cut off from the"
        " outputs."
    )
    return [
        Statement(
            layers=names(live),
            cause="flat loss",
            message=message,
            evidence=(
                Evidence(name="loss reacts to the outputs", value=0.0, relation="<", threshold=FLAT),
                Evidence(name="residual_norm", value=loss.residual_norm),
            ),
        )
    ]
