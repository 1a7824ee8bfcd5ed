"""Networks with one fault that one particular change removes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam
from unvanish.zoo.rows import over_graph


def broadcast_loss() -> Problem:
    """Outputs of shape (N, 1) for targets of shape (N,): the squared error compares each with each."""
    inputs = torch.randn(64, 6)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    targets = torch.sin(inputs[:, 0]) + 0.5 * inputs[:, 1]
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=_square, optimizer=adam(model, 1e-2))


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def decayed_adam(decay: float = 0.3) -> Problem:
    """The sine of a sum, under an Adam whose weight decay is added to the gradient."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=decay)
    targets = torch.sin(inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=optimizer)


def dropped(p: float) -> Problem:
    """Four classes of a plane, with dropout behind each of three hidden layers."""
    inputs = torch.randn(64, 2)
    hidden = [part for a, b in ((2, 32), (32, 32), (32, 32)) for part in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(p))]
    model = nn.Sequential(*hidden, nn.Linear(32, 4))
    targets = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model, 1e-2))


def large_embedding() -> Problem:
    """How many of six words belong to the first half of the dictionary, in three classes."""
    words = torch.randint(0, 30, (512, 6))
    bag = nn.EmbeddingBag(30, 8, mode="sum")
    nn.init.normal_(bag.weight, std=20.0)
    model = nn.Sequential(bag, nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    targets = (words < 15).sum(1) * 3 // 7
    return Problem(model=model, inputs=words, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model, 1e-2))


def frozen_draws() -> Problem:
    """The sine of a sum, from a head of one unit on layers that nobody has trained."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 1))
    model[:3].requires_grad_(False)
    targets = torch.sin(2.0 * inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model, 1e-2))


def remembering(momentum: float) -> Problem:
    """Ten classes of a linear map, under an SGD that forgets next to nothing."""
    inputs = torch.randn(256, 16)
    targets = (inputs @ torch.randn(16, 10)).argmax(1)
    hidden = [part for a, b in ((16, 64), (64, 64), (64, 64)) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, momentum=momentum)
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=optimizer)


def slow_statistics(momentum: float) -> Problem:
    """Four classes of a plane far from the origin, which only the statistics of the batch bring back to it."""
    inputs = torch.randn(64, 2)
    targets = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    model = nn.Sequential(
        nn.BatchNorm1d(2, momentum=momentum), nn.Linear(2, 32), nn.ReLU(), nn.BatchNorm1d(32, momentum=momentum),
        nn.Linear(32, 4),
    )  # fmt: skip
    return Problem(
        model=model, inputs=5.0 + inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model, 1e-2)
    )


class Detached(nn.Module):
    """A recurrent loop that cuts the graph between two steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.cell, self.head = steps, nn.GRUCell(1, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for step in range(self.steps):
            state = self.cell(x[:, step], state.detach())
        return self.head(state)


def detached(steps: int) -> Problem:
    """The first of so many numbers is wanted at the end."""
    inputs = torch.randn(64, steps, 1)
    model = Detached(steps)
    return Problem(model=model, inputs=inputs, targets=inputs[:, 0], loss_fn=F.mse_loss, optimizer=adam(model, 1e-2))


class Rate(nn.Module):
    """A positive rate: an exponential below zero, a line above."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(5, 32), nn.Tanh()), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.body(x)) + 100.0
        return torch.where(z <= 0.0, torch.exp(z), 1.0 + z)


def where_exp() -> Problem:
    """The branch that is not taken overflows; the loss is finite and its gradient is not."""
    inputs = torch.randn(64, 5)
    model = Rate()
    targets = 101.0 + torch.tanh(inputs[:, :1])
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model, 1e-2))


class Reader(nn.Module):
    """One head of attention over padded words, the mean over the real ones; a text may be empty."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(12, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, words: Tensor) -> Tensor:
        pad = words == 0
        h = self.embed(words)
        scores = (h @ h.transpose(1, 2) / 4.0).masked_fill(pad[:, None, :], -math.inf)
        h = h + self.mix(torch.softmax(scores, -1) @ h)
        h = torch.where(pad[..., None], torch.zeros_like(h), h)
        return self.head(h.sum(1))


def masked_rows() -> Problem:
    """Every eighth text is empty: its softmax is nan throughout, and is replaced afterwards."""
    words = torch.randint(1, 12, (64, 5))
    words[::8] = 0
    counts = torch.stack([(words == word).sum(1) for word in (2, 5, 9)], 1) + torch.tensor([0.2, 0.1, 0.0])
    model = Reader()
    return Problem(
        model=model, inputs=words, targets=counts.argmax(1), loss_fn=F.cross_entropy, optimizer=adam(model, 1e-2)
    )


def norm_of_one() -> Problem:
    """A group normalisation with one channel a group, behind a linear layer: a number less its own mean."""
    inputs = torch.randn(64, 8)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.GroupNorm(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    targets = inputs[:, :3].argmax(1)
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model, 1e-2))


class Recaller(nn.Module):
    """An LSTM whose last state decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(1, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def recall(steps: int) -> Problem:
    """The first of so many numbers is wanted at the end; the others are 0, so that nothing else tells samples apart."""
    inputs = torch.zeros(64, steps, 1)
    inputs[:, 0] = torch.randn(64, 1)
    model = Recaller(32)
    return Problem(model=model, inputs=inputs, targets=inputs[:, 0], loss_fn=F.mse_loss, optimizer=adam(model, 1e-2))


class Rectified(nn.Module):
    """A plain recurrent layer of ReLUs whose last state decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read, self.head = nn.RNN(4, width, nonlinearity="relu", batch_first=True), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def first_mark(steps: int) -> Problem:
    """Which of four inputs was set at the first of so many steps; at the others none is."""
    targets = torch.randint(4, (64,))
    inputs = torch.zeros(64, steps, 4)
    inputs[:, 0] = F.one_hot(targets, 4).float()
    model = Rectified(32)
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.cross_entropy, optimizer=adam(model, 3e-3))


class Convolved(nn.Module):
    """Graph convolutions: each layer takes means over the neighbours of a node."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 2)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        h = torch.relu(self.embed(x))
        for layer in self.layers:
            h = torch.relu(mean @ layer(h))
        return self.head(h)


def smoothed(depth: int) -> Problem:
    """Nodes of a dense random graph, each of which is asked for a feature of its own."""
    return over_graph(lambda: Convolved(depth, 32))


def constant_weights(value: float = 0.05) -> Problem:
    """The sine of a sum, by a network of two tanh layers all of whose weights are one number."""
    inputs = torch.randn(64, 4)
    hidden = [part for a in (4, 32) for part in (nn.Linear(a, 32), nn.Tanh())]
    model = nn.Sequential(*hidden, nn.Linear(32, 1))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, value)
            nn.init.zeros_(layer.bias)
    targets = torch.sin(2.0 * inputs.sum(1, keepdim=True))
    return Problem(model=model, inputs=inputs, targets=targets, loss_fn=F.mse_loss, optimizer=adam(model, 1e-2))
