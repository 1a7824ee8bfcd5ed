"""UV604: the loss asks nothing of the outputs."""

from __future__ import annotations

import math

from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import flat_in_loss
from unvanish.rules.wording import judged, names, subject


@rule(
    "UV604",
    "no_signal",
    "no signal from the loss",
    tier="no_signal",
    levels=("error",),
    needs=("loss",),
    fires_on=("clamped-loss", "detached-loss"),
    silent_on=("converged-digits", "sigmoid-50", "underflow-loss-1e-42", "loss-scaled-1e-6", "dead-relu", "flat-loss"),
)
def no_signal(flow: Flow) -> list[Statement]:
    """The loss sends no signal at all: the outputs depend on the weights, but the loss does not ask them to change.

    Example: ``outputs.detach()`` inside the loss, a loss of rounded or compared outputs such as an accuracy, a clamp
    in which every output lies outside the range.

    Why: backpropagation starts from the derivative of the loss by the outputs. Where that is exactly zero nothing
    after it matters, and "loss does not fall" has its reason here and not in the network.

    Evidence: the norm of the loss's derivative by the outputs, and whether the loss changes when the outputs are
    scaled or disturbed; the layers' own gradient is exactly zero although the outputs depend on them. A true optimum,
    around which the loss rises, is UV401's; a loss that merely hides its movement is UV703's.

    A loss that is exactly 0 whatever the outputs are counts none of the batch, as where all its targets are ignored.

    What helps: a loss that is differentiable in the outputs, and outputs that stay attached to the graph.

    Source: Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors.
    """
    layers = [layer for layer in judged(flow, "no_signal") if layer.log10_grad_norm in (None, -math.inf)]
    if not layers:
        return []
    residual = None if flow.loss is None else flow.loss.residual_norm
    reacts = None if flow.loss is None else flow.loss.reacts
    flat = "the loss stays the same when the outputs are changed"
    cut = "the derivative of the loss by the outputs is exactly zero"
    message = f"{subject(flow, layers, 'gets', 'get')} no signal from the loss: {flat if reacts is False else cut}"
    if reacts is False and residual == 0:
        message += f", and {cut}"
        if flow.loss is not None and flow.loss.value == 0.0:
            message += ". The loss is exactly 0: are all targets of this batch ignored, masked out or weighted with 0?"
    elif reacts and residual == 0:
        message += " although the loss changes with them: "
        message += flat_in_loss(flow) or (
            "is something detached on the way, or does it move in steps, as an argmax or a comparison does?"
        )
    return [
        Statement(
            layers=names(layers),
            cause="flat loss" if reacts is False else "zero derivative of the loss",
            message=message.rstrip("?.") + ("?" if message.endswith("?") else "."),
            evidence=(
                Evidence(name="residual_norm", value=residual, relation="=", threshold=0.0),
                Evidence(name="loss reacts to the outputs", value=None if reacts is None else float(reacts)),
            ),
        )
    ]
