"""UV505: the optimizer's next step makes weights, or its own state, infinite or not a number."""

from __future__ import annotations

from unvanish.records import Evidence, Flow, NextStep
from unvanish.rules import Statement, rule
from unvanish.rules.wording import together


@rule(
    "UV505",
    "nonfinite",
    "the next step is not finite",
    tier="nonfinite",
    levels=("error",),
    needs=("next_step",),
    remedies=("optimizer-eps", "float32-weights", "lr-0.1", "lr-0.01"),
    fires_on=("half-precision-eps", "half-precision-rate", "half-precision-moment"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "converged-digits", "sigmoid-20",
        "lr-too-small", "bfloat16-adamw",
    ),
)  # fmt: skip
def nonfinite_step(flow: Flow) -> list[Statement]:
    """Loss and gradient are finite, but the next step of the optimizer is not: it ruins the network.

    Example: Adam with its usual eps of 1e-8 on float16 weights. The smallest number of float16 is 6e-8, so eps is 0,
    and every entry whose gradient is 0 or whose square underflows is divided by 0.

    Why: an optimizer computes with squares, roots and quotients that leave the range of a type long before the gradient
    does. Afterwards nothing that is measured of the network means anything.

    Evidence: the user's own optimizer, stepped on copies of the weights in their own type; the share of entries that
    are not finite afterwards, and the reason: eps that is 0 in the weights' type, a moment that overflows, a gradient
    that overflows in the weights' type, or a learning rate that leaves the range. RAdam is stepped until it divides by
    its second moment, which is from the sixth step on. While a training is watched: the
    learning rate is not finite, or the weights are not after a step whose loss and gradients were.

    What helps: keep the weights in float32 and compute in 16 bits under autocast; an eps the type can hold (1e-4 for
    float16); for the rate, a smaller one.

    Source: Micikevicius et al. 2018, Mixed precision training; Kingma & Ba 2015, Adam (eps).
    """
    step = flow.next_step
    if step is None or not step.nonfinite or flow.nonfinite:
        return []
    who = together(step.nonfinite, flow)
    message = (
        f"{_which(flow)} of {flow.setting.optimizer} leaves {_what(step)} in {who} infinite or not a number:"
        f" {_why(flow, step)} Loss and gradient are still finite."
    )
    return [
        Statement(
            layers=step.nonfinite,
            cause=step.reason,
            message=message,
            evidence=(
                Evidence(
                    name="share of entries not finite after the step",
                    value=step.nonfinite_share, relation=">", threshold=0.0,
                ),
            ),
            remedies=_remedies(step),
        )
    ]  # fmt: skip


def _which(flow: Flow) -> str:
    """RAdam divides by its second moment from the sixth step on: until then its own numbers are harmless."""
    return "One of the next steps" if flow.setting.optimizer == "RAdam" and flow.steps_taken < 5 else "The next step"


def _remedies(step: NextStep) -> tuple[str, ...]:
    if step.reason == "rate":
        return ("lr-0.1", "lr-0.01")
    return ("optimizer-eps", "float32-weights") if step.reason == "eps" else ("float32-weights",)


def _what(step: NextStep) -> str:
    return f"{step.nonfinite_share:.0%} of the weights" if step.nonfinite_share else "the optimizer's own state"


def _why(flow: Flow, step: NextStep) -> str:
    dtype = step.narrow or flow.setting.dtype
    if step.reason == "eps":
        return f"its eps of {flow.setting.eps or 1e-8:.0e} is exactly 0 in {dtype}, so it divides by zero."
    if step.reason == "state":
        return f"a moment it keeps overflows in {dtype}, because the gradient's square leaves the type's range."
    if step.reason == "gradient":
        return f"entries of the gradient overflow in {dtype}."
    return f"the learning rate takes the weights beyond the range of {dtype}."
