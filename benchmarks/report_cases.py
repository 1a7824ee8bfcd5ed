"""Programs as people report them when a network does not learn, each with its known cure.

Each case gives, for a seed, the keyword arguments of a Problem for the program as reported and for the cured one. Data
are drawn here or are the digits of scikit-learn. The kinds are those that come back again and again in forums and in
the issues of libraries: an output that does not fit its loss, a start too large or too small, data of a scale the
network was not made for, a dependency too long for the layer that has to carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = dict[str, Any]
Make = Callable[[bool], nn.Module]
CASES: dict[str, Callable[[int], tuple[Parts, Parts]]] = {}


def case(build: Callable[[int], tuple[Parts, Parts]]) -> Callable[[int], tuple[Parts, Parts]]:
    """Enter a case under the name of its function."""
    CASES[build.__name__] = build
    return build


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def batches(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return (outputs.argmax(-1) == targets).float().mean().item()


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Explained variance, −1 at the least; −1, too, where an output is not finite."""
    o, t = outputs.reshape(-1), targets.reshape(-1)
    if not bool(torch.isfinite(o).all()):
        return -1.0
    return max(-1.0, 1.0 - float((o - t).square().mean() / t.var()))


def digits(seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=drawn(seed))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def pair(
    make: Make, x: Tensor, y: Tensor, loss: Callable[[bool], Any], optimizer: Callable[..., Any], metric: Any,
    *, steps: int = 300, size: int = 64, cut: int = 0, prepare: Callable[[bool, Tensor], Tensor] = lambda _, x: x,
) -> tuple[Parts, Parts]:  # fmt: skip
    """The two programs; the last fifth of the samples (or those from ``cut`` on) validates."""
    cut = cut or len(x) * 4 // 5

    def parts(cured: bool) -> Parts:
        inputs = prepare(cured, x)
        train = batches(inputs[:cut], y[:cut], size)
        return {
            "model": lambda: make(cured), "inputs": train[0][0], "targets": train[0][1], "loss_fn": loss(cured),
            "optimizer": optimizer, "train_batches": train, "validation": (inputs[cut:], y[cut:]), "metric": metric,
            "steps": steps,
        }  # fmt: skip

    return parts(False), parts(True)


def mlp(sizes: list[int], activation: Callable[[], nn.Module], *last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]), *last)


def always(loss: Any) -> Callable[[bool], Any]:
    return lambda _: loss


def adam(rate: float, **more: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.Adam(parameters, rate, **more)


def sgd(rate: float, **more: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.SGD(parameters, rate, **more)


@case
def double_sigmoid(seed: int) -> tuple[Parts, Parts]:
    """A sigmoid before the loss that takes logits: no output falls below one half, so everything is called positive."""
    x, y = digits(seed)
    is_low = (y < 3).float().unsqueeze(1)

    def correct(outputs: Tensor, targets: Tensor) -> float:
        return ((torch.sigmoid(outputs) > 0.5).float() == targets).float().mean().item()

    return pair(
        lambda ok: mlp([64, 48, 48, 1], nn.ReLU, *([] if ok else [nn.Sigmoid()])),
        x, is_low, always(nn.BCEWithLogitsLoss()), adam(2e-3), correct,
    )  # fmt: skip


@case
def double_softmax(seed: int) -> tuple[Parts, Parts]:
    """A softmax before the cross-entropy, in a network of some depth trained with SGD."""
    return pair(
        lambda ok: mlp([64, 64, 64, 64, 10], nn.ReLU, *([] if ok else [nn.Softmax(dim=1)])),
        *digits(seed), always(nn.CrossEntropyLoss()), sgd(0.1, momentum=0.9), accuracy,
    )  # fmt: skip


@case
def softmax_over_batch(seed: int) -> tuple[Parts, Parts]:
    """The softmax runs over the samples, not over the classes."""
    return pair(
        lambda ok: mlp([64, 64, 10], nn.ReLU, *([] if ok else [nn.Softmax(dim=0)])),
        *digits(seed), always(nn.CrossEntropyLoss()), adam(2e-3), accuracy,
    )  # fmt: skip


@case
def raw_nll(seed: int) -> tuple[Parts, Parts]:
    """A loss that takes log probabilities is given what the last layer gives: it falls without end."""
    return pair(
        lambda ok: mlp([64, 64, 64, 10], nn.ReLU, *([nn.LogSoftmax(dim=1)] if ok else [])),
        *digits(seed), always(nn.NLLLoss()), sgd(0.1, momentum=0.9), accuracy,
    )  # fmt: skip


def _curve(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(1000, 6, generator=drawn(seed))
    return x, (torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 1.0).unsqueeze(1)


@case
def relu_regression(seed: int) -> tuple[Parts, Parts]:
    """A ReLU behind the last layer of a regression whose targets are mostly negative."""
    return pair(
        lambda ok: mlp([6, 48, 48, 1], nn.ReLU, *([] if ok else [nn.ReLU()])),
        *_curve(seed), always(nn.MSELoss()), adam(3e-3), r2, steps=400,
    )  # fmt: skip


@case
def broadcast_huber(seed: int) -> tuple[Parts, Parts]:
    """Outputs (N, 1) against targets (N,), in another loss than the mean square."""
    x, y = _curve(seed)

    def loss(cured: bool) -> Any:
        return (lambda o, t: F.smooth_l1_loss(o.squeeze(1), t)) if cured else F.smooth_l1_loss

    return pair(lambda _: mlp([6, 48, 48, 1], nn.ReLU), x, y.squeeze(1), loss, adam(3e-3), r2, steps=400)


@case
def tanh_pixels(seed: int) -> tuple[Parts, Parts]:
    """An autoencoder with a tanh at its end for pixels from 0 to 255."""
    x, _ = digits(seed)
    return pair(
        lambda ok: mlp([64, 48, 16, 48, 64], nn.ReLU, *([Scaled()] if ok else [nn.Tanh()])),
        x, 255 * x, always(nn.MSELoss()), adam(3e-3), r2, steps=400,
    )  # fmt: skip


class Scaled(nn.Module):
    """Outputs of unit size on the scale of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return 100.0 * x + 80.0


@case
def unit_normal_weights(seed: int) -> tuple[Parts, Parts]:
    """Weights drawn from N(0, 1) in six layers of 64 tanh units: every unit is saturated."""

    def make(cured: bool) -> nn.Module:
        model = mlp([64, *[64] * 6, 10], nn.Tanh)
        if not cured:
            for module in model:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight)
        return model

    return pair(make, *digits(seed), always(nn.CrossEntropyLoss()), adam(1e-3), accuracy)


@case
def tiny_weights(seed: int) -> tuple[Parts, Parts]:
    """Weights of 0.01 in eight convolutions."""

    def make(cured: bool) -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        for place in range(8):
            layers += [nn.Conv2d(12 if place else 1, 12, 3, padding=1), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
        for module in model:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight) if cured else nn.init.normal_(module.weight, std=0.01)
        return model

    return pair(make, *digits(seed), always(nn.CrossEntropyLoss()), adam(2e-3), accuracy)


@case
def raw_columns(seed: int) -> tuple[Parts, Parts]:
    """Columns of a table in their own units: 10^4, 1 and 10^-3, with a large mean."""
    x, y = _curve(seed)
    unit = torch.tensor([1e4, 1e3, 1.0, 1e-1, 1e-3, 1e2])

    def prepare(cured: bool, x: Tensor) -> Tensor:
        raw = (x + 5.0) * unit
        return (raw - raw.mean(0)) / raw.std(0) if cured else raw

    return pair(
        lambda _: mlp([6, 48, 48, 1], nn.ReLU), x, y, always(nn.MSELoss()), adam(3e-3), r2, steps=400, prepare=prepare
    )


class FirstSymbol(nn.Module):
    """An LSTM that is asked for the first symbol of a sequence; cured: its forget gates start open."""

    def __init__(self, cured: bool) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(6, 12), nn.LSTM(12, 32, batch_first=True), nn.Linear(32, 4)
        if cured:
            with torch.no_grad():
                self.rnn.get_parameter("bias_ih_l0")[32:64] = 5.0

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(words))[0][:, -1])


@case
def long_memory(seed: int) -> tuple[Parts, Parts]:
    """The class is the first of sixty symbols, read by an LSTM with the weights of the library."""
    generator = drawn(seed)
    words = torch.randint(4, 6, (800, 60), generator=generator)
    words[:, 0] = torch.randint(0, 4, (800,), generator=generator)
    return pair(FirstSymbol, words, words[:, 0].clone(), always(nn.CrossEntropyLoss()), adam(5e-3), accuracy, size=40)


class Forces(nn.Module):
    """Forces as the gradient of a learned energy; the model compares them and returns its own loss."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor, force: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return F.mse_loss(-slope, force)


def _forces(seed: int, make: Make) -> tuple[Parts, Parts]:
    """A spring that hardens."""
    x = torch.randn(800, 3, generator=drawn(seed))
    force = -x - 0.3 * x.square().sum(1, keepdim=True) * x
    train = [{"x": a, "force": b} for a, b in batches(x[:640], force[:640], 64)]

    def parts(cured: bool) -> Parts:
        return {
            "model": lambda: Forces(make(cured)), "inputs": train[0], "optimizer": adam(3e-3), "train_batches": train,
            "validation": {"x": x[640:], "force": force[640:]}, "steps": 400,
        }  # fmt: skip

    return parts(False), parts(True)


@case
def deep_forces(seed: int) -> tuple[Parts, Parts]:
    """An energy of twelve layers of sigmoids, which has next to no gradient by the positions either."""
    return _forces(seed, lambda ok: mlp([3, *[32] * 12, 1], nn.GELU if ok else nn.Sigmoid))


@case
def wild_forces(seed: int) -> tuple[Parts, Parts]:
    """An energy with weights from N(0, 4): its gradient by the positions is far too large."""

    def make(cured: bool) -> nn.Module:
        energy = mlp([3, 48, 48, 1], nn.Tanh)
        for module in energy:
            if isinstance(module, nn.Linear) and not cured:
                nn.init.normal_(module.weight, std=2.0)
        return energy

    return _forces(seed, make)


class Stack(nn.Module):
    """Thirty blocks in a ModuleList, called one after the other; cured: each adds to what it was given."""

    def __init__(self, cured: bool) -> None:
        super().__init__()
        self.cured, self.inlet, self.outlet = cured, nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(30))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inlet(x)
        for block in self.blocks:
            x = x + 30**-0.5 * block(x) if self.cured else block(x)
        return self.outlet(x)


@case
def thirty_blocks(seed: int) -> tuple[Parts, Parts]:
    """Thirty plain blocks in a loop."""
    return pair(Stack, *digits(seed), always(nn.CrossEntropyLoss()), adam(2e-3), accuracy)


@case
def heavy_decay(seed: int) -> tuple[Parts, Parts]:
    """Adam with a weight decay of one tenth, which its own division by the gradient makes far stronger than meant."""
    x, y = digits(seed)

    def parts(cured: bool) -> Parts:
        make = lambda _: mlp([64, 64, 64, 64, 10], nn.ReLU)  # noqa: E731
        decay = 0.0 if cured else 0.1
        return pair(make, x, y, always(nn.CrossEntropyLoss()), adam(1e-3, weight_decay=decay), accuracy)[cured]

    return parts(False), parts(True)


class OwnLoss(nn.Module):
    """A regressor that returns its own loss, (N, 1) against (N,)."""

    def __init__(self, cured: bool) -> None:
        super().__init__()
        self.net, self.cured = mlp([6, 48, 48, 1], nn.ReLU), cured

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.net(x)
        return F.mse_loss(out.squeeze(1) if self.cured else out, y)


@case
def broadcast_inside(seed: int) -> tuple[Parts, Parts]:
    """The same broadcast inside of the model, which computes its own loss."""
    x, y = _curve(seed)
    train = [{"x": a, "y": b} for a, b in batches(x[:800], y[:800, 0], 64)]

    def parts(cured: bool) -> Parts:
        return {
            "model": lambda: OwnLoss(cured), "inputs": train[0], "optimizer": adam(3e-3), "train_batches": train,
            "validation": {"x": x[800:], "y": y[800:, 0]}, "steps": 400,
        }  # fmt: skip

    return parts(False), parts(True)
