"""Saturated gates: of a network that trains past them they are noted, of one whose inputs they keep out an error."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded

SEEDS = range(3)


class Highway(nn.Module):
    """Blocks of gate · (tanh(Wx) − x) + x, as Srivastava, Greff & Schmidhuber (2015) begin them: gates shut."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 16), nn.Linear(16, 5)
        self.made = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
        self.gates = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for made, gate in zip(self.made, self.gates, strict=True):
            h = h + torch.sigmoid(gate(h)) * (torch.tanh(made(h)) - h)
        return self.last(h)


class Shut(nn.Module):
    """A gate of its own inputs' values: what it does not let in is nowhere else."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.gate, self.made, self.last = nn.Linear(10, 16), nn.Linear(10, 16), nn.Linear(16, 5)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.gate(x)) * torch.tanh(self.made(x)))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(100) % 5
    return 1.5 * torch.randn(5, 10, generator=draw)[y] + 0.3 * torch.randn(100, 10, generator=draw), y


def levels(seed: int, model: nn.Module, rate: float | None) -> dict[str, str]:
    x, y = batch(seed)
    optimizer = None if rate is None else torch.optim.Adam(model.parameters(), rate)
    return {f.code: f.level for f in diagnose(model, x, y, F.cross_entropy, optimizer=optimizer).findings}


@pytest.mark.parametrize("rate", [3e-3, None])
@pytest.mark.parametrize("seed", SEEDS)
def test_gates_that_carry_their_inputs_past_are_a_note(seed: int, rate: float | None) -> None:
    with seeded(seed):
        model = Highway(-10.0)
    found = levels(seed, model, rate)
    assert found["UV304"] == "note" and "error" not in found.values()
    x, y = batch(seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float(F.cross_entropy(model(x), y).detach()) < 0.3  # it trains


@pytest.mark.parametrize("seed", SEEDS)
def test_gates_that_keep_the_inputs_out_are_an_error(seed: int) -> None:
    with seeded(seed):
        model = Shut(-30.0)
    assert levels(seed, model, 1e-3)["UV304"] == "error"


@pytest.mark.parametrize("seed", SEEDS)
def test_gates_that_are_open_a_little_are_not_told_of(seed: int) -> None:
    with seeded(seed):
        model = Highway(-2.0)
    assert levels(seed, model, 3e-3) == {}
