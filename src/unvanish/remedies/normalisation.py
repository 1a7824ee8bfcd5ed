"""Normalisation of what comes out of each hidden layer, before its activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import ACTIVATIONS, NEXT_LAYER, NORMS, Anatomy, Layer
from unvanish.words.numbers import counted


@remedy(
    "batchnorm",
    "batch normalisation before the activations",
    kind="normalisation",
    answers=("UV101", "UV202", "UV301", "UV303", "UV304", "UV404", "UV707"),
    cures_on=("sigmoid-20", "dead-relu"),
    no_help_on=("lr-too-small", "relu-on-logits"),
)
def batchnorm(draft: Draft) -> Change:
    """Each hidden feature is brought to mean 0 and deviation 1 over the batch before its activation.

    What: a BatchNorm behind every hidden Linear or convolution that an activation or another layer follows.
    Helps: vanishing signals, units that are off for every sample, badly scaled weights and inputs.
    Does not help: at 100 layers its own gradients explode; faults of the last layer, the loss or the step size; tokens
    and sequences (features last), where it is refused. It needs batches of more than one sample.
    Source: Ioffe & Szegedy 2015, Batch normalization; Yang et al. 2019, A mean field theory of batch normalization.
    """
    layers = [layer for layer in _bare_layers(draft) if _norm_of(layer)]
    if not layers:
        raise Refused("no hidden layer is left to normalise over the batch: all are, or work on sequences of features")
    return _inserted(draft, "batch normalisation", layers, _norm_of)


@remedy(
    "layernorm",
    "layer normalisation before the activations",
    kind="normalisation",
    answers=("UV101", "UV202", "UV304"),
    cures_on=("exploding-linear-30", "dead-relu"),
    no_help_on=("sigmoid-20", "lr-too-small"),
)
def layernorm(draft: Draft) -> Change:
    """The hidden features of each sample are brought to mean 0 and deviation 1 before their activation.

    What: a LayerNorm behind every hidden Linear that an activation or another layer follows, and a GroupNorm of one
    group behind convolutions.
    Helps: signals that grow or shrink from layer to layer because of the size of the weights; small batches.
    Does not help: before plain sigmoids at 20 layers, whose slope of 1/4 it leaves; faults of the last layer.
    Source: Ba, Kiros & Hinton 2016, Layer normalization; Wu & He 2018, Group normalization.
    """
    layers = _bare_layers(draft)
    if not layers:
        raise Refused(
            "no hidden layer is left to normalise: an activation or a layer must follow without a norm between"
        )
    return _inserted(draft, "layer normalisation", layers, _layer_norm_of)


def _bare_layers(draft: Draft) -> list[Layer]:
    """Hidden layers whose result goes straight into an activation or the next layer."""
    wanted = ACTIVATIONS | NEXT_LAYER
    return [
        layer
        for layer in Anatomy.of(draft).layers
        if not layer.last and layer.followed_by & wanted and not layer.followed_by & NORMS
    ]


def _norm_of(layer: Layer) -> str:
    for dimensions, convolution in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        if isinstance(layer.module, convolution):
            return f"nn.BatchNorm{dimensions}d(layer.out_channels)"
    return "nn.BatchNorm1d(layer.out_features)" if isinstance(layer.module, nn.Linear) and layer.ndim == 2 else ""


def _layer_norm_of(layer: Layer) -> str:
    is_linear = isinstance(layer.module, nn.Linear)
    return "nn.LayerNorm(layer.out_features)" if is_linear else "nn.GroupNorm(1, layer.out_channels)"


def _inserted(draft: Draft, what: str, layers: list[Layer], norm_of: Callable[[Layer], str]) -> Change:
    """A norm behind each of the layers, made by the source that ``norm_of`` gives; alike ones in one line."""
    paths: dict[str, list[str]] = {}
    for layer in layers:
        paths.setdefault(norm_of(layer), []).append(layer.path)
    code = [f"model = insert_after(model, {those!r}, lambda layer: {norm})" for norm, those in paths.items()]
    sentence = f"{what} behind {counted(len(layers), 'hidden layer')}, before the activation"
    return draft.apply(sentence, [surgery.insert_after], code, [layer.path for layer in layers])
