"""The networks of a sweep as ordinary modules: the same weights that the stacked arithmetic has, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unvanish.population import draws
from unvanish.population.designs import Block
from unvanish.population.initialisations import centring_bias
from unvanish.population.shape import Shape, numbers_of, shape_of


def network(settings: Mapping[str, Any], seed: int = 0, inputs: int = 0, outputs: int = 0) -> nn.Sequential:
    """The network of one point of a sweep and one seed (float32).

    ``settings``: the names of a grid. ``inputs``, ``outputs``: those of the data; 0: as a sweep without data has them.

    >>> network({"depth": 3, "width": 8, "activation": "relu", "init": "he"})[0].linear.weight.shape
    torch.Size([8, 8])
    """
    shape = shape_of(settings, inputs, outputs)
    weight, bias, skip = numbers_of(settings)
    return build(shape, np.array([[weight], [bias]]), skip, seed)


@torch.no_grad()
def build(shape: Shape, variances: Any, skip: float, seed: int) -> nn.Sequential:
    """The module of one network of a shape; ``variances``: (2, 1)."""
    built = skeleton(shape, skip).to_empty(device="cpu")
    for parameter, value in zip(built.parameters(), parameters(shape, variances, seed), strict=True):
        parameter.copy_(value)
    return built


def skeleton(shape: Shape, skip: float) -> nn.Sequential:
    """The module without storage, on torch's "meta" device."""
    with torch.device("meta"):
        first = Block(shape.inputs, shape.width, shape.activation, shape.norm)
        rest = [Block(shape.width, shape.width, shape.activation, shape.norm, skip) for _ in range(shape.depth - 1)]
        return nn.Sequential(first, *rest, nn.Linear(shape.width, shape.outputs))


def parameters(shape: Shape, variances: Any, seed: int) -> list[Tensor]:
    """Weights and biases in the order of the module's parameters, with the gains and shifts of its normalisers."""
    tensors: list[Tensor] = []
    for place in range(shape.depth + 1):
        weights, biases = draws.layer(shape.kind, seed, place, *shape.fans(place))
        by_weight, by_bias = (np.float32(scale[0]) for scale in shape.scales(place, variances))
        scaled = weights * by_weight
        shift = centring_bias(scaled) if shape.centred and place else biases * by_bias
        tensors += [torch.from_numpy(scaled), torch.from_numpy(shift)]
        if shape.norm and place < shape.depth:
            tensors += [torch.ones(shape.width), torch.zeros(shape.width)]
    return tensors
