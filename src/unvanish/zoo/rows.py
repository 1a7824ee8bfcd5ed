"""Networks whose layers take means over rows: graph convolutions over nodes, attention over tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam


class Convolutions(nn.Module):
    """Graph convolutions σ(Â h W); with skips h + σ(Â h W) / √depth, or each normalised over the nodes."""

    def __init__(self, depth: int, skips: bool, batchnorm: bool, width: int = 32) -> None:
        super().__init__()
        self.embed, self.head, self.skips = nn.Linear(8, width), nn.Linear(width, 2), skips
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if batchnorm else nn.Identity() for _ in range(depth))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        h = torch.relu(self.embed(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            new = torch.relu(norm(mean @ layer(h)))
            h = h + new / len(self.layers) ** 0.5 if self.skips else new
        return self.head(h)


def graph(depth: int, skips: bool = False, batchnorm: bool = False) -> Problem:
    """Nodes of a dense random graph, each of which is asked for a feature of its own."""
    return over_graph(lambda: Convolutions(depth, skips, batchnorm))


def over_graph(build: Callable[[], nn.Module]) -> Problem:
    """A model of nodes of a dense random graph, each of which is asked for a feature of its own."""
    nodes = 64
    edges = (torch.rand(nodes, nodes) < 0.1).float()
    edges = ((edges + edges.T + torch.eye(nodes)) > 0).float()
    root = edges.sum(1).rsqrt()
    inputs = torch.randn(nodes, 8)
    model = build()
    return Problem(
        model=model,
        inputs=(inputs, root[:, None] * edges * root),
        targets=(inputs[:, 0] > 0).long(),
        loss_fn=F.cross_entropy,
        optimizer=adam(model, 3e-3),
    )


class Attends(nn.Module):
    """Layers of attention and nothing else, each token asked for its own label; with skips around them."""

    def __init__(self, depth: int, skips: bool, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(16, width), nn.Parameter(0.5 * torch.randn(12, width))
        self.layers = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.head, self.skips = nn.Linear(width, 3), skips

    def forward(self, words: Tensor) -> Tensor:
        h = self.embed(words) + self.place
        for layer in self.layers:
            new = layer(h, h, h, need_weights=False)[0]
            h = h + new if self.skips else new
        return self.head(h)


def attention(depth: int, skips: bool = False) -> Problem:
    """Texts of 12 tokens, each asked for its number modulo three."""
    words = torch.randint(16, (32, 12))
    model = Attends(depth, skips)
    return Problem(model=model, inputs=words, targets=words % 3, loss_fn=_by_token, optimizer=adam(model, 3e-3))


def _by_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
