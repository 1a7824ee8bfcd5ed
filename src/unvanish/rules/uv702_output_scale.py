"""UV702: the targets are of another order of magnitude than the outputs."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import FAR, OF_ONE_LOOK, far_outputs, shrunk_level
from unvanish.rules.pace import planned
from unvanish.rules.small_targets import BEYOND, small_level, small_targets
from unvanish.rules.wording import about, place
from unvanish.words.numbers import number

AS_LARGE = 0.1
"""Of the best free outputs: targets that large are what they follow."""


@rule(
    "UV702",
    "output_scale",
    "output scale",
    tier="outputs",
    levels=("error", "note"),
    needs=("loss", "step", "output"),
    remedies=("scale-targets",),
    fires_on=("output-scale", "output-scale-relu", "shrunk-logits"),
    silent_on=(
        "zero-head", "relu-he-20", "small-cnn", "small-gpt", "lstm", "unet-small", "residual-50", "output-range",
        "lr-too-small", "converged-digits", "saturated-tanh",
    ),
)  # fmt: skip
def output_scale(flow: Flow, *, far: float = FAR) -> list[Statement]:
    """The loss asks the outputs to move by many times their size, which takes the optimizer very many steps.

    Example: targets around 1,000 for a network whose outputs start near 0 and move by a thousandth a step. Logits that
    are multiplied by a thousandth before a cross-entropy.

    Why: networks are initialised for outputs of about unit size, and adaptive optimizers move each weight by about the
    learning rate a step, whatever the loss. A distance of thousands is thousands of steps before any detail is learned,
    and beside a step of a thousandth targets of a billionth are nothing. A constant behind the last layer makes the
    outputs small and the gradient too, each by its factor.

    Evidence: the rms of the move to the best free outputs over the rms of the outputs (0.1 at least), greater than
    ``far``. An error only where ten times as many steps are needed as planned (10,000 if none are given), at the pace
    of the first, and steps really taken left more than nine tenths of the gap; else a note. Where plain numbers behind
    the last layer leave less than a tenth of the outputs, a tenth of what they leave takes the place of 0.1, and it is
    said only where more steps are needed than planned: an error under SGD, where ten times as many are and steps really
    taken left nine tenths of the gap, or no step that was tried moves the loss at all; else a note, because weights
    that all grow by the step make the outputs of a deep network grow ever faster. Targets too small: the outputs (rms)
    are ``far`` times the best free ones, the loss ``far``² times that of the best constant output, and no layer's
    growth explains it; an error under Adam and its like where real steps leave it at 10^8 times, else a note.

    What helps: standardised targets, or a last layer whose bias and scale start at theirs; no constant there, or one
    that is trained.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 4; Karpathy 2019, A recipe for training neural
    networks (initialise the final bias well).
    """
    if small_targets(flow, far):
        return [_small(flow, far)]
    level, too_slow, output, step = shrunk_level(flow, far), far_outputs(flow, far), flow.output, flow.step
    if output is None or output.wanted is None or output.rms is None or (too_slow is None and not level):
        return []
    times = output.wanted / max(output.rms, 0.1 * (output.shrunk or 1.0) if level else 0.1)
    message = (
        f"The loss asks the outputs to move by {number(output.wanted)} (rms), {about(times)} times their own size"
        f" ({number(output.rms)})."
    )
    if level:
        message += f" {_constant(flow)} leaves {number(output.shrunk or 0.0)} of what the layers give."
    what = "outputs" if level else "targets" if _follow_targets(flow) else "numbers the loss asks for"
    evidence = [Evidence(name="wanted move over the size of the outputs", value=times, relation=">", threshold=far)]
    if (too_slow or level) and step is not None and step.needed is not None:
        message += (
            f" At the present pace that takes {_steps(step.needed)}, and {planned(step):,} are"
            f" {'planned' if step.planned is not None else 'assumed'}. The layers are not at fault: the signal reaches"
            f" them, only the {what} are on another scale."
        )
        limit = planned(step) * (1.0 if level == "note" else OF_ONE_LOOK)
        evidence.append(Evidence(name="steps needed", value=step.needed, relation=">", threshold=limit))
    if level == "note":
        message += " The pace grows as the weights do, so it may take fewer."
    return [
        Statement(
            level=level or ("error" if too_slow else "note"),
            cause=f"scale of the {what}",
            message=message,
            evidence=tuple(evidence),
            remedies=None if what == "targets" else (),
        )
    ]


def _follow_targets(flow: Flow) -> bool:
    """Whether the best outputs have the size of the targets: what only orders or labels them has none they follow."""
    aim, targets = flow.output and flow.output.aim, flow.loss and flow.loss.targets
    return aim is not None and targets is not None and targets > AS_LARGE * aim


def _small(flow: Flow, far: float) -> Statement:
    """Outputs and steps that are large beside the targets."""
    output, loss, step = flow.output, flow.loss, flow.step
    assert output is not None and output.aim is not None and output.rms is not None
    assert loss is not None and loss.best_constant is not None
    smaller = output.rms / output.aim if output.aim > 0.0 else math.inf
    apart = loss.value / loss.best_constant
    message = (
        f"The targets are on a far smaller scale than the outputs: {number(output.aim)} (rms) against"
        f" {number(output.rms)}. The loss, {number(loss.value)}, is {about(apart)} times that of one constant output"
        " for all samples: what tells the targets apart is no part of it that a step could feel, and all it seems to"
        " win is outputs that get smaller."
    )
    evidence = [
        Evidence(name="size of the outputs over that of the targets", value=smaller, relation=">", threshold=far),
        Evidence(name="loss over that of the best constant output", value=apart, relation=">", threshold=far**2),
    ]
    if step is not None and step.regained is not None and math.isfinite(step.regained):
        left = step.regained / loss.best_constant
        message += (
            f" {step.regained_after} real steps of {step.optimizer}, tried and taken back, leave the loss at"
            f" {number(step.regained)}" + (f", {about(left)} times that." if left > 1.0 else ", below that.")
        )
        name = f"the same after {step.regained_after} real steps"
        evidence.append(Evidence(name=name, value=left, relation=">" if left > BEYOND else "<=", threshold=BEYOND))
    return Statement(
        level=small_level(flow),
        cause="scale of the targets",
        message=message + " Standardise the targets.",
        evidence=tuple(evidence),
    )


def _constant(flow: Flow) -> str:
    return f"The constant in {place(None if flow.output is None else flow.call_at(flow.output.call))}"


def _steps(needed: float) -> str:
    return f"about {about(needed)} steps" if math.isfinite(needed) else "more steps than can be counted"
