"""A model that is a single layer of torch's, and a bias that stands alone before few outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.flow.transmission import cotangents_of
from unvanish.trace.calls import Root

SINGLE: list[tuple[type[nn.Module], tuple[Any, ...], tuple[int, ...]]] = [
    (nn.Linear, (4, 1), (8, 4)),
    (nn.Linear, (4, 3), (32, 4)),
    (nn.Conv2d, (1, 2, 3), (8, 1, 5, 5)),
    (nn.LayerNorm, (4,), (8, 4)),
]


@pytest.mark.parametrize(("kind", "sizes", "shape"), SINGLE)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_single_module_is_one_layer(
    kind: type[nn.Module], sizes: tuple[Any, ...], shape: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    model, inputs = kind(*sizes), torch.randn(shape)
    targets = torch.randn_like(model(inputs))
    report = unvanish.diagnose(model, inputs, targets, F.mse_loss, seed=seed)
    (layer,) = report.layers
    assert (layer.name, layer.kind, layer.verdict) == (kind.__name__, kind.__name__, "healthy")
    assert layer.parameters == sum(p.numel() for p in model.parameters()) and not report.undecided
    F.mse_loss(model(inputs), targets).backward()
    whole = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None]).norm().log10()
    assert layer.log10_grad_norm == pytest.approx(whole.item(), abs=1e-5)


def test_a_single_module_is_watched() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 1), torch.randn(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unvanish.watch(model, optimizer, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    report = watch.report()
    assert [(layer.name, layer.verdict) for layer in report.layers] == [("Linear", "healthy")]


class Alone(nn.Module):
    def __init__(self, used: bool = True) -> None:
        super().__init__()
        self.linear, self.bias, self.used = nn.Linear(4, 1, bias=False), nn.Parameter(torch.zeros(1)), used

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (self.bias if self.used else 0.0)


@pytest.mark.parametrize("samples", [2, 4, 6, 8])
def test_a_bias_that_stands_alone_is_reached_whatever_the_signs(samples: int) -> None:
    for seed in range(12):
        torch.manual_seed(seed)
        x = torch.randn(samples, 4)
        report = unvanish.diagnose(Alone(), x, x.sum(1, keepdim=True) + 1.0, F.mse_loss, seed=seed)
        assert report.verdict == "healthy"
    unused = unvanish.diagnose(Alone(used=False), x, x.sum(1, keepdim=True) + 1.0, F.mse_loss)
    assert {layer.name: layer.verdict for layer in unused.layers}["bias"] == "unused"


@pytest.mark.parametrize("entries", range(1, 9))
def test_few_cotangents_differ_in_size_and_have_an_rms_of_one(entries: int) -> None:
    for seed in range(20):
        root = Root(slot=(None, 0), shape=(entries, 1), dtype=torch.float32, device=torch.device("cpu"), rms=1.0)
        ((_, found),) = cotangents_of([root], seed)
        assert found.square().mean().item() == pytest.approx(1.0, abs=1e-6)
        assert found.abs().unique().numel() == entries and found.abs().min() > 0.5
        assert entries == 1 or abs(found.sum().item()) > 0.0
