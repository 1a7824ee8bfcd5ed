"""UV402: no gradient is left, and the network is no better than a constant."""

from __future__ import annotations

from unvanish.decide.limits import STATIONARY
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import hindered
from unvanish.rules.wording import factor, judged, names, not_converged, sources, subject, weakest
from unvanish.words.numbers import number, percent


@rule(
    "UV402",
    "plateau",
    "plateau",
    tier="plateau",
    levels=("error", "note"),
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
    still promises, as a share of the achievable reduction, below ``threshold``; and the loss at 98 % or more of that
    of the best constant output. Where a step that was really tried lowers the loss by as much, it is no plateau. A note
    where the loss is there once the optimizer has counted all of the planned steps, stationary or not.

    What helps: see whether the inputs carry the targets at all (shuffled rows, a wrong join); a different start; a
    network that can express the dependence.

    Source: Martens 2010, Deep learning via Hessian-free optimization; Dauphin et al. 2014, Identifying and attacking
    the saddle point problem in high-dimensional non-convex optimization.
    """
    layers = judged(flow, "plateau")
    if not layers or flow.decrement is None or not flow.decrement < threshold:
        return _at_the_end(flow)
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
            level="error",
            layers=names(layers),
            cause="stationary point",
            message=message,
            evidence=(
                Evidence(name="decrement", value=flow.decrement, relation="<", threshold=threshold),
                Evidence(name="relative_gap", value=None if flow.loss is None else flow.loss.relative_gap),
            ),
        )
    ]


def _at_the_end(flow: Flow) -> list[Statement]:
    """A training that is over, and whose loss is that of the best constant output, though nothing else was found."""
    loss, step = flow.loss, flow.step
    if loss is None or not loss.at_constant or loss.best_constant is None or hindered(flow):
        return []
    if step is None or step.planned is None or (step.taken or 0) < step.planned:
        return []
    message = (
        f"The {step.planned:,} planned steps have been taken, and the loss of {number(loss.value)} is no better than"
        f" the {number(loss.best_constant)} of the best constant output: on this batch nothing has been learned of the"
        " inputs. Either they do not carry the targets, or something keeps the outputs from them: a penalty that"
        " outweighs the rest of the loss (in a variational autoencoder, a posterior that has collapsed onto the prior),"
        " or noise."
    )
    evidence = (
        Evidence(name="loss over that of the best constant output", value=loss.value / loss.best_constant)
        if loss.best_constant
        else Evidence(name="relative_gap", value=loss.relative_gap),
        Evidence(name="steps taken", value=step.taken, relation=">=", threshold=step.planned),
    )
    return [Statement(level="note", cause="nothing learned", message=message, evidence=evidence)]
