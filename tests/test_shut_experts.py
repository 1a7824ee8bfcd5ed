"""Experts, and other branches, that next to nothing is made of: their gradient below eps is no fault of the network."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.report.sentences import called
from unvanish.rules import judge

SEEDS = range(3)


class Experts(nn.Module):
    """Two experts, the second with the given share of the weight, by a router of its own or by a plain factor."""

    def __init__(self, share: float, routed: bool) -> None:
        super().__init__()
        self.share, self.routed = share, routed
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)) for _ in range(2))
        if routed:
            self.router = nn.Linear(10, 2)
            nn.init.normal_(self.router.weight, std=0.1)
            with torch.no_grad():
                self.router.bias.copy_(torch.tensor([0.0, math.log(share)]))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (expert(x) for expert in self.experts)
        if not self.routed:
            return first + self.share * second
        weights = self.router(x).softmax(1)
        return weights[:, :1] * first + weights[:, 1:] * second


class Chain(nn.Module):
    """A factor that all of the signal goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32)), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 1e-12 * self.head(self.body(x).relu())


def data(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(128, 10)
    return x, (torch.tanh(x @ torch.randn(10, 8)) @ torch.randn(8, 4)).argmax(1)


def looked(model: nn.Module, x: Tensor, y: Tensor, scale: float = 1.0) -> unvanish.Report:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return unvanish.diagnose(model, x, y, lambda out, y: scale * F.cross_entropy(out, y), optimizer=optimizer)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("share", "routed"), [(4e-8, True), (1e-8, False)])
def test_a_branch_that_hardly_counts_is_a_note(share: float, routed: bool, seed: int) -> None:
    x, y = data(seed)
    model = Experts(share, routed)
    report = looked(model, x, y)
    (finding,) = report.findings
    assert (finding.code, finding.level, finding.cause) == ("UV504", "note", "a branch that hardly counts")
    assert {"experts.1.0", "experts.1.2"} <= {*finding.layers} <= {"experts.1.0", "experts.1.2", "router"}
    assert "It stands beside experts.0." in finding.message and called(report) == "Noted"
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float(F.cross_entropy(model(x), y).detach()) < 0.3  # the network does learn without it


@pytest.mark.parametrize("seed", SEEDS)
def test_experts_that_count_are_quiet(seed: int) -> None:
    assert looked(Experts(0.5, True), *data(seed)).findings == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_where_the_best_way_is_below_eps_too_it_is_an_error(seed: int) -> None:
    report = looked(Experts(4e-8, True), *data(seed), scale=1e-12)
    assert [(f.code, f.level, f.cause) for f in report.findings] == [("UV504", "error", "eps")]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_factor_on_the_only_way_is_no_branch(seed: int) -> None:
    report = looked(Chain(), *data(seed))
    assert not report.healthy
    assert all(finding.cause != "a branch that hardly counts" for finding in report.findings)


@pytest.mark.parametrize(("alignment", "cancels"), [(-7.0, True), (-0.5, False)])
def test_what_arrives_small_is_said_to_cancel_only_where_it_does(alignment: float, cancels: bool) -> None:
    """Next to nothing arrives of the error signal at the best layer; why is a second question: the alignment tells."""
    report = looked(Experts(4e-8, True), *data(0), scale=1e-12)
    layers = tuple(a.replace(log10_alignment=alignment) for a in report.layers)
    (finding,) = [f for f in judge(report.flow.replace(layers=layers)) if f.code == "UV504"]
    assert "The outputs depend on the layer, but of the error signal at experts.0.2 only 10^-" in finding.message
    assert ("what the loss asks for cancels on the way" in finding.message) == cancels
