"""Experts that all run, and of one of which an index, a mask or weights of zero take nothing on this batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.report import Report

WIDTH = 16


class Experts(nn.Module):
    """Each sample goes to the expert its router scores highest; the first one's score is far below the others'."""

    def __init__(self, choose: Callable[[Experts, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.choose = choose
        self.first, self.router, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 1)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(4)
        )
        nn.init.constant_(self.router.bias[:1].detach(), -20.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        shares = self.router(hidden).softmax(1)
        return self.head(hidden + self.choose(self, hidden, shares, shares.argmax(1)))


def _all(model: Experts, hidden: Tensor) -> Tensor:
    return torch.stack([expert(hidden) for expert in model.experts], 1)


def by_index(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    rows = torch.arange(len(hidden))
    return _all(model, hidden)[rows, best] * shares[rows, best, None]


def by_gather(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    picked = _all(model, hidden).gather(1, best[:, None, None].expand(-1, 1, WIDTH)).squeeze(1)
    return picked * shares.gather(1, best[:, None])


def by_one_hot(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    return (_all(model, hidden) * (F.one_hot(best, 4) * shares)[..., None]).sum(1)


def by_scattered_shares(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    sparse = torch.zeros_like(shares).scatter(1, best[:, None], shares.gather(1, best[:, None]))
    return torch.einsum("ne,nef->nf", sparse, _all(model, hidden))


def by_where(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    mixed = torch.zeros_like(hidden)
    for number, expert in enumerate(model.experts):
        mixed = torch.where((best == number)[:, None], expert(hidden) * shares[:, number, None], mixed)
    return mixed


def each_on_its_own(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
    mixed = torch.zeros_like(hidden)
    for number, expert in enumerate(model.experts):
        own = best == number
        mixed[own] = expert(hidden[own]) * shares[own, number, None]
    return mixed


CHOICES = (by_index, by_gather, by_one_hot, by_scattered_shares, by_where, each_on_its_own)


def _checked(model: nn.Module, seed: int) -> Report:
    torch.manual_seed(seed + 100)
    x = torch.randn(64, 8)
    return unvanish.diagnose(
        model, x, x[:, :1] * x[:, 1:2], F.mse_loss, optimizer=torch.optim.Adam(model.parameters(), 3e-3)
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("choose", CHOICES, ids=lambda f: f.__name__)
def test_an_expert_without_a_sample_is_a_note(choose: Callable[..., Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    report = _checked(Experts(choose), seed)
    assert report.healthy
    noted = [f for f in report.findings if f.code == "UV602"]
    assert {name for f in noted for name in f.layers} == {"experts.0.0", "experts.0.2"}
    assert {f.level for f in noted} == {"note"}
    assert f"({2 * (WIDTH * WIDTH + WIDTH):,} parameters)" in noted[0].message


@pytest.mark.parametrize("choose", CHOICES, ids=lambda f: f.__name__)
def test_an_expert_that_has_samples_and_whose_units_are_all_off_is_dead(choose: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = Experts(choose)
    nn.init.zeros_(model.router.bias.detach())
    nn.init.constant_(model.get_parameter("experts.1.0.bias").detach(), -50.0)
    report = _checked(model, 0)
    assert [f.code for f in report.findings if f.level == "error"] == ["UV301"]
    assert report.findings[0].layers == ("experts.1.0",)


def test_where_no_expert_has_a_sample_the_layers_are_not_excused() -> None:
    def none(model: Experts, hidden: Tensor, shares: Tensor, best: Tensor) -> Tensor:
        return torch.where(best[:, None] > 9, by_index(model, hidden, shares, best), hidden)

    torch.manual_seed(0)
    report = _checked(Experts(none), 0)
    assert not report.healthy
    assert {name for f in report.findings if f.level == "error" for name in f.layers} >= {"experts.1.0", "experts.2.2"}


def test_a_block_of_the_trunk_that_no_sample_takes_is_no_expert() -> None:
    class Skipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            for number, block in enumerate(self.blocks):
                x = torch.where(torch.tensor(number != 1), block(x).relu(), x)
            return self.head(x)

    torch.manual_seed(0)
    report = _checked(Skipped(), 0)
    assert [f.layers for f in report.findings if f.level == "error"] == [("blocks.1",)]


class Adapters(nn.Module):
    """One of a dict of adapters, by a key that the batch comes with, or by keys that stand in the program."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("en", "de", "fr")})
        self.head = nn.Linear(8, 1)


class ByKey(Adapters):
    def forward(self, x: Tensor, language: str) -> Tensor:
        return self.head(self.adapters[language](x).relu())


class InALoop(Adapters):
    def forward(self, x: Tensor) -> Tensor:
        for name in ("en", "de"):
            x = self.adapters[name](x).relu()
        return self.head(x)


class ByConstants(Adapters):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.adapters["de"](self.adapters["en"](x).relu()).relu())


def test_an_adapter_that_this_batch_has_no_key_for_is_a_note() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    report = unvanish.diagnose(ByKey(), (x, "en"), x[:, :1], F.mse_loss)
    assert report.healthy
    assert [(f.code, f.layers) for f in report.findings] == [("UV602", ("adapters.de", "adapters.fr"))]


@pytest.mark.parametrize("kind", [InALoop, ByConstants])
def test_an_adapter_that_no_key_of_the_program_names_is_an_error(kind: type[Adapters]) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    report = unvanish.diagnose(kind(), x, x[:, :1], F.mse_loss)
    assert [(f.code, f.level, f.layers) for f in report.findings] == [("UV602", "error", ("adapters.fr",))]
