"""UV704: the optimizer's steps raise the loss, and smaller ones lower it."""

from __future__ import annotations

import math

from unvanish.decide.limits import VANISHED
from unvanish.records import Evidence, Flow, LossFacts, RateTrial, StepFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import regained, steps_to_judge
from unvanish.rules.wording import factor, together, weakest
from unvanish.words.numbers import number

STUCK = 0.95
"""Share of the loss of the best constant output: what has not fallen below has learned nothing of the inputs."""


@rule(
    "UV704",
    "lr_too_large",
    "learning rate too large",
    tier="learning_rate",
    levels=("error", "note"),
    needs=("loss", "step"),
    remedies=("lr-0.1", "lr-0.01", "warmup", "clip-gradients"),
    fires_on=("lr-too-large", "lr-too-large-adam", "postnorm-large-rate"),
    silent_on=(
        "lr-recovers", "least-squares-optimum", "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50",
        "preln-transformer-6", "selu-20", "batchnorm-relu-20", "unet-small", "converged-digits", "sigmoid-20",
        "lr-too-small", "chaotic-tanh-50", "postnorm-small-rate",
    ),
)  # fmt: skip
def lr_too_large(flow: Flow, *, rise: float = 0.5, least: float = 0.1) -> list[Statement]:
    """Each step overshoots: the loss goes up instead of down, and stays up.

    Example: SGD with a learning rate of 10 on a small classifier. The first step raises the loss from 2.4 to 23; a
    tenth of the same step lowers it.

    Why: the gradient is right only near where it was taken. A step longer than the valley is wide ends higher on the
    other side; on a quadratic that begins at a rate of 2 over the largest curvature.

    Evidence: the optimizer's own next step raises the loss of this batch by more than ``rise`` of the reduction left,
    a smaller multiple of the same step lowers it, and after several steps really taken (and taken back) the loss is
    still that much above the start, or not finite; or it is no better than that of the best constant output, and layers
    that had a gradient have exactly none: all of their units were thrown onto their flat side, or those that follow. A
    first step that later ones make good is no fault; a note where it takes up to 800 steps, really taken too, to half
    of the reduction, or from a loss twice that of the best constant to below it. Near the end, where a rise is less
    than ``least`` of the achievable reduction, a loss that fluctuates is no fault either.
    Networks that normalise their stream after each of many additions (post-norm transformers) are tried further: six
    real steps at the rate, then as many at three times the rate where the signal survives, at a tenth where it does
    not, taken back each time. It is an error where the signal vanishes at the rate itself, the loss is left at that of
    the best constant output, and a tenth of the rate keeps the signal; a note where it vanishes at three times the rate
    only.

    What helps: a learning rate 3 to 10 times smaller, a warm-up, clipping the gradient.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 5; Goodfellow, Bengio & Courville 2016, Deep
    Learning, section 8.3; Xiong et al. 2020, On layer normalization in the transformer architecture.
    """
    known = steps_to_judge(flow)
    if known is None or flow.loss is None or flow.loss.reference is None:
        return []
    step, gap = known
    return _overshoots(flow, step, gap, rise, least) or _loses_the_signal(flow, step, gap)


def _overshoots(flow: Flow, step: StepFacts, gap: float, rise: float, least: float) -> list[Statement]:
    assert flow.loss is not None and flow.loss.reference is not None
    first = dict(step.ladder).get(1.0)
    allowed = max(rise * gap, least * flow.loss.reference)
    if first is None or step.walked is None or step.best is None or not step.best < 1.0:
        return []
    stays_up = not step.walked - step.loss <= allowed  # so, too, where it is not a number
    if first - step.loss <= allowed or not (stays_up or _silences(flow.loss, step, gap)):
        return []
    back = regained(flow)
    later = "" if back is None else f" {back.regained_after} of them bring it to {number(back.regained)}."
    end = number(step.walked) if math.isfinite(step.walked) else "no longer finite"
    rate = "the rate that it finds by itself" if math.isnan(step.lr) else f"a learning rate of {step.lr:.3g}"
    if not stays_up:
        end += f", no better than a constant, and no gradient at all reaches {together(step.silenced, flow)}"
    message = (
        f"The next step raises the loss from {number(step.loss)} to {number(first)}, and after several such steps it"
        f" is {end}: {step.optimizer} with {rate} steps too far. {step.best:g} of the same step lowers the"
        f" loss to {number(dict(step.ladder)[step.best])}, so the direction is right: it is not a wrong"
        f" gradient.{later} On this batch."
    )
    return [
        Statement(
            level="error" if back is None else "note",
            cause="learning rate",
            message=message,
            evidence=(
                Evidence(name="rise of the loss by one step", value=first - step.loss, relation=">", threshold=allowed),
                Evidence(
                    name="rise of the loss after the steps really taken",
                    value=step.walked - step.loss, relation=">" if stays_up else "", threshold=allowed,
                ),
                *(() if stays_up else (Evidence(name="layers without a gradient then", value=len(step.silenced)),)),
                Evidence(name="best multiple of the step", value=step.best, relation="<", threshold=1.0),
            ),
        )
    ]  # fmt: skip


def _silences(loss: LossFacts, step: StepFacts, gap: float) -> bool:
    """Whether the steps really taken leave layers without a gradient, at a loss no better than the best constant's."""
    if not step.silenced or step.walked is None or loss.best_constant is None:
        return False
    floor = step.loss - gap
    return step.walked - floor >= STUCK * (loss.best_constant - floor)


def _loses_the_signal(flow: Flow, step: StepFacts, gap: float) -> list[Statement]:
    """What real steps at multiples of the rate left of the signal: gone at this rate, or only at a larger one."""
    lost = [t for t in flow.rates if t.log10_transmission is not None and t.log10_transmission < VANISHED]
    kept = next((t for t in flow.rates if t not in lost and t.log10_transmission is not None), None)
    if not lost or kept is None or len(lost) + 1 != len(flow.rates):  # some of them gave no finite numbers
        return []
    first = min(lost, key=lambda t: t.scale)  # the smallest rate at which it is lost
    here = first.scale <= 1.0
    now = next((t for t in flow.rates if t.scale == 1.0), first)
    constant = step.loss if flow.loss is None or flow.loss.best_constant is None else flow.loss.best_constant
    floor = step.loss - gap
    if here and not now.loss - floor >= STUCK * (constant - floor):
        return []
    start = weakest(a for a in flow.layers if a.log10_transmission is not None and a.log10_transmission > VANISHED)
    before = "" if start is None else f" from {factor(start)}"
    message = (
        f"{first.steps} steps of {step.optimizer} at a learning rate of {first.lr:.2g} lose the signal: the smallest"
        f" transmission of a layer falls{before} to {factor(first.log10_transmission)}; below {factor(VANISHED)} it has"
        f" vanished. As many at {kept.lr:.2g} leave it at {factor(kept.log10_transmission)}. "
        + (
            "The present rate is too large for this network, whose layers are normalised after every addition; before"
            " the first step nothing has vanished."
            if here
            else f"The limit is less than a factor {first.scale:.0f} above the present rate of {step.lr:.2g}: other"
            " batches or a longer training may pass it."
        )
        + " On this batch."
    )
    return [
        Statement(
            level="error" if here else "note",
            cause="learning rate",
            message=message,
            evidence=tuple(_left(t) for t in flow.rates),
            remedies=("warmup", "lr-0.1", "clip-gradients"),
        )
    ]


def _left(trial: RateTrial) -> Evidence:
    relation = "<" if (trial.log10_transmission or 0.0) < VANISHED else ">="
    name = f"log10 transmission after {trial.steps} steps at a learning rate of {trial.lr:.2g}"
    return Evidence(name=name, value=trial.log10_transmission, relation=relation, threshold=VANISHED)
