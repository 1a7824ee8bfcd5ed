"""UV404: the learning rate is as large as the sharpest direction allows, and far too small for the others."""

from __future__ import annotations

from unvanish.decide import CRAWL
from unvanish.records import Evidence, Flow, StepFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import OF_ONE_LOOK, part_of_layers, steps_to_judge
from unvanish.rules.pace import little_gained, planned
from unvanish.rules.wording import about

HALF_A_RUNG = 10.0**0.5
"""Multiples are tried in tenfold steps: the best one is known to within half of that."""


@rule(
    "UV404",
    "slow",
    "slow curvature",
    tier="slow",
    levels=("error", "note"),
    needs=("loss", "step"),
    remedies=("standardise-inputs", "batchnorm", "optimizer-adam"),
    fires_on=("slow-quadratic", "slow-linear-10", "ravine"),
    silent_on=(
        "lr-too-small", "lr-too-large", "least-squares-optimum", "relu-he-20", "small-cnn", "residual-50", "plateau",
        "output-scale", "stuck-sigmoid-10",
    ),
)  # fmt: skip
def slow_curvature(flow: Flow, *, multiple: float = 100.0, near: float = 0.1, steps: float = CRAWL) -> list[Statement]:
    """Plain gradient descent crawls: its learning rate is near its limit, and the distance left needs a far larger one.

    Example: two features of which one is 300 times larger than the other. The steep direction allows a rate of 1; the
    flat one, where all of the error is left, would need 100,000.

    Why: gradient descent diverges beyond 2/λ_max, the limit the sharpest curvature sets, and advances along a flat
    direction in proportion to rate times curvature. With curvatures far apart no single rate suits both.

    Evidence: λ_max of the Hessian by Lanczos steps. The step that lowers the loss most, in units of 1/λ_max, is greater
    than ``multiple``, less the half of a tenfold step to which it is known; the learning rate in the same units is
    greater than ``near``; more than ``steps`` steps are needed to close 90% of the gap; and steps really taken closed
    less than a tenth of it. Only for SGD. Without momentum and decay the same is asked after a few real steps, where
    they and the best step along the gradient win less than half of the gap: off the floor of a ravine one step wins
    across it, and says nothing of the way along. Then it is a note: a network that leaves a flat stretch by itself
    looks the same, and the pace may change. A note, too, where the best step is less than that and ``multiple`` times
    the next one or longer, and more than ten times the planned steps are needed: so long a step would mean too small a
    rate, were it not near its limit. Where layers are frozen, or no optimizer holds them, it is one, too.

    What helps: standardised or whitened inputs, batch normalisation, an adaptive or second-order optimizer.

    Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, section 5; Nocedal & Wright 2006, Numerical
    optimization, section 3.3.
    """
    known = steps_to_judge(flow)
    small = flow.inputs is not None and flow.inputs.small  # flat is what small inputs make so: UV707
    if known is None or small or any(layer.verdict == "exploding" for layer in flow.layers):
        return []
    step, gap = known
    if step.optimizer != "SGD" or not step.lr_limit or step.best is None or step.needed is None:
        return []
    rate = 2.0 * step.lr / step.lr_limit  # lr · λ_max
    limit = multiple / HALF_A_RUNG
    if not (rate > near and step.needed > steps and (step.after or little_gained(step, gap))):
        return []
    far_apart = step.best * rate > limit
    late = step.needed > OF_ONE_LOOK * planned(step)  # which leaves more than the planned steps at half of the limit
    if not far_apart and not (step.best >= multiple and late and step.walked_scaled is None):  # no larger rate did well
        return []
    length = (
        Evidence(name="best step in units of 1/λ_max", value=step.best * rate, relation=">", threshold=limit)
        if far_apart
        else Evidence(name="best multiple of the step", value=step.best, relation=">=", threshold=multiple)
    )
    least = steps if far_apart else max(steps, OF_ONE_LOOK * planned(step))
    return [
        Statement(
            level="note" if step.after or part_of_layers(flow) or not far_apart else "error",
            cause="curvatures far apart",
            message=_message(step, step.best, step.needed),
            evidence=(
                length,
                Evidence(name="learning rate in units of 1/λ_max", value=rate, relation=">", threshold=near),
                Evidence(name="steps needed", value=step.needed, relation=">", threshold=least),
            ),
        )
    ]


def _message(step: StepFacts, best: float, needed: float) -> str:
    first = (
        f"Once {step.after} steps, tried and taken back, have settled the steep directions: at" if step.after else "At"
    )
    return (
        f"{first} this pace 90% of the achievable reduction takes about {about(needed)} steps: the best step would be"
        f" {best:,.0f} times as long, along a flat direction, while the steepest one allows a learning rate of"
        f" {step.lr_limit:.3g} at most (now {step.lr:.3g}). It is not that the learning rate is too small: one above"
        " that diverges. The curvatures are too far apart."
    )
