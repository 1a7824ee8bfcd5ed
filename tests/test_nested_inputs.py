"""Nested tensors of both layouts as inputs: a report, and the gradient norms of autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.stack([part.mean(0) for part in F.relu(self.a(x)).unbind()]))


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.parametrize("seed", range(2))
def test_parts_of_different_lengths_are_reported(seed: int, layout: Any) -> None:
    torch.manual_seed(seed)
    model, parts = Pooled(), [torch.randn(n, 4) for n in (3, 5, 2, 7, 4, 6)]
    targets = torch.arange(6) % 3
    report = diagnose(Problem(model, torch.nested.nested_tensor(parts, layout=layout), targets, F.cross_entropy))
    assert report.healthy
    hidden = torch.stack([F.relu(model.a(part)).mean(0) for part in parts])
    F.cross_entropy(model.b(hidden), targets).backward()
    for layer, module in zip(report.layers, (model.a, model.b), strict=True):
        norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in module.parameters() if p.grad is not None))
        assert layer.log10_grad_norm == pytest.approx(math.log10(norm), abs=1e-4)
