"""Targets far off that ordinary training reaches: no error before it, whatever one step says of the pace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import unvanish
from unvanish.preserve import seeded


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("scale", "steps", "error"), [(5.0, 1000, False), (3e4, 100, True)])
def test_only_what_one_look_misses_by_far_is_out_of_scale(scale: float, steps: int, error: bool, seed: int) -> None:
    with seeded(seed):
        x = torch.randn(64, 8)
        y = scale * torch.tanh(x @ torch.randn(8, 16)) @ torch.randn(16, 4)
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    report = unvanish.diagnose(model, x, y, F.mse_loss, optimizer=optimizer, steps=steps)
    codes = {finding.code: finding.level for finding in report.findings}
    assert (codes.get("UV702") == "error") == error
    first = float(F.mse_loss(model(x), y).detach())
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    assert (float(F.mse_loss(model(x), y).detach()) > 0.5 * first) == error


class Cut(nn.Module):
    """The trunk in a checkpoint that is cut off, since no input of it needs a gradient."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head, self.cut = nn.Linear(32, 4), cut

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.trunk, x, use_reentrant=self.cut))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cut", [True, False])
def test_a_head_alone_that_crawls_is_put_down_to_the_layers_that_are_cut_off(cut: bool, seed: int) -> None:
    with seeded(seed):
        x = torch.randn(64, 8)
        y = torch.tanh(x @ torch.randn(8, 16)) @ torch.randn(16, 4)
        model = Cut(cut)
    report = unvanish.diagnose(
        model, x, y, F.mse_loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3), steps=1000
    )
    assert report.verdict == ("unused" if cut else "healthy")
    assert {finding.code: finding.level for finding in report.findings}.get("UV705") != "error"


def _cox(outputs: Tensor, times: Tensor) -> Tensor:
    """The partial likelihood of survival times: it takes their order alone."""
    risk = outputs.squeeze(1)[times.argsort(descending=True)]
    return -(risk - risk.logcumsumexp(0)).mean()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("by_size", "cause"), [(True, "scale of the targets"), (False, "scale of the numbers")])
def test_targets_are_blamed_where_the_outputs_follow_their_size(by_size: bool, cause: str, seed: int) -> None:
    with seeded(seed):
        x = torch.randn(128, 8)
        times = torch.exp(x @ torch.randn(8))
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    if by_size:
        report = unvanish.diagnose(model, x, 1000.0 + times[:, None], F.mse_loss, optimizer=optimizer)
    else:
        report = unvanish.diagnose(model, x, times, _cox, optimizer=optimizer)
    (finding,) = [f for f in report.findings if f.code == "UV702"]
    assert finding.cause.startswith(cause) and ("scale-targets" in finding.remedies) == by_size
