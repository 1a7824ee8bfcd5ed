"""Attention whose queries each copy one entry, at random: what is said of it, and what training makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded

SEEDS = range(3)
STEPS, WIDTH, WORDS = 12, 32, 12


class Attention(nn.Module):
    """Each word is to be answered with the one before it."""

    def __init__(self, kind: str, size: float = 1.0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(STEPS, WIDTH))
        self.norm, self.kind = nn.LayerNorm(WIDTH), kind
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.heads = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.out = nn.Linear(WIDTH, WORDS)
        with torch.no_grad():
            for weight in (self.q.weight, self.k.weight, self.heads.in_proj_weight[: 2 * WIDTH]):
                weight.mul_(size)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places
        n = self.norm(x)
        q, k, v = self.q(n), self.k(n), self.v(n)
        scale = 1.0 if self.kind == "unscaled" else WIDTH**-0.5
        if self.kind == "fused":
            read = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "module":
            read = self.heads(n, n, n, need_weights=False)[0]
        elif self.kind == "causal":
            later = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)
            read = (torch.einsum("btd,bsd->bts", q, k) * scale).masked_fill(later, -1e9).softmax(2) @ v
        else:
            read = torch.bmm(F.softmax(torch.bmm(q, k.transpose(1, 2)) * scale, dim=2), v)
        return self.out(x + read)


def texts(seed: int) -> tuple[Tensor, Tensor]:
    words = torch.randint(0, WORDS, (48, STEPS), generator=torch.Generator().manual_seed(seed))
    return words, words.roll(1, 1)


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def report_of(model: nn.Module, seed: int) -> Any:
    return unvanish.diagnose(model, *texts(seed), loss_fn, optimizer=torch.optim.Adam(model.parameters(), 3e-3))


def said(report: Any) -> list[Any]:
    return [finding for finding in report.findings if finding.code == "UV304"]


def made(seed: int, kind: str, size: float = 1.0) -> Attention:
    with seeded(seed):
        return Attention(kind, size)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "size", "level"), [("unscaled", 4.0, "error"), ("scaled", 1.0, "")])
def test_scores_far_too_large_are_learned_around(seed: int, kind: str, size: float, level: str) -> None:
    model = made(seed, kind, size)
    report = report_of(model, seed)
    assert [finding.level for finding in said(report)] == ([level] if level else [])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    words, before = texts(seed)
    for _ in range(150):
        optimizer.zero_grad()
        loss_fn(model(words), before).backward()
        optimizer.step()
    with torch.no_grad():
        unseen = float(loss_fn(model(texts(seed + 100)[0]), texts(seed + 100)[1]))
    assert unseen > 2.5 if level else unseen < 0.3  # of 12 words, ln 12 = 2.48 is that of knowing nothing
    if not level:  # sharp by then, and rightly so
        assert not said(report_of(model, seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["fused", "module", "causal", "scaled"])
def test_every_way_to_write_it_gives_the_share_of_such_rows(seed: int, kind: str) -> None:
    assert not said(report_of(made(seed, kind), seed))
    model = made(seed, kind, 12.0)
    words, _ = texts(seed)
    with torch.no_grad():
        n = model.norm(model.words(words) + model.places)
        weight, bias = model.heads.in_proj_weight, model.heads.in_proj_bias
        q, k = model.q(n), model.k(n)
        if kind == "module":
            q, k = (F.linear(n, w, b) for w, b in zip(weight.chunk(3)[:2], bias.chunk(3)[:2], strict=True))
        scores = q.double() @ k.double().transpose(1, 2) / WIDTH**0.5
        if kind == "causal":
            scores = scores.masked_fill(torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1), -torch.inf)
        most, place = scores.softmax(2).max(2)
    alone = most * (1.0 - most) < 0.0025
    rows = [
        alone[i] if len(set(place[i][alone[i]].tolist())) != 1 else torch.zeros(STEPS, dtype=torch.bool)
        for i in range(len(words))
    ]
    share = torch.stack(rows)[:, 1 if kind == "causal" else 0 :].double().mean()
    (finding,) = said(report_of(model, seed))
    assert finding.level == "error" and finding.evidence[0].value == pytest.approx(float(share), abs=1e-6)
    asked = {"module": {"heads", "heads.out_proj"}, "fused": {"q", "k", "v"}}
    assert set(finding.layers) == asked.get(kind, {"q", "k"})


@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_that_looks_at_one_place_for_every_query_rests(seed: int) -> None:
    """As trained heads do at the first word of a text."""
    model = made(seed, "scaled")
    with torch.no_grad():
        model.places.mul_(0.01)
        model.places[0, 0] = 30.0
        model.k.weight[0] = torch.eye(WIDTH)[0] * 2.0
        model.q.bias[0] = 10.0
    report = report_of(model, seed)
    (call,) = (call for call in report.flow.calls if call.name == "softmax")
    assert call.saturated_fraction == 0.0 and not said(report)


def fresh(seed: int, many: int) -> list[tuple[Tensor, Tensor]]:
    return [texts(1000 * (seed + 1) + k) for k in range(many)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("many", [1, 60])
def test_training_batches_tell_what_is_learned_by_heart(seed: int, many: int) -> None:
    """Texts that are new at every step teach such a network what they have in common; the same ones do not."""
    model = made(seed, "unscaled", 4.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batches = fresh(seed, many) if many > 1 else [texts(seed)] * 8
    kept = [p.detach().clone() for p in model.parameters()]
    report = unvanish.diagnose(model, *texts(seed), loss_fn, optimizer=optimizer, train_batches=batches)
    (finding,) = said(report)
    assert finding.level == ("error" if many == 1 else "note")
    assert ("But it learns" in finding.message) is (many > 1)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
    for words, before in batches * (300 // len(batches)):
        optimizer.zero_grad()
        loss_fn(model(words), before).backward()
        optimizer.step()
    with torch.no_grad():
        unseen = float(loss_fn(model(texts(seed + 100)[0]), texts(seed + 100)[1]))
    assert unseen > 2.5 if many == 1 else unseen < 2.0  # ln 12 = 2.48 is that of knowing nothing
