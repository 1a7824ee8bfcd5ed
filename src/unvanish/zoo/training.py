"""The gradient flows and training fails all the same: the targets, the outputs or the learning rate do not fit."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.convs import small_cnn
from unvanish.zoo.digits import adam, digits
from unvanish.zoo.mlps import stack

SGD = torch.optim.SGD


def sgd_digits(lr: float, steps: int) -> Problem:
    """A healthy network with SGD at the given rate."""
    model = stack(3, 64, "ReLU", "he")
    return replace(digits(model, lr=None), optimizer=SGD(model.parameters(), lr=lr), steps=steps)


def adam_cnn(lr: float, steps: int) -> Problem:
    """A healthy convolutional network with Adam at the given rate."""
    problem = small_cnn()
    return replace(problem, optimizer=adam(problem.model, lr), steps=steps)  # pyright: ignore[reportArgumentType]


def ill_conditioned(features: int = 2) -> Problem:
    """Curvatures 1 (first half) and 10⁻⁵ (second), and all of the error left in the flat directions.

    SGD is near the limit of the steep ones.
    """
    model = nn.Linear(features, 1, bias=False)
    steep = torch.arange(features) < features // 2
    inputs = torch.linalg.qr(torch.randn(256, features))[0] * 16.0  # orthogonal columns with mean square 1
    inputs = inputs * torch.where(steep, 1.0, 10**-2.5)
    wanted = torch.where(steep, 1.0, 1000.0)[None]
    with torch.no_grad():
        model.weight.copy_(torch.where(steep, 0.9999, 0.0)[None])
    return Problem(
        model=model,
        inputs=inputs,
        targets=inputs @ wanted.T,
        loss_fn=F.mse_loss,
        optimizer=SGD(model.parameters(), lr=0.9),
    )


def least_squares(signal: float = 0.0) -> Problem:
    """Least squares at its optimum, on targets that are ``signal`` times the sum of the inputs and unit noise.

    Without a signal as good as it gets is the mean.
    """
    model = nn.Linear(3, 1)
    inputs = torch.randn(512, 3)
    targets = signal * inputs.sum(1, keepdim=True) + torch.randn(512, 1)
    extended = torch.cat([inputs, torch.ones(512, 1)], dim=1).double()  # float32 would depend on memory alignment
    best = torch.linalg.lstsq(extended, targets.double()).solution
    with torch.no_grad():
        model.weight.copy_(best[:3].T)
        model.bias.copy_(best[3])
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model))


def noise_labels() -> Problem:
    """Logistic regression on labels drawn by lot, at its optimum."""
    model = nn.Linear(3, 4)
    inputs, targets = torch.randn(512, 3), torch.randint(4, (512,))
    exact = nn.Linear(3, 4).double()
    search = torch.optim.LBFGS(exact.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(exact(inputs.double()), targets)
        loss.backward()
        return loss

    search.step(closure)  # pyright: ignore[reportArgumentType]
    model.load_state_dict(exact.state_dict())
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model))


def output_range(last: str = "Sigmoid", mean: float = 25.0) -> Problem:
    """Targets within 10 of ``mean`` for an activation that ends before."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), getattr(nn, last)())
    inputs = torch.randn(128, 4)
    targets = mean + 10.0 * torch.tanh(inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model))


def output_scale(scale: float = 1e3, activation: str = "Tanh") -> Problem:
    """Targets from 0 to twice ``scale`` for a network that starts near 0 and moves by about 0.001 a step."""
    model = nn.Sequential(nn.Linear(4, 32), getattr(nn, activation)(), nn.Linear(32, 1))
    inputs = torch.randn(128, 4)
    targets = scale * (1.0 + torch.tanh(inputs.sum(1, keepdim=True)))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model), steps=1000)
