"""Convolutions, skips, branches and shared modules: healthy networks whose graph is not a chain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo import mnist
from unvanish.zoo.digits import adam, digits

IMAGE = (1, 28, 28)


def small_cnn() -> Problem:
    """Two convolutions with pooling, one linear layer."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
    )  # fmt: skip
    return digits(model, count=32, shape=IMAGE)


def relu6_cnn() -> Problem:
    """The same with ReLU6, which is bounded and, like any rectifier, flat for half of its inputs."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
    )  # fmt: skip
    return digits(model, count=32, shape=IMAGE)


def dead_channels(alive: int = 2) -> Problem:
    """All but ``alive`` of a convolution's 32 channels are off for every image; those are on for all of them."""
    dead = nn.Conv2d(8, 32, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), dead, nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip
    with torch.no_grad():
        for channel, bias in enumerate(dead.bias if dead.bias is not None else ()):
            bias.fill_(1.0 if channel < alive else -100.0)
    return digits(model, count=32, shape=IMAGE)


class Branch(nn.Module):
    """x + gate · W₂ relu(W₁ norm(x)); without a gate, x + W₂ relu(W₁ norm(x))."""

    def __init__(self, width: int, gate: Tensor | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.gate = None if gate is None else nn.Parameter(gate)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.outer(F.relu(self.inner(self.norm(x))))
        return x + (branch if self.gate is None else self.gate * branch)


def residual(
    blocks: int, width: int = 64, gate: float | None = None, gate_width: int = 1, fixup: bool = False
) -> Problem:
    """Residual blocks of two layers each, with an optional trainable gate on every branch.

    ``gate`` 0 with ``gate_width`` 1 is ReZero, a small one of the full width LayerScale; ``fixup`` starts the last
    layer of every branch at zero.
    """
    gates = [None if gate is None else torch.full((gate_width,), gate) for _ in range(blocks)]
    branches = [Branch(width, each) for each in gates]
    if fixup:
        for branch in branches:
            nn.init.zeros_(branch.outer.weight)
            nn.init.zeros_(branch.outer.bias)
    return digits(nn.Sequential(nn.Linear(784, width), *branches, nn.LayerNorm(width), nn.Linear(width, 10)))


class UNet(nn.Module):
    """Two resolutions; the finer one goes around the coarser one and is concatenated to it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.down(x))
        coarse = F.relu(self.middle(F.max_pool2d(fine, 2)))
        return self.last(torch.cat([fine, F.relu(self.up(coarse))], dim=1))


def unet() -> Problem:
    """Removes noise from digits."""
    model = UNet()
    clean = mnist.sample(16)[0].reshape(16, *IMAGE)
    noisy = clean + 0.3 * torch.randn(clean.shape)
    return Problem(model=model, inputs=noisy, targets=clean, loss_fn=F.mse_loss, optimizer=adam(model, 3e-3))


class TwoBranch(nn.Module):
    """One branch of a single layer and one of four, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Linear(784, 32)
        self.long = nn.Sequential(
            nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.short(x), self.long(x)], dim=1)))


def two_branch() -> Problem:
    """Two branches of unequal depth."""
    return digits(TwoBranch())


class Dense(nn.Module):
    """Every layer sees the outputs of all layers before it."""

    def __init__(self, growth: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(784 + growth * i, growth) for i in range(depth))
        self.head = nn.Linear(784 + growth * depth, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return self.head(x)


def densely_connected() -> Problem:
    """A DenseNet of linear layers."""
    return digits(Dense())


class Twice(nn.Module):
    """The same layer is applied two times."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Linear(784, width)
        self.shared = nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.shared(x))
        return self.head(F.relu(self.shared(x)))


def shared_twice() -> Problem:
    """One module, two calls."""
    model = Twice()
    for layer in (model.stem, model.shared):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return digits(model)
