"""Training many networks of one shape at once: every network has weights of its own, a layer is one batched product.

It is what a loop over modules with torch's optimizers does, to the rounding of float32; tests hold it against that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unvanish.population.data import Images
from unvanish.population.elementwise import Back, Floats, activate, normalise
from unvanish.population.modules import parameters
from unvanish.population.shape import Array, Shape
from unvanish.population.threads import one_thread

MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}
"""By the name in a grid."""
CHUNK = 2**20
"""Numbers, weights and activations, of the networks that are trained together: 4 MiB."""
EVERY = 10
"""Steps between two reports of progress."""
JUDGED = 250
"""Images whose outputs are worked out at once to count right answers."""

Tell = Callable[[float], None]


@dataclass(frozen=True)
class Trained:
    """Accuracy on the images that judge and the last training loss, (points, seeds); speeds (layers, points, seeds).

    ``log10_speeds``: of the root mean square over the steps of ‖∂C/∂W‖, from the first layer to the last.
    """

    accuracy: Array
    loss: Array
    log10_speeds: Array


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: ``optimizer`` is a name of a grid, ``rates`` (P,) the learning rates of the points."""

    optimizer: str
    rates: Array
    steps: int


@one_thread()
def train(
    shape: Shape, variances: Array, skip: Array, seeds: Sequence[int], data: Images, recipe: Recipe
) -> Trained:  # fmt: skip
    """Train the networks of every point and seed with cross-entropy on the same batches."""
    pairs = [(point, at) for point in range(variances.shape[1]) for at in range(len(seeds))]
    table = (variances.shape[1], len(seeds))
    accuracy, loss, speeds = np.empty(table), np.empty(table), np.empty((shape.depth + 1, *table))
    size = together(shape)
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        chosen = np.array([point for point, _ in some])
        drawn = (parameters(shape, variances[:, point : point + 1], seeds[at]) for point, at in some)
        stack = Stack(shape, skip[chosen], drawn)
        seen = stack.train(data, Recipe(recipe.optimizer, recipe.rates[chosen], recipe.steps))
        places = tuple(np.array(some).T)
        accuracy[places], loss[places] = stack.accuracy(*data.judge), seen[0]
        speeds[(slice(None), *places)] = seen[1]
    return Trained(accuracy, loss, speeds)


def together(shape: Shape) -> int:
    """How many networks of a shape are trained side by side."""
    inner = (shape.depth - 1) * shape.width**2 + shape.width * (shape.inputs + shape.outputs)
    return max(1, min(512, CHUNK // (2 * inner + 2 * shape.depth * shape.batch * shape.width)))


@dataclass
class _Layer:
    """What one layer keeps on the way forward: what entered it, and the ways back through its activation and norm."""

    entering: Floats
    activated: Back | None = None
    normalised: Back | None = None
    unit: Floats | None = None


class Stack:
    """Networks of one shape side by side: parameters (N, …) in the order of a module's, gradients beside them.

    ``skip``: (N,), the factors of the residual branches; ``networks``: each one's parameters, which are copied.
    """

    def __init__(self, shape: Shape, skip: Array, networks: Iterable[Sequence[Tensor]]) -> None:
        self.shape, self.count = shape, len(skip)
        self.parameters = [torch.stack([*each]) for each in zip(*networks, strict=True)]
        self.gradients = [torch.empty_like(each) for each in self.parameters]
        self.skip = skip.astype(np.float32)[:, None, None]
        self.by_layer = 4 if shape.norm else 2

    def train(self, data: Images, recipe: Recipe, order: int = 0, tell: Tell = lambda share: None) -> tuple[Any, Any]:
        """The last training losses (N,) and the speeds (layers, N); ``recipe.rates``: (N,).

        ``order``: the seed of the order of the images. ``tell`` hears the share that is done, and may raise.
        """
        step = _stepper(self, recipe.optimizer, torch.from_numpy(recipe.rates).float())
        weights = self.gradients[:: self.by_layer]
        squares = torch.zeros(len(weights), self.count, dtype=torch.float64)
        losses = torch.full((self.count,), math.nan)
        with np.errstate(all="ignore"):
            for done, (inputs, labels) in enumerate(data.batches(self.shape.batch, recipe.steps, order)):
                losses = self.differentiate(inputs, labels)
                for place, gradient in enumerate(weights):
                    squares[place] += torch.linalg.vector_norm(gradient, dim=(1, 2)).double() ** 2
                step()
                if done % EVERY == 0:
                    tell(done / recipe.steps)
            speeds = 0.5 * np.log10(squares.numpy() / recipe.steps)
        return losses.double().numpy(), speeds

    def differentiate(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Fill ``gradients``; the losses of all networks (N,)."""
        logits, layers = self.forward(inputs)  # numpy's exponential is several times as fast as torch's
        shifted = logits - logits.max(-1, keepdims=True)
        shares = np.exp(shifted)
        total = shares.sum(-1, keepdims=True)
        shares /= total
        rows, picked = np.arange(len(labels)), labels.numpy()
        losses = (np.log(total[..., 0]) - shifted[:, rows, picked]).mean(-1)
        shares[:, rows, picked] -= 1
        shares /= len(labels)
        self._back(shares, layers)
        return torch.from_numpy(losses)

    def forward(self, inputs: Tensor) -> tuple[Floats, list[_Layer]]:
        """What every network answers, (N, samples, outputs), and what the way back needs."""
        here: Floats = np.broadcast_to(inputs.numpy(), (self.count, *inputs.shape))
        layers: list[_Layer] = []
        for place in range(self.shape.depth + 1):
            weights, biases, *affine = self._of_layer(self.parameters, place)
            layer = _Layer(here)
            layers.append(layer)
            z = self._linear(here, weights, biases)
            if place == self.shape.depth:
                return z, layers
            if affine:
                layer.unit, layer.normalised = normalise(self.shape.norm, z)
                z = layer.unit * affine[0].numpy()[:, None] + affine[1].numpy()[:, None]
            joined = self.shape.skip and place > 0
            if joined and self.shape.after:
                here, layer.activated = activate(self.shape.activation, here + z)
                continue
            value, layer.activated = activate(self.shape.activation, z)
            here = here + self.skip * value if joined else value
        raise AssertionError("the last layer returns")

    def _linear(self, here: Floats, weights: Tensor, biases: Tensor) -> Floats:
        """W x + b; numpy's batched product is faster than torch's for matrices as small as these."""
        z = np.matmul(here, weights.numpy().swapaxes(1, 2))
        z += biases.numpy()[:, None]
        return z

    def _of_layer(self, tensors: list[Tensor], place: int) -> list[Tensor]:
        return tensors[place * self.by_layer : (place + 1) * self.by_layer]

    def _back(self, g: Floats, layers: list[_Layer]) -> None:
        around: Any = None
        for place in range(self.shape.depth, -1, -1):
            weights, *_ = self._of_layer(self.parameters, place)
            of_weights, of_biases, *_ = self._of_layer(self.gradients, place)
            here = torch.from_numpy(g)
            torch.bmm(here.mT, _tensor(layers[place].entering), out=of_weights)
            torch.sum(here, 1, out=of_biases)
            if place == 0:
                return
            came = np.matmul(g, weights.numpy())
            around = came if around is None else around + came
            before = layers[place - 1]
            assert before.activated is not None
            joined = self.shape.skip and place > 1
            g = before.activated(self.skip * around if joined and not self.shape.after else around)
            around = (g if self.shape.after else around) if joined else None
            if before.normalised is not None and before.unit is not None:
                g = self._normalised(before.unit, before.normalised, g, place - 1)

    def _normalised(self, unit: Floats, normalised: Back, g: Floats, place: int) -> Floats:
        """Back through a normaliser, whose gains and shifts have gradients too."""
        _, _, gains, _ = self._of_layer(self.parameters, place)
        _, _, of_gains, of_shifts = self._of_layer(self.gradients, place)
        of_gains.copy_(torch.from_numpy((g * unit).sum(1)))
        of_shifts.copy_(torch.from_numpy(g.sum(1)))
        return normalised(g * gains.numpy()[:, None])

    def accuracy(self, inputs: Tensor, labels: Tensor) -> Array:
        """Share of right answers of each network (N,); 0 where its outputs are not finite."""
        size = len(labels) if self.shape.norm == "batch" else JUDGED
        right, finite = torch.zeros(self.count, dtype=torch.float64), torch.ones(self.count, dtype=torch.bool)
        with np.errstate(all="ignore"):
            for some, expected in zip(inputs.split(size), labels.split(size), strict=True):
                outputs, _ = self.forward(some)
                right += torch.from_numpy((outputs.argmax(-1) == expected.numpy()).sum(-1))
                finite &= torch.from_numpy(np.isfinite(outputs).all(axis=(-2, -1)))
        return torch.where(finite, right / len(labels), 0.0).numpy()


def _tensor(array: Floats) -> Tensor:
    """The array as a tensor; inputs that all networks share are read-only and stay one copy."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(array[0].copy()).expand(array.shape)


def _stepper(stack: Stack, optimizer: str, rates: Tensor) -> Callable[[], None]:
    """One step of one of torch's optimizers with a rate (N,) for each network.

    Gradient descent is written out. The others act with rate 1 on shadows of zeros, which then are the update itself:
    right for every rule that is elementwise and does not read the weights.
    """
    shaped = [rates.reshape(-1, *[1] * (each.ndim - 1)) for each in stack.parameters]
    pairs = list(zip(stack.parameters, stack.gradients, shaped, strict=True))
    if optimizer == "sgd":

        def descend() -> None:
            for parameter, gradient, rate in pairs:
                parameter.addcmul_(gradient, rate, value=-1)

        return descend
    shadows = [torch.zeros_like(each, requires_grad=True) for each in stack.parameters]
    inner = MAKERS[optimizer](shadows, lr=1.0)
    for shadow, gradient in zip(shadows, stack.gradients, strict=True):
        shadow.grad = gradient

    @torch.no_grad()
    def step() -> None:
        inner.step()
        for shadow, (parameter, _, rate) in zip(shadows, pairs, strict=True):
            parameter.addcmul_(shadow.detach(), rate)
            shadow.zero_()

    return step
