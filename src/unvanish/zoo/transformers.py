"""Sequence models: attention before and after normalisation, a small GPT with tied weights, an LSTM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.problem import Problem
from unvanish.zoo.digits import adam, digits

ROWS = (28, 28)


class RowEncoder(nn.Module):
    """Reads a digit as 28 rows of pixels: linear embedding, positions, encoder layers, mean over the rows."""

    def __init__(self, depth: int, width: int, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(28, width)
        self.position = nn.Parameter(0.02 * torch.randn(28, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, nhead=2, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=norm_first
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        x = self.embed(rows) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))


def pre_norm(depth: int) -> Problem:
    """Normalisation inside the residual branch: the stream carries the signal back unharmed."""
    return digits(RowEncoder(depth, 32, norm_first=True), count=16, shape=ROWS)


def post_norm(depth: int, gain: float = 0.1, lr: float = 1e-3) -> Problem:
    """Normalisation on the stream itself; with a small gain every layer takes its share of the signal away."""
    model = RowEncoder(depth, 16, norm_first=False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.constant_(module.weight, gain)
    return digits(model, count=8, shape=ROWS, lr=lr)


class Block(nn.Module):
    """Causal self-attention and a two-layer network, each behind a LayerNorm and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (  # each (batch, heads, length, width / heads)
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class GPT(nn.Module):
    """A small GPT: its head is its token embedding, transposed."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt(vocabulary: int = 32, length: int = 16, batch: int = 16) -> Problem:
    """Continues arithmetic sequences modulo the size of the vocabulary."""
    model = GPT(vocabulary, length, width=32, depth=2, heads=4)
    start, step = torch.randint(vocabulary, (batch, 1)), torch.randint(1, 4, (batch, 1))
    tokens = (start + step * torch.arange(length + 1)) % vocabulary
    return Problem(
        model=model, inputs=tokens[:, :-1], targets=tokens[:, 1:], loss_fn=next_token_loss, optimizer=adam(model, 3e-3)
    )


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LSTM(nn.Module):
    """Reads a digit row by row; the last state decides."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        states, _ = self.lstm(rows)
        return self.head(states[:, -1])


def lstm() -> Problem:
    """A recurrent network over 28 steps."""
    return digits(LSTM(), count=64, shape=ROWS, lr=1e-2)
