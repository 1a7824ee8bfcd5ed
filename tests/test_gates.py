"""Up to which size a trainable scale is a gate that explains why little signal reaches the layer before it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.pipeline import look
from unvanish.records import LayerFlow


class Scaled(nn.Module):
    """y = head(g · first(x) + 3): the constant keeps the head's input, and so its share of the output, as g shrinks."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.full((8,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale * self.first(x) + 3.0)


def first_layer(scale: float, seed: int) -> LayerFlow:
    torch.manual_seed(seed)
    flow = look(Problem(Scaled(scale), torch.randn(64, 8), torch.randint(5, (64,)), F.cross_entropy))
    return next(layer for layer in flow.layers if layer.name == "first")


@pytest.mark.parametrize("seed", range(3))
def test_a_scale_of_a_fiftieth_of_its_natural_norm_is_a_gate(seed: int) -> None:
    """A vector of ones is natural, so that each entry is its share: 0.02 lies below the limit of 0.03."""
    layer = first_layer(0.02, seed)
    assert layer.log10_transmission is not None and -3.5 < layer.log10_transmission < -1.5
    assert layer.gate == "scale"


@pytest.mark.parametrize("seed", range(3))
def test_a_scale_of_a_twentieth_attenuates_and_is_no_gate(seed: int) -> None:
    """0.05 weakens the signal enough to be asked about, and is what training makes of an ordinary scale."""
    layer = first_layer(0.05, seed)
    assert layer.log10_transmission is not None and -3.0 < layer.log10_transmission < -1.5
    assert layer.gate == ""
