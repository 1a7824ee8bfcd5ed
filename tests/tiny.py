"""Problems so small that all their derivatives fit into dense matrices: 10 samples, 2-2-1 or 2-2-3, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem

CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0, 2])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(seed: int, outputs: int = 1, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 2), activation(), nn.Linear(2, outputs)).double()


def mse(seed: int) -> Problem:
    return Problem(net(seed), draw(10, 2, seed=seed), draw(10, 1, seed=seed + 9), F.mse_loss)


def entropy(seed: int) -> Problem:
    return Problem(net(seed, 3), draw(10, 2, seed=seed), CLASSES, F.cross_entropy)


def binary(seed: int) -> Problem:
    targets = (draw(10, 1, seed=seed + 9) > 0).double()
    return Problem(net(seed), draw(10, 2, seed=seed), targets, F.binary_cross_entropy_with_logits)


LOSSES = [mse, entropy, binary]
