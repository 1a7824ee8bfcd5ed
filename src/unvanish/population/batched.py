"""Many small networks trained at once: seeds × learning rates of one design, stacked along a new first dimension."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import stack_module_state, vmap

from unvanish.population.elementwise import module_of
from unvanish.population.initialisations import KINDS, centres, centring_bias, scales
from unvanish.records import UnvanishError
from unvanish.zoo import mnist

Loss = Callable[[Tensor, Tensor], Tensor]
Optimizer = Callable[..., torch.optim.Optimizer]
EVERY = 10  # steps between two reports of progress
OPTIMIZERS: dict[str, tuple[Optimizer, float]] = {
    "SGD": (torch.optim.SGD, 0.01),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), 0.001),
    "Adagrad": (torch.optim.Adagrad, 0.001),
    "RMSprop": (torch.optim.RMSprop, 0.0001),
    "Adam": (torch.optim.Adam, 0.0001),
}
"""Each optimizer with the smallest of its learning rates; all are tried over the same three decades above it."""


class Block(nn.Module):
    """``φ(norm(W x + b))``; with a ``skip`` ``x + skip · φ(norm(W x + b))``; ``after``: ``φ(x + norm(W x + b))``."""

    def __init__(
        self, fan_in: int, fan_out: int, activation: str, norm: str = "", skip: float = 0.0, after: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, fan_out)
        self.norm = NORMS[norm](fan_out)
        self.activation = module_of(activation)
        self.skip = skip
        self.after = after

    def forward(self, inputs: Tensor) -> Tensor:
        return self.join(inputs, self.norm(self.linear(inputs)))

    def join(self, inputs: Tensor, normalised: Tensor) -> Tensor:
        """What follows the norm: the activation and the connection around it."""
        if self.after:
            return self.activation(inputs + normalised)
        branch = self.activation(normalised)
        return inputs + self.skip * branch if self.skip else branch


# Batch statistics are taken afresh in every pass: running ones would have to be stacked and updated beside the weights.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "": lambda width: nn.Identity(),
    "batch": lambda width: nn.BatchNorm1d(width, track_running_stats=False),
    "layer": nn.LayerNorm,
}


@dataclass(frozen=True)
class Design:
    """A fully connected classifier: ``hidden`` blocks of ``width`` units and a linear layer to the classes.

    ``skip``: the factor of each residual branch around a block (0: no residual connections). ``after``: the activation
    comes after the sum, as in the first residual networks (He et al. 2015), and squashes the skip too.
    """

    hidden: int
    width: int = 30
    activation: str = "sigmoid"
    init: str = "default"
    norm: str = ""
    skip: float = 0.0
    after: bool = False

    def build(self, inputs: int, outputs: int, seed: int) -> nn.Sequential:
        """The network (float32) with the weights that ``seed`` draws; torch's own random state does not move."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            blocks = [Block(inputs, self.width, self.activation, self.norm)]
            for _ in range(self.hidden - 1):
                blocks.append(Block(self.width, self.width, self.activation, self.norm, self.skip, self.after))
            network = nn.Sequential(*blocks, nn.Linear(self.width, outputs))
            initialise(network, self.init, self.activation)
        return network


@torch.no_grad()
def initialise(network: nn.Sequential, init: str, activation: str) -> None:
    """Draw all weights and biases of a ``Design`` anew from torch's generator; "default" leaves torch's own."""
    for place, linear in enumerate(m for m in network.modules() if isinstance(m, nn.Linear)):
        if init != "default":
            _draw(linear, init, activation, first=not place)


def _draw(linear: nn.Linear, init: str, activation: str, first: bool) -> None:
    weight, bias = scales(init, activation, linear.out_features, linear.in_features, first)
    if KINDS[init] == "uniform":
        nn.init.uniform_(linear.weight, -weight, weight)
    elif KINDS[init] == "normal":
        nn.init.normal_(linear.weight, std=weight)
    else:
        nn.init.orthogonal_(linear.weight, gain=weight)
    if centres(init, activation) and not first:
        linear.bias.copy_(centring_bias(linear.weight))
    elif init in ("normal", "critical"):  # drawn even where all are zero, so that σ_b² does not move the other draws
        nn.init.normal_(linear.bias, std=bias)
    else:
        nn.init.zeros_(linear.bias)


class Population:
    """Networks of one ``Design`` with stacked parameters; a step of all costs little more than its arithmetic.

    ``parameters``: name -> (count, …).

    >>> design = Design(hidden=2, width=3)
    >>> population = Population([design.build(4, 2, seed) for seed in range(5)])
    >>> population.outputs(torch.zeros(7, 4)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(self, networks: Sequence[nn.Sequential]) -> None:
        self.count = len(networks)
        self.template = copy.deepcopy(networks[0]).to("meta")
        stacked, _ = stack_module_state([*networks])
        self.parameters: dict[str, Tensor] = {name: p.detach().requires_grad_() for name, p in stacked.items()}

    def outputs(self, inputs: Tensor) -> Tensor:
        """What every network answers: (count, batch, classes)."""
        *blocks, _ = self.template
        signal = inputs
        for place, block in enumerate(blocks):
            assert isinstance(block, Block)
            linear = self._linear(f"{place}.linear", signal)
            signal = block.join(signal, self._norm(f"{place}.norm", block.norm, linear))
        return self._linear(str(len(blocks)), signal)

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        """W x + b of every network: (count, batch, fan out)."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"][:, None]
        if inputs.ndim == 2:  # all networks see the same images: one product is faster than many
            return (inputs @ weight.flatten(0, 1).T).unflatten(1, weight.shape[:2]).transpose(0, 1) + bias
        return torch.baddbmm(bias, inputs, weight.mT)

    def _norm(self, name: str, norm: nn.Module, linear: Tensor) -> Tensor:
        if isinstance(norm, nn.Identity):
            return linear
        assert isinstance(norm, (nn.BatchNorm1d, nn.LayerNorm))
        over = 1 if isinstance(norm, nn.BatchNorm1d) else 2
        variance, mean = torch.var_mean(linear, over, correction=0, keepdim=True)
        weight, bias = (self.parameters[f"{name}.{each}"][:, None] for each in ("weight", "bias"))
        return (linear - mean) * torch.rsqrt(variance + norm.eps) * weight + bias

    def gradients(self, inputs: Tensor, targets: Tensor, loss_fn: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (count,) and each network's own gradient, by name, stacked like the parameters."""
        losses = vmap(loss_fn, in_dims=(0, None))(self.outputs(inputs), targets)
        grads = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        return losses.detach(), dict(zip(self.parameters, grads, strict=True))

    @torch.no_grad()
    def accuracy(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Share of right answers of each network (count,); 0 where its outputs are not finite."""
        outputs = self.outputs(inputs)
        right = (outputs.argmax(-1) == labels).double().mean(-1)
        return torch.where(outputs.isfinite().all(-1).all(-1), right, 0.0)

    def network(self, index: int) -> nn.Module:
        """A copy of one of the networks."""
        one = copy.deepcopy(self.template).to_empty(device="cpu")
        one.load_state_dict({name: p[index].detach().clone() for name, p in self.parameters.items()})
        return one


class Descent:
    """One of torch's optimizers for a whole population, with a learning rate (count,) for each network.

    The optimizer acts with rate 1 on a shadow of zeros, so that after a step the shadow is the update itself, free of
    rounding; scaled by each network's rate it is added to the weights. Right for every rule that is elementwise and
    does not read the weights (no weight decay).
    """

    def __init__(self, population: Population, rates: Tensor, optimizer: Optimizer) -> None:
        self.population = population
        self.rates = rates
        self.shadows = [torch.zeros_like(p, requires_grad=True) for p in population.parameters.values()]
        self.optimizer = optimizer(self.shadows, lr=1.0)

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Move every network by its rate times what the optimizer makes of its gradient."""
        for shadow, gradient in zip(self.shadows, gradients.values(), strict=True):
            shadow.grad = gradient
        self.optimizer.step()
        with torch.no_grad():
            for shadow, parameter in zip(self.shadows, self.population.parameters.values(), strict=True):
                parameter.addcmul_(shadow, self.rates.reshape(-1, *[1] * (shadow.ndim - 1)))
                shadow.zero_()


@dataclass(frozen=True)
class Images:
    """A labelled set in three parts: to train on, to choose a learning rate by, and to judge what was chosen."""

    train: tuple[Tensor, Tensor]
    choose: tuple[Tensor, Tensor]
    judge: tuple[Tensor, Tensor]

    @property
    def inputs(self) -> int:
        return self.train[0].shape[1]

    @property
    def classes(self) -> int:
        return int(max(labels.max() for _, labels in (self.train, self.choose, self.judge))) + 1

    def batches(self, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``steps`` batches of ``size`` training images, reshuffled after each pass; one seed, one sequence."""
        inputs, labels = self.train
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[:size], order[size:]
            yield inputs[chosen], labels[chosen]


def images(name: str, folder: str = "", count: int = 1000) -> Images:
    """60 % to train on, 20 % to choose by, 20 % to judge: "mnist" (28 × 28 pixels) or "digits" (8 × 8, scikit-learn's).

    ``folder`` holds a full copy of MNIST; "" takes the images that come with the package. Pixels from 0 to 1.
    """
    inputs, labels = mnist.load(folder or None, count) if name == "mnist" else _small_digits(count)
    first, second = (6 * len(labels)) // 10, (8 * len(labels)) // 10
    parts = [(inputs[a:b], labels[a:b]) for a, b in ((0, first), (first, second), (second, len(labels)))]
    return Images(*parts)


def chance(data: Images) -> float:
    """The share of right answers of the best constant answer, on the images that judge: that of their largest class."""
    labels = data.judge[1]
    return float(labels.bincount().max()) / len(labels)


def _small_digits(count: int) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UnvanishError(
            "the set 'digits' is scikit-learn's and scikit-learn is not installed: install it, or take data=mnist"
        ) from None
    digits: Any = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:count]
    return torch.tensor(digits.data, dtype=torch.float32)[order] / 16, torch.tensor(digits.target)[order]


@dataclass(frozen=True)
class Tuned:
    """A design trained at every rate from every seed. Accuracies: per rate, then per seed.

    ``rate`` is the one with the best mean ``chosen_by``; ``scores`` are its accuracies on images that had no say.
    """

    rates: tuple[float, ...]
    chosen_by: tuple[tuple[float, ...], ...]
    judged: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def best(self) -> int:
        """Index of the chosen rate. Of equals the one with the lower training loss, so that chance decides nothing."""
        return max(range(len(self.rates)), key=lambda i: (fmean(self.chosen_by[i]), -_finite(self.losses[i])))

    @property
    def rate(self) -> float:
        return self.rates[self.best]

    @property
    def scores(self) -> tuple[float, ...]:
        return self.judged[self.best]


def spread(lowest: float, count: int) -> tuple[float, ...]:
    """``count`` learning rates over three decades from ``lowest``, evenly in the logarithm; one: the middle."""
    if count == 1:
        return (lowest * 10**1.5,)
    return tuple(lowest * 10 ** (3 * place / (count - 1)) for place in range(count))


def tuned(
    design: Design,
    data: Images,
    optimizer: str,
    *,
    rates: int,
    seeds: int,
    steps: int,
    batch: int = 100,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Tuned:
    """Train ``seeds`` networks at each of so many ``rates``, all at once, on the same batches.

    Cross-entropy, float32; ``optimizer`` is a name of OPTIMIZERS. ``progress`` is told the share that is done.
    """
    make, lowest = OPTIMIZERS[optimizer]
    tried = spread(lowest, rates)
    networks = [design.build(data.inputs, data.classes, seed + s) for s in range(seeds)]
    population = Population(networks * rates)
    descent = Descent(population, torch.tensor(tried).repeat_interleave(seeds), make)
    losses = torch.full((population.count,), math.nan)
    for done, (inputs, labels) in enumerate(data.batches(batch, steps, seed)):
        losses, gradients = population.gradients(inputs, labels, F.cross_entropy)
        descent.step(gradients)
        if done % EVERY == 0:
            progress(done / steps)
    chosen, judged = (population.accuracy(*part).reshape(rates, seeds) for part in (data.choose, data.judge))
    return Tuned(tried, _tuples(chosen), _tuples(judged), _tuples(losses.reshape(rates, seeds)))


def _tuples(table: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def _finite(losses: Sequence[float]) -> float:
    mean = fmean(losses)
    return mean if math.isfinite(mean) else math.inf
