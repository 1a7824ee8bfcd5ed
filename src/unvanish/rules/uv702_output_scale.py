"""UV702: the targets are of another order of magnitude than the outputs."""

from __future__ import annotations

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import FAR, OF_ONE_LOOK, far_outputs, planned
from unvanish.rules.wording import about
from unvanish.words.numbers import number


@rule(
    "UV702",
    "output_scale",
    "output scale",
    tier="outputs",
    levels=("error", "note"),
    needs=("loss", "step", "output"),
    remedies=("scale-targets",),
    fires_on=("output-scale", "output-scale-relu"),
    silent_on=(
        "zero-head", "relu-he-20", "small-cnn", "small-gpt", "lstm", "unet-small", "residual-50", "output-range",
        "lr-too-small", "converged-digits", "saturated-tanh",
    ),
)  # fmt: skip
def output_scale(flow: Flow, *, far: float = FAR) -> list[Statement]:
    """The loss asks the outputs to move by many times their size, which takes the optimizer very many steps.

    Example: targets around 1,000 for a network whose outputs start near 0 and move by a thousandth a step.

    Why: networks are initialised for outputs of about unit size, and adaptive optimizers move each weight by about the
    learning rate a step, whatever the loss. A distance of thousands is thousands of steps before any detail is learned.

    Evidence: the rms of the move to the best free outputs over the rms of the outputs (0.1 at least), greater than
    ``far``. An error only where ten times as many steps are needed as planned (10,000 if none are given), at the pace
    of the first, and steps really taken left more than nine tenths of the gap; else a note.

    What helps: standardised targets, or a last layer whose bias and scale start at theirs.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 4; Karpathy 2019, A recipe for training neural
    networks (initialise the final bias well).
    """
    too_slow = far_outputs(flow, far)
    output, step = flow.output, flow.step
    if too_slow is None or output is None or output.wanted is None or output.rms is None:
        return []
    times = output.wanted / max(output.rms, 0.1)
    message = (
        f"The loss asks the outputs to move by {number(output.wanted)} (rms), {about(times)} times their own size"
        f" ({number(output.rms)})."
    )
    evidence = [Evidence(name="wanted move over the size of the outputs", value=times, relation=">", threshold=far)]
    if too_slow and step is not None and step.needed is not None:
        message += (
            f" At the present pace that takes about {about(step.needed)} steps, and {planned(step):,} are"
            f" {'planned' if step.planned is not None else 'assumed'}. The layers are not at fault: the signal reaches"
            " them, only the targets are on another scale."
        )
        evidence.append(
            Evidence(name="steps needed", value=step.needed, relation=">", threshold=OF_ONE_LOOK * planned(step))
        )
    return [
        Statement(
            level="error" if too_slow else "note",
            cause="scale of the targets",
            message=message,
            evidence=tuple(evidence),
        )
    ]
