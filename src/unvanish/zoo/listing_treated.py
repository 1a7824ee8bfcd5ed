"""The rows of the networks with one fault that one particular change removes."""

from __future__ import annotations

from unvanish.zoo.network import Network

TREATED = (
    Network(
        name="broadcast-loss", builder="treated.broadcast_loss", expects=("pairing",), codes=("UV708",),
        about="outputs (N, 1) for targets (N,): the squared error compares each with each",
    ),
    Network(
        name="decay-adam", builder="treated.decayed_adam", expects=("healthy", "decay"),
        about="an Adam whose weight decay of 0.3 is added to the gradient",
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
        name="graph-smoothed", builder="treated.smoothed", options={"depth": 12}, expects=("healthy", "collapsed"),
        about="12 graph convolutions, after which the nodes are alike, each asked for a feature of its own",
    ),
)  # fmt: skip
