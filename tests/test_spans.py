"""Many layers in few words, and names that can still be told apart where they are shortened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.preserve import seeded
from unvanish.report.text import render
from unvanish.words.spans import named, span

ATTENTION = [f"net.blocks.{at}.attention.{part}" for at in range(12) for part in ("query", "key", "value")]
LETTERS = ["a", "b", "c", "d", "e.0", "f", "g.1", "h", "i"]
HEADS = [f"net.{side}.{at}.out" for side in ("down", "up") for at in range(3)]


@pytest.mark.parametrize(
    ("wanted", "order", "text"),
    [
        (
            [name for name in ATTENTION if not name.endswith("value")], ATTENTION,
            "net.blocks.N.attention.query, key with N = 0 … 11 (24 layers)",
        ),
        (
            [name for name in ATTENTION if name.endswith("key") and ".11." not in name and ".3." not in name],
            ATTENTION, "net.blocks.N.attention.key with N = 0, 1, 2, 4, 5 and 5 more (10 layers)",
        ),
        ([f"{at}.l" for at in (0, 2, 4, 6)], [f"{at}.l" for at in range(7)], "N.l with N = 0, 2, 4, 6 (4 layers)"),
        (
            [ATTENTION[at] for at in (0, 4, 6, 7)], ATTENTION,
            "net.blocks.N.attention.query with N = 0, 2 and net.blocks.N.attention.key with N = 1 … 2 (4 layers)",
        ),
        # few pieces, and pieces of different kinds, stand as before
        (ATTENTION[3:9], ATTENTION, "net.blocks.1.attention.query … net.blocks.2.attention.value (6 layers)"),
        (["a", "c", "e.0", "g.1", "i"], LETTERS, "a, c, e.0 and 2 more layers"),
        ([HEADS[0], HEADS[2], HEADS[4]], HEADS, "net.down.0.out, net.down.2.out, net.up.1.out"),
    ],
)  # fmt: skip
def test_blocks_that_repeat_are_said_once(wanted: list[str], order: list[str], text: str) -> None:
    assert span(wanted, order) == text


class Block(nn.Module):
    """An attention under a long name, of weights as a library draws them."""

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.self_attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        for each in self.modules():
            if isinstance(each, nn.Linear):
                nn.init.normal_(each.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x) for layer in self.self_attention.values())
        return self.norm(x + self.output(F.scaled_dot_product_attention(query, key, value)))


class Reader(nn.Module):
    def __init__(self, std: float = 0.02) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(50, 32)
        self.encoder = nn.ModuleDict({"transformer_layer": nn.ModuleList(Block(32, std) for _ in range(4))})
        self.classifier = nn.Linear(32, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embeddings(words)
        blocks: Any = self.encoder["transformer_layer"]
        for block in blocks:
            x = block(x)
        return self.classifier(x[:, 0])


def report_on(model: nn.Module) -> unvanish.Report:
    words = torch.randint(50, (16, 12), generator=torch.Generator().manual_seed(0))
    return unvanish.diagnose(model, words, words[:, 0] % 3, F.cross_entropy)


def test_layers_of_different_blocks_can_be_told_apart_in_a_narrow_table() -> None:
    with seeded(0):
        report = report_on(Reader())
    for width in (80, 120):
        text = render(report, width, color=False, unicode=True)
        table = text[text.index("\nlayer") :].split("\n\n")[0]
        names = [line.split("  ")[0] for line in table.splitlines()[2:] if "⋮" not in line]
        assert len(names) > 8 and len(set(names)) == len(names), table


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["0"], "layer 0"),
        (["0", "2"], "layers 0, 2"),
        (["0", "2", "4"], "layers 0 … 4 (3 layers)"),
        (["fc"], "fc"),
        (["0", "fc"], "layers 0, fc"),
        ([], ""),
    ],
)
def test_in_a_sentence_bare_numbers_are_said_to_be_layers(names: list[str], text: str) -> None:
    assert named(names, ["0", "2", "4", "6", "fc"]) == text
