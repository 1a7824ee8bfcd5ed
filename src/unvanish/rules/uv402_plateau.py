"""UV402: no gradient is left, and the network is no better than a constant."""

from __future__ import annotations

from unvanish.decide.limits import STATIONARY
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import factor, judged, names, not_converged, sources, subject, weakest
from unvanish.words.numbers import percent


@rule(
    "UV402",
    "plateau",
    "plateau",
    tier="plateau",
    levels=("error",),
    needs=("loss", "decrement"),
    fires_on=("plateau", "plateau-noise-labels"),
    silent_on=(
        "converged-digits", "least-squares-optimum", "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50",
        "slow-quadratic", "sigmoid-20", "zero-head", "lr-too-small",
    ),
)  # fmt: skip
def plateau(flow: Flow, *, threshold: float = STATIONARY) -> list[Statement]:
    """No small move of the weights lowers the loss, although nothing has been learned.

    Example: targets that have nothing to do with the inputs. Least squares then settles on the mean of the targets;
    its gradient is zero, and no optimizer moves it.

    Why: a gradient is zero at every stationary point, the worst as well as the best. What tells them apart is the loss:
    here it is no lower than that of a constant output, which needs no inputs at all.

    Evidence: the Gauss-Newton decrement, what a quadratic model of the loss in the parameters that receive a signal
    still promises, as a share of the achievable reduction, below ``threshold``; and the loss at 98% or more of that
    of the best constant output. Where a step that was really tried lowers the loss by as much, it is no plateau.

    What helps: see whether the inputs carry the targets at all (shuffled rows, a wrong join); a different start; a
    network that can express the dependence.

    Source: Martens 2010, Deep learning via Hessian-free optimization; Dauphin et al. 2014, Identifying and attacking
    the saddle point problem in high-dimensional non-convex optimization.
    """
    layers = judged(flow, "plateau")
    if not layers or flow.decrement is None or not flow.decrement < threshold:
        return []
    least = weakest(layers)
    reaches = (
        "" if least is None else f" It is not vanished: the signal arrives (transmission at least {factor(least)})."
    )
    message = (
        f"{subject(flow, layers, 'stands', 'stand')} still: in the parameters that receive a signal a quadratic model"
        f" promises only {percent(flow.decrement)} of the achievable reduction, and the loss is no better than that"
        " of a"
        " constant output, because at these weights the per-sample gradients cancel."
        f"{not_converged(flow)}{reaches}{sources(layers)}"
    )
    return [
        Statement(
            layers=names(layers),
            cause="stationary point",
            message=message,
            evidence=(
                Evidence(name="decrement", value=flow.decrement, relation="<", threshold=threshold),
                Evidence(name="relative_gap", value=None if flow.loss is None else flow.loss.relative_gap),
            ),
        )
    ]
