"""UV401: the gradient is small because the task has been learned."""

from __future__ import annotations

from unvanish.decide import CONVERGED, VANISHED
from unvanish.records import Evidence, Finding, Flow
from unvanish.rules import rule
from unvanish.rules.wording import judged, names, subject


@rule(
    "UV401",
    "converged",
    "converged",
    order=18,
    fires_on=("converged-digits",),
    silent_on=("stuck-sigmoid-10", "sigmoid-20", "relu-he-20", "loss-scaled-1e-6", "underflow-loss-1e-42"),
)
def converged(flow: Flow, *, threshold: float = CONVERGED) -> list[Finding]:
    """There is nothing left to gain: the gradient is small because the outputs are already right.

    Example: a network trained on the digits until its loss is a ten-thousandth of what it was. All its gradients are
    tiny, and nothing is wrong with it.

    Why: a gradient is the product of how strongly the outputs depend on a layer and what the loss still asks of the
    outputs. A check that looks at the product alone cannot tell a healthy end from an illness; the second factor has
    to be looked at on its own.

    Evidence: the loss above its floor, as a share of the larger of itself and the loss of the best constant output,
    below ``threshold``. Where the loss has no such scale nothing is called converged.

    What helps: nothing needs help. For further progress: more data, a harder task, or stop.

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.2; Bottou, Curtis & Nocedal 2018, Optimization
    methods for large-scale machine learning.
    """
    layers = judged(flow, "converged")
    gap = None if flow.loss is None else flow.loss.relative_gap
    if not layers or gap is None or not gap < threshold:
        return []
    weak = [layer for layer in layers if layer.log10_transmission is not None and layer.log10_transmission < VANISHED]
    message = (
        f"{subject(flow, layers, 'has', 'have')} learned the task: {max(gap, 0.0):.2g} of the loss is left to gain."
    )
    if weak:
        message += (
            f" On a new task {subject(flow, weak, 'would hardly learn', 'would hardly learn')}: little signal arrives."
        )
    return [
        Finding(
            code="UV401",
            verdict="converged",
            level="note",
            layers=names(layers),
            cause="nothing left to gain",
            message=message,
            evidence=(Evidence(name="relative_gap", value=gap, relation="<", threshold=threshold),),
        )
    ]
