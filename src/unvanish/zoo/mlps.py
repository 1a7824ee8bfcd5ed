"""Plain stacks of linear layers on MNIST: the activation and the initialisation make the difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits, train

INITS: dict[str, Callable[[Tensor], Any]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
    "lecun": lambda weight: nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1])),
    "standard-normal": nn.init.normal_,
    "chaotic": lambda weight: nn.init.normal_(weight, std=3 / math.sqrt(weight.shape[1])),
}


def stack(depth: int, width: int, activation: str, init: str | None = None, norm: bool = False) -> nn.Sequential:
    """784 - width - … - 10 with ``depth`` linear layers; without ``init`` torch's default, with it zero biases."""
    sizes = [784, *[width] * (depth - 1), 10]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        if init is not None:
            INITS[init](linear.weight)
            nn.init.zeros_(linear.bias)
        layers.append(linear)
        if norm:
            layers.append(nn.BatchNorm1d(fan_out))
        layers.append(getattr(nn, activation)())
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    return nn.Sequential(*layers[: last + 1])


def mlp(
    depth: int,
    width: int = 64,
    activation: str = "Sigmoid",
    init: str | None = None,
    norm: bool = False,
    lr: float = 1e-3,
) -> Problem:
    """A stack at its initialisation."""
    return digits(stack(depth, width, activation, init, norm), lr=lr)


def stuck(depth: int, width: int = 30, steps: int = 100) -> Problem:
    """A sigmoid stack trained until it gives the class frequencies for every image, the best constant output.

    Summed over the samples the error signals cancel, so the gradients of the weights are small AND equally large in the
    lower layers; the signal of each sample still falls from layer to layer.
    """
    model = stack(depth, width, "Sigmoid")
    problem = replace(digits(model, lr=None), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    train(problem, steps)
    return problem


def converged(width: int = 32, count: int = 32, steps: int = 250) -> Problem:
    """A small tanh network that has learned its batch: the loss is used up, the gradient is tiny, nothing is wrong."""
    problem = digits(stack(3, width, "Tanh"), count=count, lr=1e-2)
    train(problem, steps)
    return problem


def dead_relu() -> Problem:
    """The biases of the second layer are −100: its ReLU is off for every image and lets nothing back."""
    model = stack(4, 64, "ReLU")
    torch.nn.init.constant_(model[2].bias, -100.0)  # pyright: ignore[reportArgumentType]
    return digits(model)


def all_zero() -> Problem:
    """Every weight and bias is zero: each layer waits for another one, and only the last bias ever moves."""
    model = stack(3, 64, "Tanh")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return digits(model)


def zero_head() -> Problem:
    """The last layer starts at zero: no gradient behind it in the first step, and all of it from the second on."""
    model = stack(4, 64, "ReLU", "he")
    nn.init.zeros_(model[-1].weight)  # pyright: ignore[reportArgumentType]
    return digits(model)


def frozen_backbone() -> Problem:
    """Only the last layer is trained, as in transfer learning."""
    model = stack(4, 64, "ReLU", "he")
    model[:-1].requires_grad_(False)
    return digits(model, lr=1e-2)


def dead_units(share: float = 0.95) -> Problem:
    """The given share of one layer's units never fires; the few that are left carry the signal."""
    model = stack(4, 100, "ReLU", "he")
    with torch.no_grad():
        model[2].bias[: int(100 * share)] = -100.0  # pyright: ignore[reportIndexIssue]
    return digits(model)


def saturated(activation: str = "Tanh", times: float = 30.0) -> Problem:
    """Units driven many times too hard sit on their flat ends."""
    model = stack(4, 64, activation, "lecun")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(times)
    return digits(model)


def unscaled_inputs() -> Problem:
    """Inputs in the hundreds saturate the first sigmoid layer; the same network is fine on standardised ones."""
    model = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 1))
    inputs = 500.0 + 200.0 * torch.randn(128, 8)
    targets = ((inputs - 500.0) / 200.0).sum(1, keepdim=True) / math.sqrt(8)
    return Problem(
        model=model, inputs=inputs, targets=targets, loss_fn=nn.functional.mse_loss, optimizer=adam(model, 1e-2)
    )


def raw_pixels(norm: bool = False) -> Problem:
    """Pixels from 0 to 255 into a tanh network made for 0 to 1, with or without a normalisation in front."""
    layers = list(stack(4, 64, "Tanh", "lecun"))
    problem = digits(nn.Sequential(nn.BatchNorm1d(784), *layers) if norm else nn.Sequential(*layers))
    return replace(problem, inputs=255.0 * problem.inputs)
