"""Modules that get no gradient, or none yet, because of how the network is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits
from unvanish.zoo.mlps import stack


def softmax_one_unit() -> Problem:
    """Softmax over a single unit is 1 whatever comes in."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softmax(dim=1))
    inputs = torch.randn(64, 4)
    targets = (inputs.sum(1, keepdim=True) > 0).float()
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model))


class LoRA(nn.Module):
    """A frozen linear layer with a trainable low-rank addition B A x."""

    def __init__(self, fan_in: int, fan_out: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(fan_in, fan_out).requires_grad_(False)
        self.a = nn.Linear(fan_in, rank, bias=False)
        self.b = nn.Linear(rank, fan_out, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


def lora() -> Problem:
    """B starts at zero, so A waits for it: the usual start of a low-rank adaptation."""
    return digits(nn.Sequential(LoRA(784, 64), nn.ReLU(), LoRA(64, 10)), lr=1e-2)


class Forgetful(nn.Module):
    """Owns a layer that its forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(784, 64)
        self.forgotten = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


def unused_layer() -> Problem:
    """A layer that is built and not used."""
    return digits(Forgetful())


class Mixture(nn.Module):
    """Each sample goes to the expert its router scores highest; the last one's score is far below the others'."""

    def __init__(self, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(784, width)
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.head = nn.Linear(width, 10)
        with torch.no_grad():
            self.router.bias[-1] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weight, choice = self.router(x).softmax(dim=1).max(dim=1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero().squeeze(1)
            if len(rows):
                mixed = mixed.index_add(0, rows, expert(x[rows]) * weight[rows, None])
        return self.head(F.relu(x + mixed))


def unused_expert() -> Problem:
    """A mixture of experts one of which gets no sample of this batch."""
    return digits(Mixture())


class Detached(nn.Module):
    """The features are cut from the graph before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).detach())


def detached() -> Problem:
    """A forgotten ``detach`` halfway."""
    return digits(Detached())


class Adversary(nn.Module):
    """A generator judged by a discriminator that is not trained in this half of the step."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 784), nn.Sigmoid())
        self.discriminator = nn.Sequential(nn.Linear(784, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))
        self.discriminator.requires_grad_(False)

    def forward(self, noise: Tensor) -> Tensor:
        return self.discriminator(self.generator(noise))


def generator() -> Problem:
    """The generator's step of an adversarial pair: the gradient passes through frozen layers."""
    model = Adversary()
    return Problem(
        model=model,
        inputs=torch.randn(64, 16),
        targets=torch.ones(64, 1),
        loss_fn=F.binary_cross_entropy_with_logits,
        optimizer=adam(model),
    )


def double_softmax() -> Problem:
    """Softmax in the model and again in the loss, on outputs that are far too flat then."""
    return digits(nn.Sequential(*stack(3, 64, "ReLU", "he"), nn.Softmax(dim=1)))


def double_sigmoid() -> Problem:
    """A sigmoid in the model and again in the loss: no probability below one half."""
    return binary(F.binary_cross_entropy_with_logits)


def sigmoid_output() -> Problem:
    """A sigmoid and the loss that belongs to it."""
    return binary(F.binary_cross_entropy)


def binary(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Problem:
    """Two classes, one unit, one sigmoid."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    inputs = torch.randn(64, 4)
    targets = (inputs.sum(1, keepdim=True) > 0).float()
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=loss_fn, optimizer=adam(model, 1e-2))


def relu_on_logits() -> Problem:
    """A ReLU behind the last layer, whose outputs are all negative: the loss cannot be reached."""
    model = nn.Sequential(*stack(3, 64, "ReLU", "he"), nn.ReLU())
    nn.init.constant_(model[-2].bias, -100.0)  # pyright: ignore[reportArgumentType]
    return digits(model)


def renormalised(last: type[nn.Module] = nn.ReLU) -> Problem:
    """Scores of at least 0 divided by their sum, and the logarithm of the wanted share, clipped away from 0 and 1."""
    model = nn.Sequential(*stack(3, 64, "ReLU", "he"), last())
    return replace(digits(model), loss_fn=share_entropy)


def renormalised_softplus() -> Problem:
    """The same with scores that never are exactly 0."""
    return renormalised(nn.Softplus)


def share_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of scores that are made to sum to one by dividing."""
    shares = scores / scores.sum(1, keepdim=True).clamp(min=1e-7)
    return F.nll_loss(shares.clamp(1e-7, 1.0 - 1e-7).log(), targets)
