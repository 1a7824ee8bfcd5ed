"""The rows of the networks with one fault that one particular change removes."""

from __future__ import annotations

from unvanish.zoo.network import Network

TREATED = (
    Network(
        name="broadcast-loss", builder="treated.broadcast_loss", expects=("healthy", "pairing"),
        about="outputs (N, 1) for targets (N,): the squared error compares each with each",
    ),
    Network(
        name="decay-adam", builder="treated.decayed_adam", expects=("healthy", "decay"),
        about="an Adam whose weight decay of 0.3 is added to the gradient",
    ),
)  # fmt: skip
