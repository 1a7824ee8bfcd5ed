"""UV401: the gradient is small because the task has been learned."""

from __future__ import annotations

from collections.abc import Sequence

from unvanish.decide.limits import CONVERGED, STATIONARY, VANISHED
from unvanish.decide.stationary import is_stationary
from unvanish.records import Evidence, Flow, LayerFlow, LossFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import any_constant_does
from unvanish.rules.wording import factor, judged, names, subject, weakest
from unvanish.words.numbers import percent


@rule(
    "UV401",
    "converged",
    "converged",
    tier="remarks",
    levels=("note",),
    needs=("loss",),
    fires_on=("converged-digits", "least-squares-optimum"),
    silent_on=(
        "stuck-sigmoid-10", "sigmoid-20", "relu-he-20", "loss-scaled-1e-6", "underflow-loss-1e-42", "plateau",
        "small-cnn", "slow-quadratic",
    ),
)  # fmt: skip
def converged(flow: Flow, *, threshold: float = CONVERGED) -> list[Statement]:
    """Hardly anything is left to learn: the gradient is small because the outputs are already right.

    Example: a network trained on the digits until its loss is a ten-thousandth of what it was. All its gradients are
    tiny, and nothing is wrong with it.

    Why: a gradient is the product of how strongly the outputs depend on a layer and what the loss still asks of the
    outputs. A check that looks at the product alone cannot tell a finished training from a fault; the second factor has
    to be looked at on its own.

    Evidence: the loss above its floor, as a share of the larger of itself and the loss of the best constant output,
    below ``threshold``; or a Gauss-Newton decrement below a thousandth of that scale at a loss better than any constant
    output's, or, where a constant is the answer itself as 0 is for the residual of an equation, at any loss: then it is
    said that nothing tells how good that is. Where the loss has no such scale nothing is called converged.

    What helps: nothing needs help. For further progress: more data, a harder task, or stop.

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.2; Bottou, Curtis & Nocedal 2018, Optimization
    methods for large-scale machine learning.
    """
    layers = judged(flow, "converged")
    gap = None if flow.loss is None else flow.loss.relative_gap
    if not layers or any_constant_does(flow) or (gap is None and not is_stationary(flow)):
        return []
    if gap is not None and gap < threshold:
        left = percent(max(gap, 0.0))
        message = f"{subject(flow, layers, 'has', 'have')} learned the task: {left}"
        message += " of the achievable reduction of the loss remains."
        evidence = Evidence(name="relative_gap", value=gap, relation="<", threshold=threshold)
    elif is_stationary(flow):
        promise = f"a quadratic model promises only {percent(flow.decrement)}"
        if _beaten(flow.loss):
            message = (
                f"{subject(flow, layers, 'stands', 'stand')} still: {promise} of the loss. That it is a good place to"
                " stand is not known: the best constant output has less, as where the outputs are residuals that"
                " should be 0, so nothing tells how low a loss the network could reach."
            )
        else:
            message = (
                f"{subject(flow, layers, 'has', 'have')} reached an optimum better than any constant output: {promise}"
                " of the achievable reduction of the loss."
            )
        evidence = Evidence(name="decrement", value=flow.decrement, relation="<", threshold=STATIONARY)
    else:
        return []
    return [
        Statement(
            layers=names(layers),
            cause="nothing left to gain",
            message=message + _signal(flow, layers),
            evidence=(evidence,),
        )
    ]


def _beaten(loss: LossFacts | None) -> bool:
    return loss is not None and loss.best_constant is not None and loss.value > loss.best_constant


def _signal(flow: Flow, layers: Sequence[LayerFlow]) -> str:
    """Why it is not a vanished gradient, or which layers would have one on a new task."""
    weak = [layer for layer in layers if layer.log10_transmission is not None and layer.log10_transmission < VANISHED]
    if weak:
        who = subject(flow, weak, "would hardly learn", "would hardly learn")
        return f" On a new task {who}: little signal arrives."
    least = weakest(layers)
    if least is None:
        return ""
    return f" It is not vanished: the signal arrives everywhere (transmission at least {factor(least)})."
