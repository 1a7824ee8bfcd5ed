"""UV701: the last activation cannot produce the outputs the targets ask for."""

from __future__ import annotations

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import UNREACHABLE, takes_logits
from unvanish.rules.wording import place
from unvanish.words.numbers import number, percent


@rule(
    "UV701",
    "output_range",
    "output range",
    tier="outputs",
    levels=("error",),
    needs=("output",),
    remedies=("output-layer", "scale-targets"),
    fires_on=("output-range", "output-range-relu"),
    silent_on=(
        "chain-20", "generator-frozen-discriminator", "least-squares-optimum", "relu-he-20", "unet-small", "small-cnn",
        "double-softmax", "relu-on-logits", "sigmoid-output", "output-scale", "plateau",
    ),
)  # fmt: skip
def output_range(flow: Flow, *, threshold: float = UNREACHABLE) -> list[Statement]:
    """The targets lie outside the range of the last activation, so the loss cannot be reduced further.

    Example: house prices for a network that ends in a sigmoid. The outputs stop at 1, whatever is learned.

    Why: an activation bounds its output. The loss asks for more, the units run into the end of their range, and there
    their slope, and with it the gradient of the whole network, goes to zero.

    Evidence: the lowest loss that any input of the last call can reach, against the lowest of any output, as a share of
    the achievable reduction; more than ``threshold`` is out of reach. The name of the activation is no evidence.

    What helps: no activation after the last layer, or targets scaled into its range.

    Source: Bishop 2006, Pattern recognition and machine learning, section 4.3.6 (canonical link functions).
    """
    output = flow.output
    if output is None or output.kind not in ("bounded", "clipped") or takes_logits(flow):
        return []
    lost = output.unreachable
    if lost is None or not lost > threshold:
        return []
    call = flow.call_at(output.call)
    low = "-∞" if output.low is None else number(output.low)
    high = "∞" if output.high is None else number(output.high)
    message = (
        f"{percent(lost)} of the achievable reduction of the loss is out of reach: the best outputs for these targets"
        f" lie outside {low} … {high}, the range of {place(call)}. The layers may be sound: what stops them is the last"
        " activation."
    )
    return [
        Statement(
            cause="" if call is None else call.name,
            message=message,
            evidence=(Evidence(name="unreachable share of the loss", value=lost, relation=">", threshold=threshold),),
        )
    ]
