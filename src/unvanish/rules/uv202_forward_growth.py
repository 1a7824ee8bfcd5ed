"""UV202: the signal grows on its way forward until the loss starts absurdly high."""

from __future__ import annotations

import math

from unvanish.records import CallFlow, Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import settled
from unvanish.rules.wording import factor, names, sources, subject
from unvanish.words.numbers import number


@rule(
    "UV202",
    "exploding",
    "forward growth",
    tier="exploding",
    levels=("error",),
    needs=("calls", "loss"),
    remedies=("he-init", "orthogonal-init", "lsuv-init", "batchnorm", "layernorm"),
    fires_on=("exploding-linear-30", "exploding-relu-12"),
    silent_on=(
        "relu-he-20", "tanh-orthogonal-50", "selu-20", "batchnorm-relu-20", "residual-50", "preln-transformer-6",
        "small-cnn", "small-gpt", "lstm", "chaotic-tanh-50", "dead-relu", "output-scale",
    ),
)  # fmt: skip
def forward_growth(flow: Flow, *, growth: float = 2.5, worse: float = 10.0) -> list[Statement]:
    """The signal grows from layer to layer until the outputs, and with them the loss, are out of all proportion.

    Example: thirty linear layers of width 64 with N(0, 1) weights. Each multiplies the size of its input by the root
    of its width, 8; the outputs have an rms of 10^27 and the cross-entropy starts there.

    Why: a layer multiplies the size of what it is given by about the size of its weights times the root of its fan-in.
    Above one the product grows exponentially with depth, forward and, in the same way, backward.

    Evidence: log10 of the largest rms among the results of layers over that of the first layer, greater than
    ``growth``, and a loss more than ``worse`` times that of the best constant output. Growth alone is no fault, and
    none is where the loss asks the outputs to move by more than twice their size: the targets are larger still.

    What helps: weights of the critical size (He for ReLU, Xavier or orthogonal for tanh), or a normalisation.

    Source: He, Zhang, Ren & Sun 2015, Delving deep into rectifiers; Hanin & Rolnick 2018, How to start training: the
    effect of initialization and architecture.
    """
    loss = flow.loss
    if loss is None or loss.best_constant is None or not loss.best_constant > 0.0 or settled(flow):
        return []
    if not loss.value > worse * loss.best_constant or _wanted_larger(flow):
        return []
    sizes = _sizes(flow)
    if not sizes:
        return []
    first, largest = sizes[0], max(sizes, key=lambda each: each[1])
    grown = largest[1] - first[1]
    if not grown > growth:
        return []
    big = {call.index for call, size in sizes if size - first[1] > growth}
    layers = [layer for layer in flow.layers if layer.call in big]
    steps = max(1, [call.index for call, _ in sizes].index(largest[0].index))
    message = (
        f"The signal grows {factor(grown)} times on its way forward, and the loss is {number(loss.value)} where the"
        " best"
        f" constant output has {number(loss.best_constant)}: each of the {steps} steps from layer to layer multiplies"
        " it by"
        f" about {factor(grown / steps)}. {subject(flow, layers, 'is', 'are')} far too large at the present weights:"
        f" a smaller learning rate leaves them so.{sources(layers[:1])}"
    )
    return [
        Statement(
            layers=names(layers),
            cause="weights",
            message=message,
            evidence=(
                Evidence(name="log10 growth of the rms", value=grown, relation=">", threshold=growth),
                Evidence(
                    name="loss over that of the best constant output",
                    value=loss.value / loss.best_constant, relation=">", threshold=worse,
                ),
            ),
        )
    ]  # fmt: skip


def _wanted_larger(flow: Flow) -> bool:
    """Whether the outputs that the loss wants are larger than those there are: |f + move| ≥ |move| - |f| > |f|."""
    output = flow.output
    if output is None or output.wanted is None or output.rms is None:
        return False
    return 2.0 * output.rms < output.wanted < math.inf


def _sizes(flow: Flow) -> list[tuple[CallFlow, float]]:
    """The calls of layers in order of execution, with log10 of the rms of their results."""
    owned = {layer.call for layer in flow.layers}
    return [
        (call, call.log10_rms)
        for call in sorted(flow.calls, key=lambda each: each.index)
        if call.index in owned and call.log10_rms is not None and math.isfinite(call.log10_rms)
    ]
