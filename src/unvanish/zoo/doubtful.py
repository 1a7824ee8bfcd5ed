"""Networks whose fault is easily missed, beside healthy ones that look like them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits
from unvanish.zoo.mlps import stack


class Written(nn.Module):
    """Modules by name, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def regression(model: nn.Module, *more: Tensor, wants: Callable[[Tensor], Tensor] | None = None) -> Problem:
    """64 samples of four inputs and, unless ``wants`` says otherwise, the sine of their sum."""
    inputs = torch.randn(64, 4)
    targets = torch.sin(inputs.sum(1, keepdim=True)) if wants is None else wants(inputs)
    return Problem(
        model=model,
        inputs=(inputs, *more) if more else inputs,
        targets=targets,
        loss_fn=F.mse_loss,
        optimizer=adam(model),
    )


def masked_attention(closed: int = 0) -> Problem:
    """Attention over groups of four samples under a mask of -inf; ``closed`` groups are masked whole.

    Their rows of the softmax are nan.
    """
    shut = torch.zeros(16, 1, 4, dtype=torch.bool)
    shut[:, :, 3] = True
    shut[:closed] = True

    def run(parts: Any, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(parts.embed(inputs)).view(16, 4, 16)
        scores = (hidden @ hidden.mT / 4.0).masked_fill(shut, -math.inf)
        mixed = parts.value(scores.softmax(-1) @ hidden)
        return parts.head(mixed).flatten(0, 1)

    return regression(Written(run, embed=nn.Linear(4, 16), value=nn.Linear(16, 16), head=nn.Linear(16, 1)))


def infinite_weight() -> Problem:
    """One weight is infinite already, as after a step that was not finite."""
    model = stack(3, 32, "ReLU", "he")
    with torch.no_grad():
        model[2].get_parameter("weight")[0, 0] = math.inf
    return digits(model)


def squared_error(flat: bool = False, mean_first: bool = False) -> Problem:
    """Least squares of outputs (N, 1) written out; ``flat``: against targets (N,), each output with each target.

    ``mean_first``: of the means over the samples.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if mean_first:
            return (outputs.mean(0) - targets.mean(0)).square().sum()
        return (outputs - targets).square().mean()

    sound = regression(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)))
    return replace(sound, loss_fn=loss, targets=sound.targets.squeeze(1) if flat else sound.targets)


def guarded_clamp() -> Problem:
    """An ELU written with ``where``: its clamp keeps the exponential from overflowing and is flat for every sample."""

    def run(parts: Any, inputs: Tensor) -> Tensor:
        z = parts.first(inputs)
        return parts.head(torch.where(z < 0, z.clamp(max=0.0).exp() - 1.0, z))

    model = Written(run, first=nn.Linear(4, 16), head=nn.Linear(16, 1))
    with torch.no_grad():
        model.first.get_parameter("bias").add_(3.0)  # type: ignore[operator]
    return regression(model)


def penalty_off() -> Problem:
    """A penalty on large activations, none of which is large."""

    def run(parts: Any, inputs: Tensor) -> Tensor:
        z = parts.first(inputs)
        return parts.head(z.tanh()) + (z.abs() - 10.0).relu().mean(1, keepdim=True)

    return regression(Written(run, first=nn.Linear(4, 16), head=nn.Linear(16, 1)))


def one_number(kind: str) -> Problem:
    """A normaliser over groups of a single number each: what is left of it is its bias."""
    norm = nn.GroupNorm(16, 16) if kind == "group" else nn.LayerNorm(1)
    width = 16 if kind == "group" else 1
    return regression(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, width), norm, nn.ReLU(), nn.Linear(width, 1))
    )


def ravine(w1: float = 1.0, w2: float = 0.0, scale: float = 1.0) -> Problem:
    """f = 0.001 w1² + w2² by gradient descent at a rate of 0.5, which leaves nothing of w2 and all of w1.

    The output is the parameter itself; ``scale`` multiplies the loss and divides the rate.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * (outputs.square() * torch.tensor([0.001, 1.0])).sum()

    model = Written(lambda parts, _: parts.w, w=nn.Parameter(torch.tensor([w1, w2])))
    optimizer = torch.optim.SGD(model.parameters(), 0.5 / scale)
    return Problem(model, torch.zeros(1, 1), None, loss, optimizer)


class Mixes(nn.Module):
    """Weights, places and log-widths of a mixture of three, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 32), nn.Linear(32, 9)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(inputs)))


def mixture(axis: int = 1) -> Problem:
    """A mixture density of three components, their weights normalised along ``axis``."""
    return replace(regression(Mixes()), loss_fn=partial(negative_log_density, axis))


def negative_log_density(axis: int, outputs: Tensor, targets: Tensor) -> Tensor:
    """Of ``outputs`` (samples, 9), the mean over the samples."""
    weights, places, widths = outputs.chunk(3, 1)
    square = ((targets - places) * torch.exp(-widths)).square()
    return -torch.logsumexp(torch.log_softmax(weights, axis) - 0.5 * square - widths, 1).mean()


def softmax_first() -> Problem:
    """Two classes as one-hot targets, outputs normalised over the samples."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2), nn.Softmax(0))
    return regression(model, wants=lambda inputs: F.one_hot((inputs.sum(1) > 0).long(), 2).float())


def padded(read: str = "last") -> Problem:
    """Sequences whose last third is padding: read at the last place, at the last one that is none, or not at all."""
    lengths = torch.full((64,), 8)

    def run(parts: Any, inputs: Tensor) -> Tensor:
        if read == "nothing":
            return parts.head(torch.relu(parts.embed.weight)).mean(0).expand(len(inputs), 2)
        hidden = torch.relu(parts.mix(parts.embed(inputs)))
        return parts.head(hidden[:, -1] if read == "last" else hidden[torch.arange(len(inputs)), lengths - 1])

    model = Written(run, embed=nn.Embedding(20, 16), mix=nn.Linear(16, 16), head=nn.Linear(16, 2))
    words = torch.randint(1, 20, (64, 12))
    words[:, 8:] = 0
    return Problem(model, words, (words[:, 7] > 9).long(), F.cross_entropy, adam(model))


def equation(activation: str = "Tanh", order: int = 2) -> Problem:
    """The residual of u'' = -sin, or of u' = cos, between 0 and π, and the ends of u, which are to be 0."""

    def run(parts: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
        x = inputs.clone().requires_grad_()
        made = parts.net(x)
        for _ in range(order):
            (made,) = torch.autograd.grad(made.sum(), x, create_graph=True)
        ends = parts.net(torch.tensor([[0.0], [math.pi]]))
        return made + torch.sin(x) if order == 2 else made - torch.cos(x), ends

    layer = getattr(nn, activation)
    net = nn.Sequential(nn.Linear(1, 32), layer(), nn.Linear(32, 32), layer(), nn.Linear(32, 1))
    model = Written(run, net=net)
    loss: Any = lambda outputs, _: outputs[0].square().mean() + outputs[1].square().mean()  # noqa: E731
    return Problem(model, torch.rand(64, 1) * math.pi, torch.zeros(64, 1), loss, adam(model))


def shrunk_logits(factor: float = 1e-3) -> Problem:
    """Logits that a constant multiplies before the cross-entropy, under SGD."""
    model = Written(lambda parts, inputs: factor * parts.net(inputs), net=stack(2, 32, "ReLU", "he"))
    problem = digits(model)
    return replace(problem, optimizer=torch.optim.SGD(model.parameters(), 0.1))


class Sine(nn.Module):
    """sin(frequency · (W x + b)) with torch's own initialisation, or with that of Sitzmann and others (2020)."""

    def __init__(self, inputs: int, width: int, frequency: float, first: bool, siren: bool) -> None:
        super().__init__()
        self.linear, self.frequency = nn.Linear(inputs, width), frequency
        if siren:
            bound = 1.0 / inputs if first else math.sqrt(6.0 / inputs) / frequency
            nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * self.linear(x))


def sines(frequency: float = 30.0, siren: bool = True) -> Problem:
    """A fading wave over 256 places of a line, by three layers of sines and a linear one."""
    layers = [Sine(inputs, 64, frequency, k == 0, siren) for k, inputs in enumerate((1, 64, 64))]
    model = nn.Sequential(*layers, nn.Linear(64, 1))
    places = torch.linspace(-1.0, 1.0, 256)[:, None]
    return Problem(
        model=model,
        inputs=places,
        targets=torch.sin(12.0 * places) * torch.exp(-places.square()),
        loss_fn=F.mse_loss,
        optimizer=adam(model, 1e-3),
    )
