"""UV710: the optimizer's step raises the loss whatever its size."""

from __future__ import annotations

from unvanish.records import BackwardFacts, Evidence, Flow, StepFacts
from unvanish.rules import Statement, rule
from unvanish.rules.wording import together
from unvanish.words.numbers import number


@rule(
    "UV710",
    "uphill",
    "steps go uphill",
    tier="learning_rate",
    levels=("error", "note"),
    needs=("loss", "step"),
    fires_on=("ascent", "backward-turned"),
    silent_on=(
        "lr-too-large", "lr-too-large-adam", "lr-too-small", "lr-recovers", "least-squares-optimum", "relu-he-20",
        "small-cnn", "decay-coupled", "decay-decoupled", "converged-digits", "chaotic-tanh-50",
    ),
)  # fmt: skip
def uphill(flow: Flow) -> list[Statement]:
    """The next step raises the loss, and so does each smaller one: it is not the rate that is wrong, but the direction.

    Example: an optimizer written by hand that adds the gradient instead of taking it away; ``maximize=True`` that was
    left on. Or a custom ``autograd.Function`` whose backward has the wrong sign, before all of the network.

    Why: close by the loss changes by the gradient times the step. An optimizer lowers it if it steps against the
    gradient, and if the gradient is that of this loss.

    Evidence: none of the sizes tried of the next step lowers the loss. The step is then taken once more, by the same
    optimizer without momentum, moments and decay, which may all climb for good reasons, and its cosine with the
    gradient is told. Above 0, by more than five times what a random direction has, the optimizer climbs: an error; a
    note where it was told to by ``maximize``. Below 0 the gradient says that the loss falls; where it rises instead, in
    proportion to the length of the step over two decades, the gradient is not the slope of this loss: a note, since
    stopped gradients and gradient reversal are meant so. Each ``autograd.Function`` of the user's own is also called
    alone, in float64 where it takes that, and what its backward says is compared with difference quotients of those
    outputs that change smoothly. Where it is another thing than the derivative, by more than 5%, and a small step of
    the layers before it against their gradient raises the loss in proportion to its length: an error; a note where it
    is nearer to the derivative than a gradient of zero would be, as surrogates are. One that hands its argument on
    unchanged (gradient reversal), one that only sends something back for outputs that do not change (a straight-through
    estimator), whatever lies before such a one, and one that is off without raising the loss are told among the notes
    of the report. Of calls with arguments of the same shapes the first two are compared, or the first where there are
    many such Functions.

    What helps: the sign of the optimizer's step, ``maximize=False``, the minus before an objective that is to grow;
    ``torch.autograd.gradcheck`` for a backward of your own.

    Source: Nocedal & Wright 2006, Numerical optimization, section 2.2 (descent directions); Ganin & Lempitsky 2015,
    Unsupervised domain adaptation by backpropagation (gradients that are reversed on purpose).
    """
    wrong = [_backward(flow, fact) for fact in flow.functions if fact.rise is not None]
    step = flow.step
    if wrong or step is None or step.climbs is None:
        return wrong
    smallest = min(multiple for multiple, _ in step.ladder)
    raised = (
        f"The next step of {step.optimizer} raises the loss of this batch, {number(step.loss)}, by"
        f" {number(dict(step.ladder)[1.0] - step.loss)}, and none of those tried down to {smallest:g} of it lowers it"
    )
    climbs = step.climbs > 0.0
    return [
        Statement(
            level="error" if climbs and not step.maximize else "note",
            cause="the optimizer's direction" if climbs else "the gradient",
            message=f"{raised}: {_why(step)}",
            evidence=(
                Evidence(name="cosine of the gradient and the step", value=step.climbs),
                Evidence(name="smallest multiple of the step tried", value=smallest),
            ),
        )
    ]


def _backward(flow: Flow, fact: BackwardFacts) -> Statement:
    """A Function whose backward sends the layers before it up the loss."""
    assert fact.rise is not None
    what = "something else" if fact.factor is None else f"{number(fact.factor)} times that"
    return Statement(
        level="error" if fact.error >= 1.0 else "note",  # nearer to it than no gradient at all: as surrogates are
        layers=fact.layers,
        cause=fact.function,
        message=(
            f"The backward of {fact.place} is not the derivative of its forward: for {fact.argument} it gives {what},"
            f" by finite differences. Where the gradient of {together(fact.layers, flow)} says that the loss falls, it"
            f" rises, by {number(fact.rise)} of that. torch.autograd.gradcheck shows the entries that are wrong."
        ),
        evidence=(
            Evidence(name="rise of the loss over the fall that the gradient says", value=fact.rise),
            Evidence(name="backward less derivative, relative", value=fact.error),
        ),
    )


def _why(step: StepFacts) -> str:
    if (step.climbs or 0.0) < 0.0:
        return (
            "the gradient says that it falls, so what the backward pass gives is not the slope of this loss. A backward"
            " of your own may have the wrong sign or size; a stopped or reversed gradient is meant so."
        )
    if step.maximize:
        return (
            "it was told to climb, by maximize=True. Everything else here takes the loss for something to make small:"
            " if it is an objective to make large, give its negative instead."
        )
    return (
        "it goes along the gradient where it should go against it. The direction is wrong, not the learning rate: is"
        " there a minus missing in the optimizer's step?"
    )
