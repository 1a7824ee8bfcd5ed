"""The programs of the repair benchmark: the shared zoo's, and convolutional and transformer cases of our own.

Each case gives, for a seed, the faulty problem, the repaired one, and the planned number of steps.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
LONGEST, SHORTEST, HEAVY = 1200, 200, 228
HEAVY_CASES = {"tdc_cnn_softmax_hidden", "tdc_cnn_miss_norm", "ok_tdc_cnn", "at_mnist_relu20"}


@dataclass(frozen=True)
class Case:
    """One program: ``build(variant, seed)`` with variant "fault" or "fix"; controls have no fault."""

    id: str
    build: Callable[[str, int], unvanish.Problem]
    control: bool = False


class Shuffled:
    """Batches of one data set, in a new order whenever they are iterated; a last batch of one sample is left out."""

    def __init__(self, inputs: Tensor, targets: Tensor, size: int) -> None:
        self.inputs, self.targets, self.size = inputs, targets, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs))
        for part in order.split(self.size):
            if len(part) > 1:
                yield self.inputs[part], self.targets[part]


def cases() -> dict[str, Case]:
    """Every case by its name; those of the shared zoo only where it lies beside this checkout."""
    by_name = {name: Case(name, build) for name, build in OWN.items()}
    if ZOO.is_dir():
        sys.path.insert(0, str(ZOO))
        zoo = importlib.import_module("cases")
        broken, controls = zoo.verified(str(ZOO / "truth.json"))
        for name in [*broken, *controls]:
            by_name[name] = Case(name, _shared(zoo, name), name in controls)
    return by_name


def _shared(zoo: Any, name: str) -> Callable[[str, int], unvanish.Problem]:
    def build(variant: str, seed: int) -> unvanish.Problem:
        fault, fix = zoo.build(name, "fault", seed), zoo.build(name, "fix", seed)
        length = max(s.epochs * math.ceil(len(s.X) / s.batch) for s in (fault, fix))
        steps = HEAVY if name in HEAVY_CASES else min(LONGEST, max(SHORTEST, length))
        s = zoo.build(name, variant, seed)
        size = max(s.batch, min(64, len(s.X)))
        return unvanish.Problem(
            s.model,
            s.X[:size],
            s.y[:size],
            s.loss_fn,
            s.opt(),
            Shuffled(s.X, s.y, s.batch),
            (s.Xv, s.yv),
            _metric(s.task),
            steps,
        )

    return build


def _metric(task: str) -> Callable[[Tensor, Tensor], float]:
    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        if task == "multi":
            return (outputs.argmax(1) == targets.argmax(1)).float().mean().item()
        return ((outputs > 0.5).float() == targets).float().mean().item()

    def r_squared(outputs: Tensor, targets: Tensor) -> float:
        rest = (outputs - targets).pow(2).mean() / (targets - targets.mean()).pow(2).mean()
        return max(-9.0, 1.0 - float(rest))

    return r_squared if task == "reg" else accuracy


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    return (outputs.argmax(1) == targets).float().mean().item()


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(data.images / 16.0, dtype=torch.float32)[order].unsqueeze(1)
    return inputs, torch.tensor(data.target)[order]


def _problem(
    model: nn.Module,
    lr: float,
    *,
    steps: int = 300,
    size: int = 64,
    adam: bool = False,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> unvanish.Problem:
    images, labels = _digits()
    images = prepare(images)
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)(model.parameters(), lr=lr)
    return unvanish.Problem(
        model,
        images[:size],
        labels[:size],
        F.cross_entropy,
        optimizer,
        Shuffled(images[:1200], labels[:1200], size),
        (images[1200:], labels[1200:]),
        _accuracy,
        steps,
    )


def _convolutions(activation: type[nn.Module], depth: int, width: int = 12) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [nn.Conv2d(width if place else 1, width, 3, padding=1), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


def conv_sigmoid(variant: str, seed: int) -> unvanish.Problem:
    """Ten convolutions with sigmoids between them; repaired by ReLUs and He's weights."""
    torch.manual_seed(seed)
    model = _convolutions(nn.Sigmoid if variant == "fault" else nn.ReLU, 10)
    if variant == "fix":
        _he(model)
    return _problem(model, 3e-3, adam=True)


def conv_dead_relu(variant: str, seed: int) -> unvanish.Problem:
    """Biases of −2 switch every ReLU off; repaired by He's weights and zero biases."""
    torch.manual_seed(seed)
    model = _convolutions(nn.ReLU, 4)
    _he(model)
    if variant == "fault":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.bias, -2.0)  # type: ignore[arg-type]
    return _problem(model, 0.1)


def conv_small_init(variant: str, seed: int) -> unvanish.Problem:
    """Weights a tenth of the size they should have in eight convolutions; repaired by He's weights."""
    torch.manual_seed(seed)
    model = _convolutions(nn.ReLU, 8)
    _he(model)
    if variant == "fault":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.1)
    return _problem(model, 0.05)


def conv_raw_pixels(variant: str, seed: int) -> unvanish.Problem:
    """Pixels from 0 to 255 with a learning rate for standardised ones; repaired by dividing them."""
    torch.manual_seed(seed)
    model = _convolutions(nn.ReLU, 3)
    _he(model)
    return _problem(model, 0.1, prepare=(lambda x: x * 255.0) if variant == "fault" else (lambda x: x))


class PostNorm(nn.Module):
    """Eight rows of an image as eight tokens, through transformer layers that normalise last (or first)."""

    def __init__(self, depth: int, first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=first) for _ in range(depth)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1)) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def transformer_post_norm(variant: str, seed: int) -> unvanish.Problem:
    """Eighteen post-norm layers with Adam at 3e-3 and no warm-up; repaired by normalising first."""
    torch.manual_seed(seed)
    return _problem(PostNorm(18, variant == "fix"), 3e-3, adam=True, steps=240)


def autoencoder(variant: str, seed: int) -> unvanish.Problem:
    """An encoder of eight sigmoid layers that the decoder learns to ignore; repaired by tanh."""
    torch.manual_seed(seed)
    activation = nn.Sigmoid if variant == "fault" else nn.Tanh
    sizes = [64, 48, 48, 48, 48, 48, 48, 16]
    encoder = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())]
    model = nn.Sequential(nn.Flatten(), *encoder, nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64))
    images, _ = _digits()
    flat = images.flatten(1)
    return unvanish.Problem(
        model,
        images[:64],
        flat[:64],
        F.mse_loss,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        Shuffled(images[:1200], flat[:1200], 64),
        (images[1200:], flat[1200:]),
        _explained,
        600,
    )


def _explained(outputs: Tensor, targets: Tensor) -> float:
    return 1.0 - float((outputs - targets).pow(2).mean() / (targets - targets.mean(0)).pow(2).mean())


def _he(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


OWN: dict[str, Callable[[str, int], unvanish.Problem]] = {
    "conv_sigmoid": conv_sigmoid,
    "conv_dead_relu": conv_dead_relu,
    "conv_small_init": conv_small_init,
    "conv_raw_pixels": conv_raw_pixels,
    "transformer_post_norm": transformer_post_norm,
    "autoencoder": autoencoder,
}
