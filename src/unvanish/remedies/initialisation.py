"""Weights drawn anew: the size and shape that keep a signal alive through the layers there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import BETWEEN_LAYERS, LINEAR, RELUS, Anatomy, Layer
from unvanish.words.numbers import counted

SIZE = ("UV101", "UV202", "UV301", "UV303", "UV304", "UV403")
ELSEWHERE = ("sigmoid-20", "lr-too-small")


@remedy(
    "he-init",
    "He initialisation",
    kind="init",
    answers=SIZE,
    cures_on=("saturated-tanh", "dead-relu"),
    no_help_on=ELSEWHERE,
)
def he_init(draft: Draft) -> Change:
    """Normal weights of variance 2/fan_in (He).

    What: hidden weights are normal with variance 2/fan_in, those of the last layer normal with variance 1/fan_in;
    biases become zero.
    Helps: ReLU networks whose weights are too small or too large, or whose units are off.
    Does not help: deep sigmoids. Pretrained weights are left alone.
    Source: He, Zhang, Ren & Sun 2015, Delving deep into rectifiers.
    """
    layers, those = free_layers(draft)
    fill = 'nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)'
    return redraw(draft, layers, fill, f"He initialisation of {those}")


@remedy(
    "lecun-init",
    "LeCun initialisation",
    kind="init",
    answers=SIZE,
    cures_on=("saturated-tanh", "exploding-linear-30"),
    no_help_on=ELSEWHERE,
)
def lecun_init(draft: Draft) -> Change:
    """Normal weights of variance 1/fan_in (LeCun).

    What: hidden weights are normal with variance 1/fan_in, those of the last layer normal with variance 1/fan_in;
    biases become zero.
    Helps: tanh, SELU and linear networks whose weights are too small or too large.
    Does not help: deep sigmoids; deep ReLU networks, where half the power is lost at each layer. Pretrained weights
    are left alone.
    Source: LeCun, Bottou, Orr & Müller 1998, Efficient backprop.
    """
    layers, those = free_layers(draft)
    fill = 'nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g)'
    return redraw(draft, layers, fill, f"LeCun initialisation of {those}")


@remedy(
    "xavier-init",
    "Xavier initialisation",
    kind="init",
    answers=SIZE,
    cures_on=("saturated-tanh", "exploding-linear-30"),
    no_help_on=ELSEWHERE,
)
def xavier_init(draft: Draft) -> Change:
    """Normal weights of variance 2/(fan_in + fan_out) (Xavier Glorot).

    What: hidden weights are normal with variance 2/(fan_in + fan_out), those of the last layer normal with variance
    1/fan_in; biases become zero.
    Helps: tanh and linear networks whose weights are too small or too large.
    Does not help: deep sigmoids: it is made for a slope of 1, not of 1/4. Pretrained weights are left alone.
    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """
    layers, those = free_layers(draft)
    fill = "nn.init.xavier_normal_(w, generator=g)"
    return redraw(draft, layers, fill, f"Xavier initialisation of {those}")


@remedy(
    "orthogonal-init",
    "orthogonal initialisation",
    kind="init",
    answers=SIZE,
    cures_on=("exploding-linear-30", "dead-relu"),
    no_help_on=ELSEWHERE,
)
def orthogonal_init(draft: Draft) -> Change:
    """Random orthogonal weights, which keep the length of what passes.

    What: hidden weights are orthogonal, times √2 before a ReLU, those of the last layer normal with variance
    1/fan_in; biases become zero.
    Helps: deep tanh and linear networks, and weights that are too small or too large.
    Does not help: deep sigmoids, unless they are centred too. Pretrained weights are left alone.
    Source: Saxe, McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning.
    """
    layers, those = free_layers(draft)
    relu = any(layer.followed_by & RELUS for layer in layers)
    fill = f"nn.init.orthogonal_(w, gain={math.sqrt(2.0) if relu else 1.0:.7g}, generator=g)"
    return redraw(draft, layers, fill, f"orthogonal initialisation of {those}")


CRITICAL = {call: each.critical for call, each in BETWEEN_LAYERS.items() if each.critical}
CRITICAL["linear"] = (1.0, 0.0)  # one layer straight into the next
"""Variances of weights (times fan_in) and biases at which a small difference neither grows nor shrinks: χ₁ = 1."""
SATURATED = {"sigmoid", "hardsigmoid", "exp"}
"""Activations that weights of such a variance saturate."""


@remedy(
    "critical-init",
    "initialisation at the edge of chaos",
    kind="init",
    answers=("UV101", "UV202", "UV304"),
    cures_on=("saturated-tanh", "exploding-linear-30"),
    no_help_on=ELSEWHERE,
)
def critical_init(draft: Draft) -> Change:
    """Normal weights and biases with the variances at which the slope of the correlation map is 1.

    What: σ_w² and σ_b² such that χ₁ = σ_w² E[φ′(√q z)²] = 1 at the fixed point q of the activation's variance map.
    Helps: tanh, ReLU, SELU, GELU and SiLU networks whose weights are too small or too large.
    Does not help: sigmoids, whose critical weights (σ_w² = 103) saturate it, so it is refused there; χ₁ = 1 alone does
    not make a very deep network train, and the fixed points of GELU and SiLU (q = 1) are not stable. Pretrained weights
    are left alone.
    Source: Poole et al. 2016, Exponential expressivity in deep neural networks through transient chaos; Schoenholz et
    al. 2017, Deep information propagation.
    """
    layers, those = free_layers(draft)
    kinds = {name for layer in layers if not layer.last for name in layer.followed_by} & {*CRITICAL, *SATURATED}
    if kinds & SATURATED:
        raise Refused("a sigmoid's critical weights (variance 103/fan_in) saturate it; centred-init is made for it")
    if len(kinds) > 1:
        raise Refused(
            f"its layers have different activations ({', '.join(sorted(kinds))}), each with weights of its own"
        )
    kind = next(iter(kinds), "linear")
    weights, biases = CRITICAL[kind]
    drawn = f'nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g) * {math.sqrt(weights):.7g}'
    sentence = f"weights at the edge of chaos for {kind.replace('_', ' ')} (variance {weights:.4g}/fan_in)"
    return redraw(draft, layers, drawn, f"{sentence} in {those}", math.sqrt(biases))


@remedy(
    "lsuv-init",
    "layer-sequential unit variance (LSUV)",
    kind="init",
    answers=SIZE,
    cures_on=("exploding-linear-30", "dead-relu"),
    no_help_on=ELSEWHERE,
)
def lsuv_init(draft: Draft) -> Change:
    """Orthogonal weights, scaled layer by layer until each layer's outputs have deviation 1 on the batch.

    What: layer by layer in the order of the forward pass; biases become zero.
    Helps: weights that are too small or too large, whatever the activation; it measures instead of assuming.
    Does not help: deep sigmoids: the signal keeps its size and still passes a slope of 1/4 at each layer. Pretrained
    weights are left alone.
    Source: Mishkin & Matas 2016, All you need is a good init.
    """
    layers, those = free_layers(draft)
    paths = [layer.path for layer in layers]
    code = [f"model = lsuv(model, {paths!r}, lambda net: {call_text(draft)}, seed={draft.seed()})"]
    sentence = f"orthogonal weights scaled to outputs of deviation 1 in {those}"
    return draft.apply(sentence, [surgery.lsuv], code, paths)


@remedy(
    "centred-init",
    "an initialisation that centres sigmoids",
    kind="init",
    answers=("UV101",),
    cures_on=("sigmoid-20", "xavier-sigmoid-20"),
    no_help_on=("lr-too-small", "relu-on-logits"),
)
def centred_init(draft: Draft) -> Change:
    """Weights and biases that make a plain sigmoid start as 4 (σ(x) − ½): zero-centred, with slope 1.

    What: W = 4 Q and b_i = −½ Σ_j W_ij in every layer that a sigmoid feeds, W = Q and b = 0 in the others, Q
    random and orthogonal: Q · 4 (σ(x) − ½) = W σ(x) + b. The sigmoids stay. At the padded border of a convolution it
    holds only roughly.
    Helps: plain sigmoid networks of 10 to 100 layers with an adaptive optimizer (Adam), of 20 with plain SGD.
    Does not help: 500 layers; other activations, where it is refused. Pretrained weights are left alone.
    Source: the identity above; Saxe, McClelland & Ganguli 2014 for orthogonal weights.
    """
    layers, those = free_layers(draft)
    behind = [layer.path for layer in layers if layer.fed_by == {"sigmoid"} and _can_be_centred(layer.module)]
    others = [layer.path for layer in layers if layer.path not in behind]
    if not behind:
        raise Refused("no layer with a bias is fed by a sigmoid")
    code = [f"model = centred(model, {behind!r}, {others!r}, seed={draft.seed()})"]
    sentence = f"weights and biases that centre the sigmoids, redrawn in {those}"
    return draft.apply(sentence, [surgery.centred], code, [layer.path for layer in layers])


def _can_be_centred(module: Any) -> bool:
    transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    return module.bias is not None and not transposed


def free_layers(draft: Draft) -> tuple[list[Layer], str]:
    """The layers whose weights may be drawn anew, and how many they are in words, with those that may not."""
    if draft.pretrained:
        raise Refused("the weights are pretrained and are not thrown away unless that is asked for")
    anatomy = Anatomy.of(draft)
    users: dict[int, int] = {}
    for module in draft.model.modules():
        for parameter in module._parameters.values():
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    tied = [layer for layer in anatomy.layers if users.get(id(layer.module.weight), 0) > 1]
    # their weight is made anew for every call (weight norm, for one), so that what is written into it is lost
    computed = [each for each in draft.model.modules() if isinstance(each, LINEAR) and "weight" not in each._parameters]
    frozen = [layer for layer in anatomy.layers if not layer.module.weight.requires_grad]
    left = {id(layer) for layer in (*tied, *frozen)}
    layers = [layer for layer in anatomy.layers if id(layer) not in left]
    reasons: dict[str, Sequence[object]] = {"tied": tied, "reparametrised": computed, "frozen": frozen}
    left_alone = [f"{len(group)} {word}" for word, group in reasons.items() if group]
    if not layers:
        raise Refused(
            f"no weights are left to draw anew: {', '.join(left_alone)}"
            if left_alone
            else "the model has no Linear or convolution"
        )
    return layers, counted(len(layers), "layer") + (f" ({', '.join(left_alone)} left alone)" if left_alone else "")


def redraw(draft: Draft, layers: list[Layer], drawn: str, sentence: str, bias_std: float = 0.0) -> Change:
    """Draw hidden weights by the expression ``drawn`` and those of the last layers with variance 1/fan_in."""
    hidden = [layer.path for layer in layers if not layer.last]
    last = [layer.path for layer in layers if layer.last]
    plain = 'nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g)'
    biases = f", bias_std={bias_std:.7g}" if bias_std else ""
    code = []
    if hidden:
        code.append(f"model = initialise(model, {hidden!r}, lambda w, g: {drawn}, seed={draft.seed()}{biases})")
    if last:
        code.append(f"model = initialise(model, {last!r}, lambda w, g: {plain}, seed={draft.seed()})")
    return draft.apply(sentence, [surgery.initialise], code, [*hidden, *last])


def call_text(draft: Draft) -> str:
    """How the batch is given to a model called ``net``."""
    if isinstance(draft.inputs, (tuple, list)):
        return "net(*inputs)"
    return "net(**inputs)" if hasattr(draft.inputs, "keys") else "net(inputs)"
