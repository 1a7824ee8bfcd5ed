"""The network is fine and its loss is silent: it does not move, however wrong the outputs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from unvanish.problem import Problem
from unvanish.zoo.convs import unet
from unvanish.zoo.digits import digits
from unvanish.zoo.mlps import stack


def clamped_loss() -> Problem:
    """The loss is cut off at 0.01 and stays there, however wrong the outputs are: not converged, only silent."""
    return digits_with(clamped_cross_entropy)


def flat_loss() -> Problem:
    """A huge constant swallows the loss: it no longer changes when the outputs do."""
    return digits_with(offset_cross_entropy)


def digits_with(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Problem:
    """A healthy network under another loss."""
    return replace(digits(stack(3, 64, "ReLU", "he")), loss_fn=loss_fn)


def clamped_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """min(cross-entropy, 0.01)."""
    return F.cross_entropy(outputs, targets).clamp(max=0.01)


def offset_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy + 10⁹, which float32 rounds to 10⁹."""
    return F.cross_entropy(outputs, targets) + 1e9


def detached_loss() -> Problem:
    """The loss works on a detached copy of the outputs: its value is right, its derivative zero."""
    return digits_with(cut_cross_entropy)


def cut_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the detached outputs; the term that keeps it attached has no slope."""
    return F.cross_entropy(outputs.detach(), targets) + 0.0 * outputs.sum()


def flat_regression() -> Problem:
    """Least squares on top of a large constant, in a convolutional network."""
    return replace(unet(), loss_fn=offset_squared_error)


def offset_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error + 10⁸."""
    return F.mse_loss(outputs, targets) + 1e8
