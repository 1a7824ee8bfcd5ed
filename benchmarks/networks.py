"""The networks whose cost is measured: an MLP, a small CNN, two GPTs, a very deep net, and one that has a finding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.zoo.transformers import post_norm


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, depth: int, width: int, vocabulary: int, length: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def _problem(model: nn.Module, inputs: Tensor, targets: Tensor) -> Problem:
    return Problem(model, inputs, targets, loss, torch.optim.Adam(model.parameters(), lr=1e-3))


def mlp() -> Problem:
    sizes = [784, 512, 512, 512, 512]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return _problem(nn.Sequential(*hidden, nn.Linear(512, 10)), torch.randn(128, 784), torch.randint(0, 10, (128,)))


def cnn() -> Problem:
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 10)),
    )
    return _problem(model, torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,)))


def gpt() -> Problem:
    ids = torch.randint(0, 256, (16, 64))
    return _problem(GPT(4, 128, 256, 64, 4), ids, ids.roll(-1, 1))


def gpt_70m() -> Problem:
    ids = torch.randint(0, 16000, (4, 128))
    return _problem(GPT(12, 576, 16000, 128, 8), ids, ids.roll(-1, 1))


def deep() -> Problem:
    layers: list[nn.Module] = [nn.Linear(64, 64)]
    for _ in range(998):
        layers += [nn.Tanh(), nn.Linear(64, 64)]
        nn.init.orthogonal_(layers[-1].weight)  # type: ignore[arg-type]
    return _problem(nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(64, 64), torch.randint(0, 10, (64,)))


def suspect() -> Problem:
    """The zoo's post-norm transformer, as built: sound, and at this rate its signal is lost within six steps."""
    return post_norm(18, gain=1.0, lr=1e-2)


NETWORKS: dict[str, Callable[[], Problem]] = {
    "MLP 784-512x4-10, batch 128": mlp,
    "small CNN, batch 32": cnn,
    "GPT 4 x 128, T 64, batch 16": gpt,
    "GPT 70 M, T 128, batch 4": gpt_70m,
    "1,000-layer MLP, width 64": deep,
    "post-norm transformer, 18 layers, lr too large": suspect,
}
AS_BUILT = ("post-norm transformer, 18 layers, lr too large",)  # checked so; the others while they are trained
