"""Outputs over their own length, with a learned scale that starts at 1: the targets' size is in reach of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import diagnose
from unvanish.preserve import seeded


class Sized(nn.Module):
    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
        self.scale = nn.Parameter(torch.tensor(1.0)) if learned else 1.0

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return self.scale * z / z.norm(dim=1, keepdim=True)  # the product comes first


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("learned", [True, False])
def test_a_learned_scale_reaches_targets_that_a_fixed_one_does_not(learned: bool, seed: int) -> None:
    with seeded(seed):
        model, x = Sized(learned), torch.randn(64, 10)
    report = diagnose(model, x, 5.0 * F.normalize(x[:, :4], dim=1), F.mse_loss)
    assert any(f.code == "UV706" for f in report.findings) is not learned
