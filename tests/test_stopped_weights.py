"""Weights that learn nothing while the bias beside them does: behind a step, or taken out of the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.report import Report

SEEDS = range(3)


def rounded(w: Tensor) -> Tensor:
    return torch.round(4 * w) / 4


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "rounded": rounded,
    "its sign": lambda w: w.sign() / w.shape[1] ** 0.5,
    "cut down": lambda w: torch.floor(4 * w) / 4,
}
CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": lambda w: w.detach(),
    "its data": lambda w: w.data * 1.0,
    "compared": lambda w: torch.where(w > 0, 0.2, -0.2),
}
SOUND: dict[str, Callable[[Tensor], Tensor]] = {
    "led around the step": lambda w: w + (rounded(w) - w).detach(),
    "a sign of a learned size": lambda w: w.sign() * w.abs().mean(),
    "small ones left out": lambda w: w * (w.abs() > 0.1),
    "clamped": lambda w: w.clamp(-0.3, 0.3),
    "over its detached size": lambda w: w / w.norm().detach() * w.shape[0] ** 0.5,
}


class Made(nn.Module):
    """A linear layer whose weight is made into another before it is used."""

    def __init__(self, inputs: int, outputs: int, make: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.make(self.weight), self.bias)


def network(seed: int, make: Callable[[Tensor], Tensor], bias: bool = True) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(Made(6, 32, make, bias), nn.ReLU(), Made(32, 32, make, bias), nn.ReLU(), nn.Linear(32, 1))


def checked(seed: int, model: nn.Module) -> Report:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    before = {name: p.clone() for name, p in model.state_dict().items()}
    report = diagnose(model, x, y, F.mse_loss, optimizer=torch.optim.Adam(model.parameters(), 3e-3))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    return report


def errors(report: Report) -> dict[str, tuple[str, ...]]:
    return {finding.code: finding.layers for finding in report.findings if finding.level == "error"}


@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_behind_a_step_are_named_though_their_bias_learns(seed: int, how: str) -> None:
    model = network(seed, STEPS[how])
    report = checked(seed, model)
    assert errors(report) == {"UV302": ("0", "2")}
    assert report.findings[0].message.startswith("0.weight, 2.weight can never learn: ")
    assert [layer.verdict for layer in report.layers] == ["healthy"] * 3  # the biases are reached
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    F.mse_loss(model(x), y).backward()
    assert all(bool((p.grad == 0).all()) == (n in ("0.weight", "2.weight")) for n, p in model.named_parameters())


@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_bias_the_layer_is_dead_by_construction(seed: int, how: str) -> None:
    report = checked(seed, network(seed, STEPS[how], bias=False))
    assert errors(report) == {"UV302": ("0", "2")} and report.layers[0].verdict == "dead"


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_that_are_taken_out_of_the_graph_are_named_though_their_bias_learns(seed: int, how: str) -> None:
    report = checked(seed, network(seed, CUTS[how]))
    assert errors(report) == {"UV602": ("0", "2")}
    assert "0.weight, 2.weight are used, but taken out of the graph" in report.findings[0].message


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("how", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_with_a_way_around_are_not(seed: int, how: str, bias: bool) -> None:
    assert errors(checked(seed, network(seed, SOUND[how], bias))) == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_that_gets_nothing_of_zero_inputs_is_not_stopped_by_a_sign_beside_it(seed: int) -> None:
    """Its gradient is exactly zero here as well, and the step is not what makes it so."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            blank = F.linear(torch.zeros_like(x), self.first.weight, self.first.bias)
            return self.last(torch.tanh(blank) + self.first.weight.sign().sum(1))

    with seeded(seed):
        model = Beside()
    assert not any("can never learn" in finding.message for finding in checked(seed, model).findings)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_optimizer_does_not_hold_is_cut_on_purpose(seed: int) -> None:
    model = network(seed, CUTS["detached"])
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))
    held = [p for name, p in model.named_parameters() if name not in ("0.weight", "2.weight")]
    report = diagnose(model, x, torch.sin(x[:, :1]), F.mse_loss, optimizer=torch.optim.Adam(held, 3e-3))
    assert errors(report) == {}
