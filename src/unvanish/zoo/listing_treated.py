"""The rows of the networks with one fault that one particular change removes."""

from __future__ import annotations

from unvanish.zoo.network import Network

TREATED = (
    Network(
        name="broadcast-loss", builder="treated.broadcast_loss", expects=("pairing",), codes=("UV708",),
        about="outputs (N, 1) for targets (N,): the squared error compares each with each",
    ),
    Network(
        name="constant-weights", builder="treated.constant_weights", expects=("identical",), codes=("UV408",),
        about="two layers of tanh whose weights are all 0.05",
    ),
    Network(
        name="decay-adam", builder="treated.decayed_adam", expects=("healthy", "decay"),
        about="an Adam whose weight decay of 0.3 is added to the gradient",
    ),
    Network(
        name="dropout-90", builder="treated.dropped", options={"p": 0.9}, expects=("healthy",),
        about="three layers, each of which drops nine units in ten",
    ),
    Network(
        name="large-embedding", builder="treated.large_embedding", expects=("saturated",), codes=("UV304",),
        about="embeddings with a deviation of 20 before a tanh",
    ),
    Network(
        name="frozen-draws", builder="treated.frozen_draws", expects=("healthy", "frozen"),
        about="layers frozen as they were drawn, and a head that can do nothing with what they make",
    ),
    Network(
        name="detached-state", builder="treated.detached", options={"steps": 8}, expects=("vanished", "healthy"),
        about="a recurrent loop that detaches its state at every step, asked for the first input",
    ),
    Network(
        name="long-momentum", builder="treated.remembering", options={"momentum": 0.999}, expects=("healthy",),
        about="SGD with a momentum of 0.999, which remembers a thousand steps",
    ),
    Network(
        name="slow-statistics", builder="treated.slow_statistics", options={"momentum": 0.001}, expects=("healthy",),
        about="batch normalisation whose running statistics move by a thousandth of each batch's",
    ),
    Network(
        name="where-exp", builder="treated.where_exp", expects=("nonfinite",), codes=("UV501",),
        about="a where whose branch that is not taken overflows: the loss is finite, its gradient is not",
    ),
    Network(
        name="masked-rows", builder="treated.masked_rows", expects=("nonfinite",), codes=("UV501",),
        about="attention in which empty texts are masked whole, their nan replaced afterwards",
    ),
    Network(
        name="norm-of-one", builder="treated.norm_of_one", expects=("dead",), codes=("UV302",),
        about="a normaliser that is given one number at a time",
    ),
    Network(
        name="recall-30", builder="treated.recall", options={"steps": 30}, expects=("healthy", "vanished"),
        about="an LSTM that is asked for the first of 30 numbers, its gates half open",
    ),
    Network(
        name="relu-rnn-30", builder="treated.first_mark", options={"steps": 30}, expects=("vanished",),
        codes=("UV102",), about="a plain recurrent layer of ReLUs that is asked for a mark 30 steps back",
    ),
    Network(
        name="graph-smoothed", builder="treated.smoothed", options={"depth": 12}, expects=("healthy", "collapsed"),
        about="12 graph convolutions, after which the nodes are alike, each asked for a feature of its own",
    ),
    Network(
        name="graph-smoothed-32", builder="rows.graph", options={"depth": 32}, expects=("collapsed",),
        codes=("UV407",), about="32 graph convolutions: rounding takes what tells the nodes apart",
    ),
    Network(
        name="graph-2", builder="rows.graph", options={"depth": 2}, expects=("healthy",), learns=True,
        about="two graph convolutions on the same nodes",
    ),
    Network(
        name="graph-skips-16", builder="rows.graph", options={"depth": 16, "skips": True}, expects=("healthy",),
        learns=True, about="16 graph convolutions, each added to what it was given",
    ),
    Network(
        name="graph-batchnorm-16", builder="rows.graph", options={"depth": 16, "batchnorm": True},
        expects=("healthy",), learns=True, about="16 graph convolutions, each normalised over the nodes",
    ),
    Network(
        name="attention-collapsed-8", builder="rows.attention", options={"depth": 8}, expects=("collapsed",),
        codes=("UV407",), about="eight layers of attention without skips: all tokens of a text become one",
    ),
    Network(
        name="attention-skips-8", builder="rows.attention", options={"depth": 8, "skips": True},
        expects=("healthy",), learns=True, about="the same attention, each layer added to what it was given",
    ),
)  # fmt: skip
