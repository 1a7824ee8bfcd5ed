"""The fully connected classifiers that the lab trains, as ordinary modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unvanish.population.elementwise import module_of
from unvanish.population.initialisations import KINDS, centres, centring_bias, scales


class Block(nn.Module):
    """``φ(norm(W x + b))``; with a ``skip`` ``x + skip · φ(norm(W x + b))``; ``after``: ``φ(x + norm(W x + b))``."""

    def __init__(
        self, fan_in: int, fan_out: int, activation: str, norm: str = "", skip: float = 0.0, after: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, fan_out)
        self.norm = NORMS[norm](fan_out)
        self.activation = module_of(activation)
        self.skip = skip
        self.after = after

    def forward(self, inputs: Tensor) -> Tensor:
        normalised = self.norm(self.linear(inputs))
        if self.after:
            return self.activation(inputs + normalised)
        branch = self.activation(normalised)
        return inputs + self.skip * branch if self.skip else branch


# Batch statistics are taken afresh in every pass: running ones would have to be stacked and updated beside the weights.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "": lambda width: nn.Identity(),
    "batch": lambda width: nn.BatchNorm1d(width, track_running_stats=False),
    "layer": nn.LayerNorm,
}


@dataclass(frozen=True)
class Design:
    """A fully connected classifier: ``hidden`` blocks of ``width`` units and a linear layer to the classes.

    ``skip``: the factor of each residual branch around a block (0: no residual connections). ``after``: the activation
    comes after the sum, as in the first residual networks (He et al. 2015), and squashes the skip too.
    """

    hidden: int
    width: int = 30
    activation: str = "sigmoid"
    init: str = "default"
    norm: str = ""
    skip: float = 0.0
    after: bool = False

    def build(self, inputs: int, outputs: int, seed: int) -> nn.Sequential:
        """The network (float32) with the weights that ``seed`` draws; torch's own random state does not move."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            blocks = [Block(inputs, self.width, self.activation, self.norm)]
            for _ in range(self.hidden - 1):
                blocks.append(Block(self.width, self.width, self.activation, self.norm, self.skip, self.after))
            network = nn.Sequential(*blocks, nn.Linear(self.width, outputs))
            initialise(network, self.init, self.activation)
        return network


@torch.no_grad()
def initialise(network: nn.Sequential, init: str, activation: str) -> None:
    """Draw all weights and biases of a ``Design`` anew from torch's generator; "default" leaves torch's own."""
    for place, linear in enumerate(m for m in network.modules() if isinstance(m, nn.Linear)):
        if init != "default":
            _draw(linear, init, activation, first=not place)


def _draw(linear: nn.Linear, init: str, activation: str, first: bool) -> None:
    weight, bias = scales(init, activation, linear.out_features, linear.in_features, first)
    if KINDS[init] == "uniform":
        nn.init.uniform_(linear.weight, -weight, weight)
    elif KINDS[init] == "normal":
        nn.init.normal_(linear.weight, std=weight)
    else:
        nn.init.orthogonal_(linear.weight, gain=weight)
    if centres(init, activation) and not first:
        linear.bias.copy_(centring_bias(linear.weight))
    elif init in ("normal", "critical"):  # drawn even where all are zero, so that σ_b² does not move the other draws
        nn.init.normal_(linear.bias, std=bias)
    else:
        nn.init.zeros_(linear.bias)
