"""The rows of the networks whose fault is easily missed, and of the healthy ones that look like them."""

from __future__ import annotations

from unvanish.zoo.network import Network

DOUBTFUL = (
    Network(
        name="masked-attention", builder="doubtful.masked_attention", expects=("healthy",), learns=True,
        about="attention under a mask of -inf that leaves every row something",
    ),
    Network(
        name="masked-row", builder="doubtful.masked_attention", options={"closed": 1},
        expects=("nonfinite",), codes=("UV501",), about="attention with a row that is masked whole: its softmax is nan",
    ),
    Network(
        name="infinite-weight", builder="doubtful.infinite_weight", expects=("nonfinite",), codes=("UV501",),
        about="a weight that is infinite already",
    ),
    Network(
        name="paired-targets", builder="doubtful.squared_error", expects=("healthy",), learns=True,
        about="least squares written out, outputs and targets of one shape",
    ),
    Network(
        name="broadcast-targets", builder="doubtful.squared_error", options={"flat": True}, expects=("pairing",),
        codes=("UV708",), about="the same with targets (N,) against outputs (N, 1): all pairs are compared",
    ),
    Network(
        name="mean-before-loss", builder="doubtful.squared_error", options={"mean_first": True}, expects=("pairing",),
        codes=("UV708",), about="the same of the means over the samples",
    ),
    Network(
        name="mixture-density", builder="doubtful.mixture", expects=("healthy",), learns=True,
        about="a mixture density whose weights are a softmax over its three components",
    ),
    Network(
        name="mixture-over-batch", builder="doubtful.mixture", options={"axis": 0}, expects=("pairing",),
        codes=("UV709",), about="the same with a softmax over the samples",
    ),
    Network(
        name="softmax-over-batch", builder="doubtful.softmax_first", expects=("pairing",), codes=("UV709",),
        about="outputs that are a softmax over the samples, under a mean squared error",
    ),
    Network(
        name="padding-not-read", builder="doubtful.padded", options={"read": "end"}, expects=("healthy",), learns=True,
        about="padded sequences that are read at the last place which is no padding",
    ),
    Network(
        name="padding-read", builder="doubtful.padded", expects=("collapsed",), codes=("UV711",),
        about="the same read at the last place, where each has padding",
    ),
    Network(
        name="inputs-not-read", builder="doubtful.padded", options={"read": "nothing"}, expects=("collapsed",),
        codes=("UV711",), about="outputs made of everything but the inputs",
    ),
    Network(
        name="equation", builder="doubtful.equation", expects=("healthy",), learns=True,
        about="the residual of an equation of second order, made by a network of tanh",
    ),
    Network(
        name="equation-relu", builder="doubtful.equation", options={"activation": "ReLU"}, expects=("dead",),
        codes=("UV712",), about="the same by a network of ReLU, whose second derivative is zero",
    ),
    Network(
        name="equation-leaky-relu", builder="doubtful.equation", options={"activation": "LeakyReLU"},
        expects=("dead",), codes=("UV712",), about="the same by one of leaky ReLU",
    ),
    Network(
        name="equation-relu-first", builder="doubtful.equation", options={"activation": "ReLU", "order": 1},
        expects=("healthy",), learns=True, about="an equation of first order, by a network of ReLU",
    ),
    Network(
        name="shrunk-logits", builder="doubtful.shrunk_logits", expects=("output_scale",), codes=("UV702",),
        learns=False, about="logits times a thousandth before the cross-entropy, under SGD",
    ),
    Network(
        name="sine-siren", builder="doubtful.sines", expects=("healthy",), learns=True,
        about="three layers of sines with the initialisation made for them",
    ),
    Network(
        name="sine-fast", builder="doubtful.sines", options={"siren": False}, expects=("exploding",),
        codes=("UV201",), about="the same with torch's own: it fits the places it is given and none between them",
    ),
    Network(
        name="sine-slow", builder="doubtful.sines", options={"siren": False, "frequency": 10.0},
        expects=("exploding",), codes=("UV201",), harmless=True, learns=True,
        about="torch's own initialisation and a frequency that suits the task",
    ),
    Network(
        name="guarded-clamp", builder="doubtful.guarded_clamp", expects=("healthy",), learns=True,
        about="an ELU written with where: the clamp in it is flat, beside a path that is not",
    ),
    Network(
        name="penalty-off", builder="doubtful.penalty_off", expects=("healthy",), learns=True,
        about="a penalty on large activations that none of them reaches",
    ),
    Network(
        name="groupnorm-one-number", builder="doubtful.one_number", options={"kind": "group"}, expects=("dead",),
        codes=("UV302",), about="group normalisation over one number a group",
    ),
    Network(
        name="layernorm-one-number", builder="doubtful.one_number", options={"kind": "layer"}, expects=("dead",),
        codes=("UV302",), about="layer normalisation over one number",
    ),
    Network(
        name="ravine", builder="doubtful.ravine", expects=("slow",), codes=("UV404",),
        about="f = 0.001 w1² + w2², at the bottom of the steep direction: the flat one is left",
    ),
)  # fmt: skip
