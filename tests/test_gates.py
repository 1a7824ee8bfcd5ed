"""Up to which size a trainable scale is a gate that explains why little signal reaches the layer before it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.pipeline import diagnose, look
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


class Product(nn.Module):
    """Two embeddings that are multiplied, and a head."""

    def __init__(self, embeddings: float, head: float) -> None:
        super().__init__()
        self.u, self.v, self.head = nn.Embedding(50, 16), nn.Embedding(50, 16), nn.Linear(16, 1)
        for weight, std in ((self.u.weight, embeddings), (self.v.weight, embeddings), (self.head.weight, head)):
            nn.init.normal_(weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.u(x[:, 0]) * self.v(x[:, 1]))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("embeddings", "head", "trains"), [(1.0, 1e-6, True), (1e-3, 1e-3, False)])
def test_small_factors_that_wait_for_each_other_are_no_gates(
    embeddings: float, head: float, trains: bool, seed: int
) -> None:
    """A small head on ordinary embeddings opens within some steps; where all are small nothing moves but the bias."""
    torch.manual_seed(seed)
    x = torch.randint(0, 50, (512, 2))
    factors = torch.randn(2, 50, 4)
    y = (factors[0, x[:, 0]] * factors[1, x[:, 1]]).sum(1, keepdim=True)
    model = Product(embeddings, head)
    report = diagnose(Problem(model, x, y, F.mse_loss, lambda p: torch.optim.SGD(p, 0.1), steps=400))
    assert ("UV603" in {f.code for f in report.findings}) is trains
    assert (("UV101", "error") in {(f.code, f.level) for f in report.findings}) is not trains
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert (float(loss.detach()) < 0.8 * float(y.var())) is trains
