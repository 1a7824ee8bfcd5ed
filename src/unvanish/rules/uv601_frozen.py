"""UV601: layers that were told not to learn."""

from __future__ import annotations

from collections.abc import Sequence

from unvanish.records import Evidence, Finding, Flow, LayerFlow
from unvanish.rules import rule
from unvanish.rules.wording import judged, names, subject


@rule(
    "UV601",
    "frozen",
    "frozen layers",
    order=18,
    fires_on=("frozen-backbone", "generator-frozen-discriminator"),
    silent_on=("relu-he-20", "unused-layer", "sigmoid-20", "small-cnn", "small-gpt", "zero-head"),
)
def frozen(flow: Flow) -> list[Finding]:
    """The layer does not learn because it was told not to, or because no optimizer holds any of its parameters.

    Example: ``backbone.requires_grad_(False)`` before a new head is trained on old features; an optimizer that was
    built before a layer was added, or over ``model.head.parameters()`` alone.

    Why: fine-tuning freezes layers on purpose, and adversarial networks are trained with an optimizer for each part.
    The note says which layers stand still, so that a forgotten switch or a forgotten layer is seen.

    Evidence: ``requires_grad`` is off for every parameter of the layer, or the layer has a gradient and none of its
    parameters stands in a group of an optimizer that was given; the number of parameters held still.

    What helps: nothing needs help where it is meant; ``requires_grad_(True)`` thaws a layer, and an optimizer over
    ``model.parameters()`` moves every one.

    Source: Yosinski, Clune, Bengio & Lipson 2014, How transferable are features in deep neural networks?
    """
    layers = judged(flow, "frozen")
    every = sum(layer.parameters for layer in flow.layers)
    findings: list[Finding] = []
    if layers:
        still = sum(layer.parameters for layer in layers)
        who = subject(flow, layers, "is", "are")
        message = f"{who} frozen: requires_grad is off for {still:,} of {every:,} parameters."
        findings.append(_note(layers, "requires_grad is off", message, "frozen parameters", still))
    unheld = [layer for layer in flow.layers if layer.name in flow.unheld]
    if unheld:
        still = sum(layer.parameters for layer in unheld)
        who = subject(flow, unheld, "is", "are")
        message = (
            f"{who} held by no optimizer that was given ({flow.setting.optimizer}): {still:,} of {every:,} parameters"
            " have a gradient, and no step moves them."
        )
        findings.append(_note(unheld, "no optimizer holds it", message, "parameters without an optimizer", still))
    return findings


def _note(layers: Sequence[LayerFlow], cause: str, message: str, name: str, still: int) -> Finding:
    return Finding(
        code="UV601",
        verdict="frozen",
        level="note",
        layers=names(layers),
        cause=cause,
        message=message,
        evidence=(Evidence(name=name, value=float(still)),),
    )
