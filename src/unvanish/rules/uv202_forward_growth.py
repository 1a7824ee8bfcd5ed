"""UV202: the signal grows on its way forward until the loss starts absurdly high."""

from __future__ import annotations

import math

from unvanish.decide.limits import FORWARD_GROWTH, FORWARD_LOSS
from unvanish.records import Evidence, Flow, LossFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import Grown, forward_growth_of, out_of_proportion, regained, settled
from unvanish.rules.wording import factor, names, sources, subject
from unvanish.words.numbers import number
from unvanish.words.spans import called


@rule(
    "UV202",
    "exploding",
    "forward growth",
    tier="exploding",
    levels=("error", "note"),
    needs=("calls", "loss"),
    remedies=("he-init", "orthogonal-init", "lsuv-init", "batchnorm", "layernorm", "identity-recurrence"),
    fires_on=("exploding-linear-30", "exploding-relu-12"),
    silent_on=(
        "relu-he-20", "tanh-orthogonal-50", "selu-20", "batchnorm-relu-20", "residual-50", "preln-transformer-6",
        "small-cnn", "small-gpt", "lstm", "chaotic-tanh-50", "dead-relu", "output-scale",
    ),
)  # fmt: skip
def forward_growth(flow: Flow, *, growth: float = FORWARD_GROWTH, worse: float = FORWARD_LOSS) -> list[Statement]:
    """The signal grows from layer to layer until the outputs, and with them the loss, are out of all proportion.

    Example: thirty linear layers of width 64 with N(0, 1) weights. Each multiplies the size of its input by the root
    of its width, 8; the outputs have an rms of 10^27 and the cross-entropy starts there.

    Why: a layer multiplies the size of what it is given by about the size of its weights times the root of its fan-in.
    Above one the product grows exponentially with depth, forward and, in the same way, backward.

    Evidence: log10 of the largest rms among the results of layers over that of the first layer (of a recurrence of
    ReLUs, over that of what its steps give each by itself), greater than ``growth``, and a loss more than ``worse``
    times that of the best constant output. Growth alone is no fault, and none is where the loss asks the outputs to
    move by more than twice their size: the targets are larger still. A note where up to 800 real steps of the
    optimizer, tried on the batch and taken back, bring the loss below that of the best constant output: the network
    trains, by way of a detour. A loss of exactly zero does not count, since outputs of that size leave a softmax
    nothing to say. In a running training its own steps are these: a note at first, and an error once they have not
    made good for it.

    What helps: weights of the critical size (He for ReLU, Xavier or orthogonal for tanh), or a normalisation.

    Source: He, Zhang, Ren & Sun 2015, Delving deep into rectifiers; Hanin & Rolnick 2018, How to start training: the
    effect of initialization and architecture.
    """
    loss = flow.loss
    if loss is None or loss.best_constant is None or not out_of_proportion(loss, worse) or settled(flow):
        return []
    grown = forward_growth_of(flow)
    if grown is None or not grown.decades > growth or _wanted_larger(flow):
        return []
    big = {call.index for call, size in grown.sizes if size - grown.sizes[0][1] > growth}
    layers = [layer for layer in flow.layers if layer.call in big]
    message = (
        f"The signal grows {factor(grown.decades)} times on its way forward, and the loss is {number(loss.value)} where"
        f" the best constant output has {number(loss.best_constant)}: {_pace(flow, grown)}."
        f" {subject(flow, layers, 'is', 'are')} far too large at the present weights{_or_not(flow, loss)}"
        f"{sources(layers[:1])}"
    )
    note = regained(flow) is not None or (flow.step is None and not flow.asks("step"))
    return [
        Statement(
            level="note" if note else "error",
            layers=names(layers),
            cause="weights",
            message=message,
            evidence=(
                Evidence(name="log10 growth of the rms", value=grown.decades, relation=">", threshold=growth),
                Evidence(
                    name="loss over that of the best constant output",
                    value=loss.value / loss.best_constant, relation=">", threshold=worse,
                ),
                *_tried(flow, loss.best_constant),
            ),
        )
    ]  # fmt: skip


def _pace(flow: Flow, grown: Grown) -> str:
    if grown.within is None:
        pace = factor(grown.decades / grown.steps)
        return f"each of the {grown.steps} steps from layer to layer multiplies it by about {pace}"
    call, inside = grown.within
    name = next((layer.name for layer in flow.layers if layer.call == call.index), call.name)
    return f"{factor(inside)} times within {called(name)}, whose state grows from step to step of the sequence"


def _or_not(flow: Flow, loss: LossFacts) -> str:
    """Whether the training makes good for it, as far as that was tried."""
    back, step = regained(flow), flow.step
    if step is None or step.regained is None:
        if not flow.asks("step"):
            return ". Whether the steps of this training make good for it is seen as it goes on."
        return ": a smaller learning rate leaves them so."
    how = "tried on this batch and taken back," if flow.asks("step") else "of this training"
    tried = f"{step.regained_after} real steps of {step.optimizer}{',' * flow.asks('step')} {how}"
    if back is not None:
        return (
            f". But it trains: {tried} bring the loss to {number(step.regained)}. Weights of the right size spare it"
            " the detour."
        )
    if step.regained == 0.0:
        return (
            f". {tried} end at a loss of exactly 0: each sample of the batch stands right, and outputs as large as"
            " these leave the loss nothing more to ask for."
        )
    if not step.regained < loss.value:
        return f": {tried} do not lower the loss, and a smaller learning rate leaves them so."
    return f": {tried} leave the loss at {number(step.regained)}, and a smaller learning rate leaves them so."


def _tried(flow: Flow, constant: float) -> tuple[Evidence, ...]:
    step = flow.step
    if step is None or step.regained is None:
        return ()
    name = f"loss after {step.regained_after} real steps"
    relation = "<" if regained(flow) is not None else "=" if step.regained == 0.0 else ">="
    return (Evidence(name=name, value=step.regained, relation=relation, threshold=constant),)


def _wanted_larger(flow: Flow) -> bool:
    """Whether the outputs that the loss wants are larger than those there are: |f + move| ≥ |move| - |f| > |f|."""
    output = flow.output
    if output is None or output.wanted is None or output.rms is None:
        return False
    return 2.0 * output.rms < output.wanted < math.inf
