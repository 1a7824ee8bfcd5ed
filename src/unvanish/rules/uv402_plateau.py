"""UV402: no gradient is left, and the network is no better than a constant."""

from __future__ import annotations

from unvanish.decide import UNJUDGED
from unvanish.decide.limits import STATIONARY, STUCK
from unvanish.records import CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import settled
from unvanish.rules.uv705_lr_too_small import lr_too_small
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
    still promises, as a share of the achievable reduction, below ``threshold``; and the loss at 98% or more of that
    of the best constant output. Where a step that was really tried lowers the loss by as much, it is no plateau.
    A loss that has not left that of the best constant after a hundred steps, in a network that passes its signal on, is
    a note: it may still leave. So ends an autoencoder that samples its code where the divergence outweighs what the
    code would win: the code then says nothing about the input, and the outputs are the mean of all.

    What helps: see whether the inputs carry the targets at all (shuffled rows, a wrong join); a different start; a
    network that can express the dependence.

    Source: Martens 2010, Deep learning via Hessian-free optimization; Dauphin et al. 2014, Identifying and attacking
    the saddle point problem in high-dimensional non-convex optimization.
    """
    layers = judged(flow, "plateau")
    if not layers:
        return _stays(flow)
    if flow.decrement is None or not flow.decrement < threshold:
        return []
    least = weakest(layers)
    reaches = (
        "" if least is None else f" It is not vanished: the signal arrives (transmission at least {factor(least)})."
    )
    message = (
        f"{subject(flow, layers, 'stands', 'stand')} still: in the parameters that receive a signal a quadratic model"
        f" promises only {percent(flow.decrement)} of the achievable reduction, and the loss is no better than that"
        " of a constant output, because at these weights the per-sample gradients cancel."
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


def _stays(flow: Flow) -> list[Statement]:
    """A loss that is that of the best constant after many steps, though nothing hinders the layers, nor the rate."""
    loss, taken = flow.loss, flow.steps_taken
    if loss is None or not loss.at_constant or loss.best_constant is None or taken < STUCK:
        return []
    if any(layer.verdict not in ("healthy", *UNJUDGED) for layer in flow.layers) or settled(flow):
        return []
    if any(each.level == "error" for each in lr_too_small(flow)) or (flow.inputs and flow.inputs.small):
        return []
    message = (
        f"After {taken} steps the loss, {number(loss.value)}, is no better than that of one constant output for all"
        f" samples, {number(loss.best_constant)}, although the signal reaches the layers."
    )
    if _samples_a_code(flow):
        message += (
            " The network samples a code, and the code says nothing about its input: it has collapsed onto the prior."
            " Weigh the divergence less, at least at first."
        )
    return [
        Statement(
            level="note",
            layers=(),
            cause="collapsed code" if _samples_a_code(flow) else "",
            message=message,
            evidence=(Evidence(name="steps taken", value=float(taken), relation=">", threshold=float(STUCK)),),
        )
    ]


def _samples_a_code(flow: Flow) -> bool:
    """Whether a result is a spread (an exponential, softplus or root), times noise, plus another result."""
    calls = {call.index: call for call in flow.calls if call.part == "model"}
    for total in calls.values():
        if total.name.strip("_") in ("add", "radd") and len(total.inputs) == 2:
            for noise in (calls[index] for index in total.inputs if index in calls):
                if noise.name.strip("_") in ("mul", "rmul") and len(noise.inputs) == 1 and _is_a_spread(noise, calls):
                    return True
    return False


def _is_a_spread(noise: CallFlow, calls: dict[int, CallFlow]) -> bool:
    """Whether what is multiplied is one, shifted or kept from zero at most; noise is a factor that no weight moves."""
    here = calls.get(noise.inputs[0])
    while here is not None and here.role != "weights" and len(here.inputs) == 1:
        if here.name in ("exp", "softplus", "sqrt"):
            return True
        here = calls.get(here.inputs[0])
    return False
