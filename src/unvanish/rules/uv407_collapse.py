"""UV407: nodes or tokens become alike with depth, because every layer takes means over them."""

from __future__ import annotations

from unvanish.decide.alike import COSTS, alike_level
from unvanish.decide.limits import ALIKE, MIXED
from unvanish.records import AlikeFacts, CallFlow, Evidence, Flow, LayerFlow
from unvanish.rules import Statement, rule
from unvanish.rules.wording import factor, names, sources
from unvanish.words.numbers import percent
from unvanish.words.spans import called


@rule(
    "UV407",
    "collapsed",
    "collapse of rows",
    tier="alike",
    levels=("error", "note"),
    needs=("calls", "loss"),
    remedies=("initial-residual", "pair-norm", "jumping-knowledge", "residual"),
    fires_on=("graph-smoothed", "graph-smoothed-32", "attention-collapsed-8"),
    silent_on=(
        "graph-2", "graph-skips-16", "graph-batchnorm-16", "attention-skips-8", "preln-transformer-6", "small-gpt",
        "relu-he-20", "sigmoid-20", "residual-50", "batchnorm-relu-20", "converged-digits",
    ),
)  # fmt: skip
def collapse(flow: Flow) -> list[Statement]:
    """From some layer on all nodes of a graph, or all tokens of a text, have the same features.

    Example: twelve graph convolutions, each a mean over the neighbours of a node times a matrix. The signal keeps its
    size, forward and back, and every node ends with the same features; each is asked for a label of its own.

    Why: a product of many means over rows tends to a matrix whose rows are all the same (for a symmetric normalisation:
    the same up to their length), whatever the weights between are. Attention without skip connections does it twice as
    fast in the exponent. A layer that treats each row alone may make rows alike, too, but a later one can tell them
    apart again; after a mean over them there is nothing left to tell.

    Evidence: 1 less the mean cosine between two rows, after each call that averages over them and that no path goes
    around. A note below 10^-6.5: two layers of attention start at 10^-5.1 to 10^-5.9 and train, stacks at 10^-7.6 and
    less never told rows apart. After a hundred steps or at a stationary point, a note below 10^-3 and an error below
    10^-5.5 where hardly more than a tenth was won over the best outputs that are the same for all rows: of graph
    convolutions at -5.4 and more some went on to learn. An error, too, where what tells rows apart is below the
    rounding of the number type. In every other case the loss is no lower than that of such outputs, and always they
    leave more than a fifth of the achievable reduction out of reach. The narrowest of the averages counts. Outputs that
    are no rows (a mean over all nodes) are not asked. Where a gradient has vanished too, this comes first: what is left
    of the rows bounds what any gradient could do.

    What helps: a share of the first layer's nodes in every later one, skip connections, PairNorm, the features of all
    layers at the end; fewer layers.

    Source: Li, Han & Wu 2018, Deeper insights into graph convolutional networks; Oono & Suzuki 2020, Graph neural
    networks exponentially lose expressive power for node classification; Dong, Cordonnier & Loukas 2021, Attention is
    not all you need.
    """
    level, facts = alike_level(flow), flow.alike
    if not level or facts is None:
        return []
    first = _first(facts)
    behind, begins = _layers(flow, facts.calls[first])
    narrowest = min(facts.log10_spread)
    place = max(k for k, spread in enumerate(facts.log10_spread) if spread == narrowest)
    where = "at the end" if place == len(facts.calls) - 1 else f"after {place + 1}"
    message = (
        f"The {facts.rows:,} rows become alike: from {begins} on, after {first + 1} of {len(facts.calls)} means over"
        f" rows, the mean cosine between two of them is 1 to within 10^{ALIKE:g}, and {_to_within(narrowest)} {where}"
        f" (stable rank {facts.stable_rank[place]:.3g}). {_cost(flow, facts, level)}{sources(behind[:1])}"
    )
    evidence = [
        Evidence(name="log10 of 1 - mean cosine between rows", value=narrowest, relation="<", threshold=ALIKE),
        Evidence(name="before the first mean", value=facts.given),
        Evidence(name="depth at which rows are alike", value=first + 1.0, relation="of", threshold=len(facts.calls)),
        Evidence(name="stable rank there", value=facts.stable_rank[place]),
        Evidence(name="share out of reach", value=facts.out_of_reach, relation=">", threshold=COSTS),
    ]
    return [
        Statement(level=level, layers=names(behind), cause="means over rows", message=message, evidence=tuple(evidence))
    ]


LOST = "Means over rows keep nothing that a later weight could bring back."


def _first(facts: AlikeFacts) -> int:
    """The first of the means from which on rows are alike as far as where they are most so."""
    first = facts.log10_spread.index(min(facts.log10_spread))
    while first and facts.log10_spread[first - 1] < ALIKE:
        first -= 1
    return first


def _layers(flow: Flow, index: int) -> tuple[tuple[LayerFlow, ...], str]:
    """The layers that work on rows that are alike, and where that begins: the last layer before this call."""
    behind = {index}
    for call in flow.calls[index + 1 :]:
        if any(j in behind for j in call.inputs):
            behind.add(call.index)
    before = [layer for layer in flow.layers if layer.call is not None and layer.call <= index]
    alike = tuple(layer for layer in flow.layers if layer.call in behind)
    begins = called(before[-1].name) if before else _place(flow.calls[index])
    return ((*before[-1:], *alike) if before and before[-1] not in alike else alike), begins


def _place(call: CallFlow) -> str:
    return f"{call.name} in {call.module or 'the model'}"


def _to_within(log10: float) -> str:
    return "exactly 1" if log10 == -float("inf") else f"to within {factor(log10)}"


def _cost(flow: Flow, facts: AlikeFacts, level: str) -> str:
    share = percent(facts.out_of_reach or 0.0)
    if level == "note" and min(facts.log10_spread) >= MIXED:
        return (
            f"Outputs that are the same for all rows leave {share} of the achievable reduction out of reach. Weights"
            " may still tell rows apart that are alike no further than that: some networks did, much later."
        )
    if level == "note":
        return f"{LOST} Outputs that are the same for all rows leave {share} of the achievable reduction out of reach."
    if min(facts.log10_spread) < facts.digits:
        why = "What tells them apart is below the rounding of the number type"
    else:
        taken = flow.steps_taken
        why = f"The loss stays there after {taken:,} steps" if taken else "The loss stands still there"
    return (
        f"{LOST} {why}: it is hardly better than that of outputs that are the same for all rows, which leave {share} of"
        " the achievable reduction out of reach."
    )
