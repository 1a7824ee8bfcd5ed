"""A function that returns a Problem, and a model that is built anew for each seed.

unvanish check examples/factory.py:make_problem
"""

import torch
import torch.nn.functional as F
from torch import nn

import unvanish
from unvanish.zoo import mnist


def make_model() -> nn.Module:
    """Ten tanh layers with orthogonal weights."""
    layers: list[nn.Module] = []
    for i in range(10):
        linear = nn.Linear(784 if i == 0 else 64, 64)
        nn.init.orthogonal_(linear.weight)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def make_problem() -> unvanish.Problem:
    """The first 128 digits, with an optimizer made from the parameters of whichever model is built."""
    images, labels = mnist.load(count=128)
    return unvanish.Problem(
        make_model,
        images,
        labels,
        loss_fn=F.cross_entropy,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    )


if __name__ == "__main__":
    print(unvanish.diagnose(make_problem()))
