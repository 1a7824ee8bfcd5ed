"""UV601: layers that were told not to learn."""

from __future__ import annotations

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, subject, together


@rule(
    "UV601",
    "frozen",
    "frozen layers",
    tier="remarks",
    levels=("note",),
    needs=(),
    fires_on=("frozen-backbone", "generator-frozen-discriminator"),
    silent_on=("relu-he-20", "unused-layer", "sigmoid-20", "small-cnn", "small-gpt", "zero-head"),
)
def frozen(flow: Flow) -> list[Statement]:
    """The layer does not learn because it was told not to: none of its parameters asks for a gradient.

    Example: ``backbone.requires_grad_(False)`` before a new head is trained on old features.

    Why: fine-tuning freezes layers on purpose. The note says which, so that a forgotten switch is seen.

    Evidence: ``requires_grad`` is off for every parameter of the layer; the number of parameters held still.

    A batch normalisation in train mode goes on to normalise by the batch and to move its running statistics, frozen or
    not: then the frozen features change all the same, and are others in eval mode. The note says so.

    What helps: nothing needs help; ``requires_grad_(True)`` thaws the layer, and ``eval()`` of
    a frozen normalisation keeps its statistics.

    Source: Yosinski, Clune, Bengio & Lipson 2014, How transferable are features in deep neural networks?
    """
    layers = judged(flow, "frozen")
    if not layers:
        return []
    who = subject(flow, layers, "is", "are")
    still, every = sum(layer.parameters for layer in layers), sum(layer.parameters for layer in flow.layers)
    message = f"{who} frozen: requires_grad is off for {still:,} of {every:,} parameters."
    drifting = () if flow.next_step is None else flow.next_step.drifting
    if drifting:
        message += (
            f" {together(drifting, flow)} {'is' if len(drifting) == 1 else 'are'} in train mode still, so each forward"
            " pass normalises by its batch and moves the running statistics: their own eval() keeps these."
        )
    return [
        Statement(
            layers=names(layers),
            cause="requires_grad is off",
            message=message,
            evidence=(Evidence(name="frozen parameters", value=float(still)),),
        )
    ]
