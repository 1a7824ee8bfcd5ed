"""Losses of logits and of log-probabilities that are given probabilities, seen in a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding

SEEDS = [0, 1]
Loss = Callable[[Tensor, Tensor], Tensor]


def _trained(outputs: int, loss_of: Loss, target: Tensor, seed: int, path: Path) -> list[Finding]:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs), nn.Sigmoid() if outputs == 1 else nn.Softmax(1)
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=path) as run:
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(net(torch.randn(len(target), 6)), target).backward()
            optimizer.step()
    return [each for each in run.findings if each.code == "UV706"]


def _lowest(target: Tensor) -> float:
    """By search: the lowest loss of any numbers between 0 and 1."""
    grid = torch.linspace(0.0, 1.0, 1001).double()
    each = [F.binary_cross_entropy_with_logits(grid, t.expand(1001), reduction="none").min() for t in target.flatten()]
    return torch.stack(each).mean().item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.5, 0.125])
@pytest.mark.parametrize("flat", [True, False])
def test_a_sigmoid_before_logits_is_named_with_the_lowest_loss(
    flat: bool, share: float, seed: int, tmp_path: Path
) -> None:
    target = (torch.arange(16) < 16 * share).float()

    def loss_of(p: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(p.squeeze(1) if flat else p, y if flat else y[:, None])

    (found,) = _trained(1, loss_of, target, seed, tmp_path / "r.unvanish")
    constant = -(share * torch.tensor(share).log() + (1 - share) * torch.tensor(1 - share).log()).item()
    assert found.level == "error" and found.cause == "sigmoid"
    assert found.evidence[0].value == pytest.approx(_lowest(target.double()) / constant, rel=1e-4)


FITS: dict[str, tuple[int, Loss, Tensor]] = {
    "a loss of probabilities": (1, lambda p, y: F.binary_cross_entropy(p[:, 0], y), (torch.arange(16) < 8).float()),
    "the logits again": (
        1, lambda p, y: F.binary_cross_entropy_with_logits(p[:, 0].logit(), y), (torch.arange(16) < 8).float(),
    ),
    "targets within reach": (
        1, lambda p, y: F.binary_cross_entropy_with_logits(p[:, 0], y), torch.linspace(0.51, 0.73, 16),
    ),
    "all targets alike": (1, lambda p, y: F.binary_cross_entropy_with_logits(p[:, 0], y), torch.ones(16)),
    "logarithms": (4, lambda p, y: F.nll_loss(p.log(), y), torch.arange(16) % 4),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_what_fits_is_left_alone(name: str, tmp_path: Path) -> None:
    outputs, loss_of, target = FITS[name]
    assert not _trained(outputs, loss_of, target, 0, tmp_path / "r.unvanish")


@pytest.mark.parametrize("seed", SEEDS)
def test_probabilities_where_logarithms_are_meant(seed: int, tmp_path: Path) -> None:
    (found,) = _trained(4, F.nll_loss, torch.arange(16) % 4, seed, tmp_path / "r.unvanish")
    # between that of four equal probabilities and that of a sure answer
    low, high = torch.full((4,), 0.25).logsumexp(0).item(), torch.eye(4)[0].logsumexp(0).item()
    size = found.evidence[0].value
    assert "log-probabilities" in found.message and isinstance(size, float) and low <= size <= high
