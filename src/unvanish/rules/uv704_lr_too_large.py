"""UV704: the optimizer's steps raise the loss, and smaller ones lower it."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Finding, Flow
from unvanish.rules import rule
from unvanish.rules.conditions import steps_to_judge


@rule(
    "UV704",
    "lr_too_large",
    "learning rate too large",
    order=13,
    fires_on=("lr-too-large", "lr-too-large-adam"),
    silent_on=(
        "lr-recovers", "least-squares-optimum", "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50",
        "preln-transformer-6", "selu-20", "batchnorm-relu-20", "unet-small", "converged-digits", "sigmoid-20",
        "lr-too-small", "chaotic-tanh-50",
    ),
)  # fmt: skip
def lr_too_large(flow: Flow, *, rise: float = 0.5, least: float = 0.1) -> list[Finding]:
    """Each step overshoots: the loss goes up instead of down, and stays up.

    Example: SGD with a learning rate of 10 on a small classifier. The first step raises the loss from 2.4 to 23; a
    tenth of the same step lowers it.

    Why: the gradient is right only near where it was taken. A step longer than the valley is wide ends higher on the
    other side; on a quadratic that begins at a rate of 2 over the largest curvature.

    Evidence: the optimizer's own next step raises the loss of this batch by more than ``rise`` of what is left to gain,
    a smaller multiple of the same step lowers it, and after several steps really taken (and taken back) the loss is
    still that much above the start, or not finite. A first step that later ones make good is no fault. Near the end,
    where a rise is less than ``least`` of what there was to gain, a rate that hops about is no fault either.

    What helps: a learning rate 3 to 10 times smaller, a warm-up, clipping the gradient.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 5; Goodfellow, Bengio & Courville 2016, Deep
    Learning, section 8.3.
    """
    known = steps_to_judge(flow)
    if known is None or flow.loss is None or flow.loss.reference is None:
        return []
    step, gap = known
    first = dict(step.ladder).get(1.0)
    allowed = max(rise * gap, least * flow.loss.reference)
    if first is None or step.walked is None or step.best is None or not step.best < 1.0:
        return []
    if first - step.loss <= allowed or step.walked - step.loss <= allowed:
        return []
    end = f"{step.walked:.3g}" if math.isfinite(step.walked) else "no longer finite"
    message = (
        f"The next step raises the loss from {step.loss:.3g} to {first:.3g}, and after several such steps it is {end}:"
        f" {step.optimizer} with a learning rate of {step.lr:.3g} steps too far. {step.best:g} of the same step lowers"
        f" the loss to {dict(step.ladder)[step.best]:.3g}, so the direction is right: it is not a wrong gradient."
        " On this batch."
    )
    return [
        Finding(
            code="UV704",
            verdict="lr_too_large",
            level="error",
            cause="learning rate",
            message=message,
            evidence=(
                Evidence(name="rise of the loss by one step", value=first - step.loss, relation=">", threshold=allowed),
                Evidence(
                    name="rise of the loss after the steps really taken",
                    value=step.walked - step.loss, relation=">", threshold=allowed,
                ),
                Evidence(name="best multiple of the step", value=step.best, relation="<", threshold=1.0),
            ),
            remedies=("lr-0.1", "lr-0.01", "warmup", "clip-gradients"),
        )
    ]  # fmt: skip
