"""UV501: the forward pass produces inf or nan."""

from __future__ import annotations

from unvanish.records import CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import call_place, factor, names

OUTGROWING = 4.0
"""log10 of an rms from which numbers are on their way out of a type's range: float16 ends at 4.8."""


@rule(
    "UV501",
    "nonfinite",
    "non-finite forward pass",
    tier="nonfinite",
    levels=("error",),
    needs=("nonfinite",),
    remedies=("centred-sigmoid", "activation-tanh", "standardise-inputs"),
    fires_on=("nonfinite-log", "overflow-exp"),
    silent_on=(
        "nonfinite-sqrt0",
        "relu-he-20",
        "sigmoid-50",
        "small-gpt",
        "small-cnn",
        "chaotic-tanh-50",
        "exploding-linear-30",
    ),
)
def nonfinite_forward(flow: Flow, *, large_log10_rms: float = OUTGROWING) -> list[Statement]:
    """The forward pass produces a number that is not finite, so every gradient after it is meaningless.

    Example: the logarithm of a negative number is nan; ``exp(100)`` is inf in float32.

    Why: inf and nan spread. One of them in one output makes the loss nan, and one optimizer step then makes every
    weight nan. The place to look at is the first call whose inputs are still finite: everything later is only a
    consequence.

    Evidence: the first such call, and the largest size (log10 rms) of a finite result before it. At or above
    ``large_log10_rms`` the cause is growth (overflow), below it the call itself at a bad point.

    What helps: for overflow, a bounded activation or standardised inputs. For a bad point, change the call: a
    logarithm of a clamped value, log_softmax instead of log of softmax.

    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic; IEEE 754-2019.
    """
    if flow.nonfinite != "forward":
        return []
    birth = next((call for call in flow.calls if call.index == flow.nonfinite_call), None)
    before = _largest_before(flow, birth)
    overflow = before is not None and before >= large_log10_rms
    message = f"The forward pass is not finite from {call_place(birth)} on: its result holds inf or nan"
    message += ", its inputs do not." if birth is not None else "."
    if before is not None:
        message += f" The largest values before it have an rms of {factor(before)}"
        message += (
            ": they have outgrown the number type." if overflow else ": the call was asked outside its domain or range."
        )
    evidence = [Evidence(name="index of the first call with a non-finite result", value=_number(flow.nonfinite_call))]
    if before is not None:
        evidence.append(Evidence(name="largest log10_rms before it", value=before, threshold=large_log10_rms))
    return [
        Statement(
            layers=names(flow.layers),
            cause="overflow" if overflow else birth.name if birth is not None else "",
            message=message,
            evidence=tuple(evidence),
            remedies=None if overflow else (),
        )
    ]


def _largest_before(flow: Flow, birth: CallFlow | None) -> float | None:
    """log10 of the largest rms among the finite results before the call, or None where none was measured."""
    before = [call for call in flow.calls if birth is not None and call.index < birth.index and call.finite]
    return max((call.log10_rms for call in before if call.log10_rms is not None), default=None)


def _number(index: int | None) -> float | None:
    return None if index is None else float(index)
