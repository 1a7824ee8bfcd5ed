"""The field's terms and the words of the tables, in plain language."""

from __future__ import annotations

TERMS = {
    "activation": "The nonlinear function after a layer, such as ReLU, tanh or the sigmoid.",
    "backward staircase": (
        "The error signal drawn layer by layer. Low and level: little left to learn. Falling towards the input:"
        " vanishing. Rising towards the input: exploding. A cliff: a dead call."
    ),
    "cotangent": "The derivative of the loss with respect to a value inside the network. In prose: the error signal.",
    "dominant path": "From a layer to the output, always along the consumer that sends back most of the error signal.",
    "edge of chaos": "Variances of weights and biases at which a wide random network keeps the size of its gradient.",
    "error signal": (
        "What the output's error leaves of itself deep in the network: the cotangent. Layers learn from it."
    ),
    "gain": "The factor by which one step back multiplies the error signal; below 1 it shrinks, above 1 it grows.",
    "gradient": (
        "The direction and steepness in which the loss rises when the weights change; training walks against it."
    ),
    "jacobian": "All derivatives of the outputs with respect to the weights: how strongly and how the outputs react.",
    "join": "An addition, a concatenation or another call that is neither weights, activation nor normaliser.",
    "layer": "A module that owns parameters; called twice, it counts twice.",
    "learning rate": "The length of the optimizer's steps.",
    "log scale": "Every equal stretch is an equal factor: 10^-4 lies as far below 10^-2 as 10^-2 below 1.",
    "mean-field theory": "What becomes of signals and gradients in random networks in the limit of wide layers.",
    "norm": "The length of a list of numbers: the root of the sum of their squares. As a role: a normaliser.",
    "normaliser": "A call that brings its input to a standard size, such as batch or layer normalisation or softmax.",
    "pre_activation": "The value that goes into an activation.",
    "residual connection": "A path that adds a block's input to its output, so that the error signal can go around it.",
    "rung": "A number of steps at which a search compares its candidates and lets the best quarter go on.",
    "slope": "The derivative σ′ of an activation at its input; on the way back the error signal is multiplied by it.",
    "smallest normal": (
        "The smallest number a type stores with all its digits: 10^-37.9 for float32 and bfloat16, 10^-4.2 for"
        " float16, 10^-307.7 for float64."
    ),
    "step back": (
        "From a layer to the one before it: what the error signal is multiplied by on the way, the product of the"
        " weights, the slopes, the normalisers and the joins between the two."
    ),
    "transmission": "How well a layer's weights get through to the outputs; see log10_transmission.",
    "weight gain": "What the weights alone multiply the error signal by on one step back.",
}
