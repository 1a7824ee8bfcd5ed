"""Query, key and value weights at an ordinary initialisation are no gates; healthy fine-tunings are called healthy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.decide.limits import OWN_BRANCH, VANISHED
from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.report.sentences import called

SEEDS = range(3)
WORDS = torch.randint(20, (48, 10), generator=torch.Generator().manual_seed(0))
CLASSES = WORDS[:, 3] % 5


class Block(nn.Module):
    def __init__(self, width: int, post_norm: bool, scale: float | None) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.post_norm = post_norm
        self.scale = None if scale is None else nn.Parameter(torch.full((width,), scale))

    def attention(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        found = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return found if self.scale is None else self.scale * found

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self.first(x + self.attention(x))
            return self.second(x + self.mix(x))
        x = x + self.attention(self.first(x))
        return x + self.mix(self.second(x))


class Reader(nn.Module):
    """A transformer whose weights are N(0, 0.02²), as those of BERT and GPT are at the start."""

    def __init__(self, post_norm: bool = True, scale: float | None = None, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, width), nn.Parameter(0.02 * torch.randn(10, width))
        self.blocks = nn.ModuleList(Block(width, post_norm, scale) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, words: Tensor) -> Tensor:
        h = self.embed(words) + self.place
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(1))


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in parameters if p.requires_grad], 1e-3)


def problem(seed: int, **options: Any) -> Problem:
    with seeded(seed):
        return Problem(Reader(**options), WORDS, CLASSES, F.cross_entropy, adam)


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_of_an_attention_that_is_still_uniform_are_healthy(seed: int) -> None:
    report = diagnose(problem(seed))
    weak = [layer for layer in report.layers if (layer.log10_transmission or 0.0) < VANISHED]
    assert {layer.name.split(".")[-1] for layer in weak} == {"query", "key"}
    assert all(layer.gate.startswith(OWN_BRANCH) for layer in weak)
    assert {layer.verdict for layer in report.layers} == {"healthy"} and not report.findings


@pytest.mark.parametrize("seed", SEEDS)
def test_under_a_small_scale_the_same_weights_are_gated(seed: int) -> None:
    report = diagnose(problem(seed, scale=1e-5))
    verdicts = {layer.name: layer.verdict for layer in report.layers}
    assert verdicts["blocks.0.query"] == verdicts["blocks.0.key"] == "gated"
    (finding,) = report.findings
    assert finding.code == "UV603"


@pytest.mark.parametrize("seed", SEEDS)
def test_of_many_gates_three_are_named(seed: int) -> None:
    (finding,) = diagnose(problem(seed, scale=1e-5, depth=8, post_norm=False)).findings
    (few,) = diagnose(problem(seed, scale=1e-5, depth=2, post_norm=False)).findings
    assert finding.cause.count("blocks.") == 3 and " more" in finding.cause
    assert "more" not in few.cause


def frozen(this: Problem) -> Problem:
    model: Any = this.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    return this


def zero_head(this: Problem) -> Problem:
    model: Any = this.model
    nn.init.zeros_(model.head.weight)
    return this


def low_rank(this: Problem) -> Problem:
    """Frozen but for the head, and a pair of small matrices beside each value layer, one of them zero."""

    class Beside(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner, self.a = inner, nn.Parameter(torch.randn(2, inner.in_features) / inner.in_features**0.5)
            self.b = nn.Parameter(torch.zeros(inner.out_features, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + x @ self.a.T @ self.b.T

    model: Any = frozen(this).model
    for block in model.blocks:
        block.value = Beside(block.value)
    return this


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", [frozen, zero_head, low_rank])
def test_a_fine_tuning_without_fault_is_called_healthy(change: Any, seed: int) -> None:
    report = diagnose(change(problem(seed)))
    assert report.healthy and report.verdict in ("frozen", "gated")
    assert called(report) == "Healthy"
    text = str(report)
    assert text.startswith("Healthy: no fault was found")
    assert "UV601" in text or "UV603" in text


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fine_tuning_with_a_fault_is_not(seed: int) -> None:
    this = frozen(problem(seed))
    report = diagnose(replace(this, loss_fn=lambda o, t: F.cross_entropy(o.softmax(-1), t)))
    assert called(report) == "Pairing"
    model: Any = this.model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.place.requires_grad_(True)
    nothing_learns = diagnose(replace(zero_head(this), optimizer=None))
    assert not called(nothing_learns).startswith("Healthy")
