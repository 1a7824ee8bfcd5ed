"""UV301: layers no gradient can reach, for any target, at the present weights and on this batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unvanish.decide.live import not_asked, shut_by
from unvanish.records import Evidence, Flow, LayerFlow, ZeroFacts
from unvanish.rules import Statement, rule
from unvanish.rules.wording import judged, names, sources, subject
from unvanish.words.numbers import listing
from unvanish.words.spans import called

TABLES = ("Embedding", "EmbeddingBag")


@rule(
    "UV301",
    "dead",
    "dead layer",
    tier="dead",
    levels=("error",),
    needs=("log10_grad_norm",),
    remedies=("rezero", "batchnorm", "he-init", "orthogonal-init", "lsuv-init"),
    fires_on=("dead-relu", "relu-on-logits"),
    silent_on=(
        "relu-he-20",
        "small-cnn",
        "sigmoid-50",
        "chain-200",
        "zero-head",
        "lora-zero-b",
        "softmax-one-unit",
        "dead-units",
        "dead-channels",
    ),
)
def dead_layer(flow: Flow) -> list[Statement]:
    """No gradient reaches the layer: something after it is off on the whole batch.

    Example: a ``ReLU`` whose inputs are negative for every sample, after one step that was too large or with a very
    negative bias. Its slope is exactly zero there, so no layer before it gets a signal.

    Why: a zero in the product of the chain rule wins whatever the other factors are. Unlike a vanished gradient it
    cannot grow back by training the dead layer; only layers after the block, or other data, could wake it.

    Evidence: log10 of the Jacobian norm is -inf, a true zero: underflow has been excluded by exact scaling. Moving
    every exactly-zero tensor a little does not bring a gradient back, which excludes gates and saddles. The calls
    that receive a signal and send none back are named. It is a statement about this batch. A call of the loss may
    block, too, as a clamp of all that a layer gives: then the layer is dead only where the loss falls once the outputs
    in which it has no slope are moved by up to twice their size; at a bound the loss itself asks for, it is not. Of a
    running training: the gradient is exactly zero, and an activation from here on is off for every unit and every
    sample.

    What helps: ReZero gates, batch normalisation before the activations, and an initialisation of the right size. None
    of these for an embedding of which the batch looks up the padding row alone, nor where a backward that the program
    itself has written (``torch.autograd.Function``) sends back zeros: that is what to mend.

    Source: Lu, Shin, Su & Karniadakis 2019, Dying ReLU and initialization: theory and numerical examples.
    """
    facts = {each.layer: each for each in flow.zeros}
    layers = [each for each in judged(flow, "dead") if each.name not in facts or not facts[each.name].by_construction]
    if layers and flow.asks("zeros", "log10_jacobian_norm"):
        held = [each for each in layers if each.name in facts and each.log10_jacobian_norm not in (None, -math.inf)]
        layers = [each for each in layers if each not in held]
        return [*_on_the_way(flow, layers, facts), *_in_the_loss(flow, held, facts)]
    return _on_the_way(flow, layers, facts)


def _in_the_loss(flow: Flow, layers: Sequence[LayerFlow], facts: Mapping[str, ZeroFacts]) -> list[Statement]:
    """Layers that the outputs depend on, of which a call of the loss passes nothing back."""
    if not layers:
        return []
    blocks = listing(block for layer in layers for block in facts[layer.name].blocked_by)
    message = (
        f"{subject(flow, layers, 'receives', 'receive')} exactly no gradient, because {blocks} is flat for all that"
        " it is given on this batch, although the loss falls once that is moved. Its own gradient never brings it"
        " back into range: bound it where it is made, by a function that has a slope everywhere, as a scaled tanh or a"
        " softplus."
    )
    none = Evidence(name="log10_grad_norm", value=-math.inf, relation="=", threshold=-math.inf)
    return [
        Statement(layers=names(layers), cause=blocks, message=message + sources(layers), evidence=(none,), remedies=())
    ]


def _on_the_way(flow: Flow, layers: Sequence[LayerFlow], facts: Mapping[str, ZeroFacts]) -> list[Statement]:
    """Layers behind something in the network that is off."""
    if not layers:
        return []
    if not flow.asks("zeros"):
        return [_seen(flow, layers)]
    stops = [block for layer in layers if layer.name in facts for block in facts[layer.name].blocked_by]
    blocks, own = listing(stops), _sends_zeros(flow, stops)
    tables = not blocks and all(each.kind in TABLES for each in layers)
    why = f", because {blocks} passes nothing back on this batch" if blocks else ", and what blocks it was not found"
    if tables:
        why = (
            ": only rows that are looked up get one, and a padding row (padding_idx) never does. Either the batch looks"
            " up that row alone, or only its places reach the outputs: is a mask the wrong way round?"
        )
    if own:
        why = (
            f", because the backward that the program wrote for {blocks} sends back zeros, although what it returns"
            " changes with what it is given: return the derivative there, or the gradient itself to pass it on"
        )
    message = (
        f"{subject(flow, layers, 'receives', 'receive')} exactly no gradient, whatever the target{why}"
        f"{'' if tables else '.'} It is not vanished: the zero is exact, however the numbers are scaled."
    )
    return [
        Statement(
            layers=names(layers),
            cause=blocks,
            message=message + sources(layers),
            evidence=(Evidence(name="log10_jacobian_norm", value=-math.inf, relation="=", threshold=-math.inf),),
            remedies=() if tables or own else None,
        )
    ]


def _sends_zeros(flow: Flow, blocks: Sequence[str]) -> bool:
    """Whether all that blocks are autograd.Functions of the program's own, of outputs that change with the argument."""
    zeros = {each.function for each in flow.functions if each.kind != "flat" and each.factor == 0.0}
    return bool(blocks) and all(block.partition(" ")[0] in zeros for block in blocks)


def _seen(flow: Flow, layers: Sequence[LayerFlow]) -> Statement:
    """The same from the numbers of a running training, where no tensor was moved and no block was looked for."""
    blocks = listing(f"the activation after {called(shut_by(flow.layers, layer))}" for layer in layers)
    message = (
        f"{subject(flow, layers, 'receives', 'receive')} exactly no gradient on this batch: {blocks} is off for every"
        f" unit and every sample.{not_asked(flow)}"
    )
    return Statement(
        layers=names(layers),
        cause=blocks,
        message=message + sources(layers),
        evidence=(
            Evidence(name="log10_grad_norm", value=-math.inf, relation="=", threshold=-math.inf),
            Evidence(name="dead_fraction", value=1.0, relation="=", threshold=1.0),
        ),
    )
