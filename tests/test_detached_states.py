"""A recurrent state that a forward pass cuts from the graph between its steps, and loops in which a cut is meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish

STEPS, UNITS, SAMPLES = 12, 16, 64


class Cell(nn.Module):
    """A GRU or an LSTM written by hand; ``cut`` names what of its state is detached at every step."""

    def __init__(self, kind: str, cut: str) -> None:
        super().__init__()
        self.kind, self.cut = kind, cut
        gates = 3 if kind == "GRU" else 4
        self.fed, self.back = nn.Linear(1, gates * UNITS), nn.Linear(UNITS, gates * UNITS)
        self.head = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), UNITS)
        for each in x.unbind(1):
            if "h" in self.cut:
                h = h.detach()
            if "c" in self.cut:
                c = c.detach()
            fed, back = self.fed(each), self.back(h)
            if self.kind == "GRU":
                (r, z, n), (rr, zz, more) = fed.chunk(3, 1), back.chunk(3, 1)
                z = (z + zz).sigmoid()
                h = (1 - z) * (n + (r + rr).sigmoid() * more).tanh() + z * h
            else:
                i, f, g, o = (fed + back).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
        return self.head(h)


def looked(model: nn.Module, back: int = 1, x: Tensor | None = None) -> unvanish.Report:
    """The number that stood so many steps back is wanted; 1: the last one, for which no state is needed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(SAMPLES, STEPS, 1) if x is None else x
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return unvanish.diagnose(model, x, x[:, -back].clone(), F.mse_loss, optimizer=optimizer)


def said(report: unvanish.Report) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.level, finding.cause) for finding in report.findings]


NAMED = ("UV602", "note", "a part cut off")
CASES = [("GRU", "h"), ("LSTM", "hc")]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kind", "cut"), CASES)
def test_a_state_detached_at_every_step_is_named(kind: str, cut: str, seed: int) -> None:
    torch.manual_seed(seed)
    report = looked(Cell(kind, cut))
    assert said(report) == [NAMED] and report.findings[0].layers == ("back",)
    message = report.findings[0].message
    assert "cut out of the graph by detach at" in message
    assert message.count("test_detached_states.py:") == len(cut)  # every line that cuts


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kind", "cut"), CASES)
def test_it_is_an_error_where_the_targets_need_the_state(kind: str, cut: str, seed: int) -> None:
    torch.manual_seed(seed)
    report = looked(Cell(kind, cut), back=4)
    assert said(report) == [("UV102", "error", "a cut between two steps"), NAMED] and report.verdict == "vanished"


@pytest.mark.parametrize("back", [1, 4])
@pytest.mark.parametrize(("kind", "cut"), [("GRU", ""), ("LSTM", ""), ("LSTM", "h"), ("LSTM", "c")])
def test_a_state_of_which_a_part_goes_on_is_quiet(kind: str, cut: str, back: int) -> None:
    torch.manual_seed(0)
    report = looked(Cell(kind, cut), back)
    assert NAMED not in said(report) and report.healthy


def test_the_gradient_of_the_recurrent_weights_is_that_of_the_last_turn_alone() -> None:
    """What is said of the layer, by autograd: the state before the last turn counts as given."""
    torch.manual_seed(0)
    cut, x = Cell("GRU", "h"), torch.randn(SAMPLES, STEPS, 1)
    (found,) = torch.autograd.grad(cut(x).sum(), cut.back.weight)
    whole = Cell("GRU", "")
    whole.load_state_dict(cut.state_dict())
    (through,) = torch.autograd.grad(whole(x).sum(), whole.back.weight)
    assert not torch.allclose(found, through, rtol=1e-2)


class Carried(nn.Module):
    """The state is kept from one batch to the next, and detached in between."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at, self.state = at, None
        self.cell, self.head = nn.GRUCell(1, UNITS), nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: Any = self.state
        h = x.new_zeros(len(x), UNITS) if kept is None else kept.detach() if self.at == "beginning" else kept
        for each in x.unbind(1):
            h = self.cell(each, h)
        self.state = h.detach() if self.at == "end" else h
        return self.head(h)


@pytest.mark.parametrize("at", ["beginning", "end"])
def test_a_state_detached_between_two_batches_is_quiet(at: str) -> None:
    torch.manual_seed(0)
    model, x = Carried(at), torch.randn(SAMPLES, STEPS, 1)
    model(x)
    report = looked(model, x=x)
    assert report.findings == () and report.verdict == "healthy"


class FixedPoint(nn.Module):
    """A state found without gradients, and one step from it with them."""

    def __init__(self) -> None:
        super().__init__()
        self.fed, self.back, self.head = nn.Linear(STEPS, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        given = self.fed(x[..., 0])
        z = torch.zeros_like(given)
        with torch.no_grad():
            for _ in range(10):
                z = torch.tanh(0.5 * self.back(z) + given)
        return self.head(torch.tanh(0.5 * self.back(z.detach()) + given))


class Spiking(nn.Module):
    """The reset of a neuron is detached, as is usual; its potential is not."""

    def __init__(self) -> None:
        super().__init__()
        self.fed, self.back, self.head = nn.Linear(1, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        potential = spike = x.new_zeros(len(x), UNITS)
        for each in x.unbind(1):
            reset = spike.detach()
            potential = 0.9 * potential * (1 - reset) + self.fed(each) + self.back(spike)
            spike = torch.sigmoid(potential - 1.0)
        return self.head(spike)


@pytest.mark.parametrize("kind", [FixedPoint, Spiking])
def test_a_cut_that_is_meant_is_quiet(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert NAMED not in said(looked(kind()))


class Reused(nn.Module):
    """Long ways back through a state that was cut: as many as there are paths."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell("GRU", ""), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.cell(x).detach(), x[:, -1]], 1))


def test_behind_a_cut_each_call_is_visited_once() -> None:
    """Every gate doubles the ways back: going each of them, 40 steps would take longer than anyone waits."""
    torch.manual_seed(0)
    report = looked(Reused(), x=torch.randn(8, 40, 1))
    assert any(finding.code == "UV602" and finding.level == "error" for finding in report.findings)


class Refined(nn.Module):
    """An estimate that is made better three times, each time from the features of the whole picture or sequence."""

    def __init__(self, picture: bool) -> None:
        super().__init__()
        kind: Any = (lambda a, b: nn.Conv2d(a, b, 3, padding=1)) if picture else nn.Linear
        self.axis = 1 if picture else -1
        self.first, self.part, self.last = kind(3, 8), kind(16, 8), kind(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        now = torch.zeros_like(h)
        for _ in range(3):
            now = now.detach()
            now = now + self.part(torch.cat([h, now], self.axis)).tanh()
        return self.last(now)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("picture", [False, True])
def test_an_estimate_that_is_refined_may_be_cut_between_two_turns(picture: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Refined(picture), torch.randn(16, 3, 12, 12) if picture else torch.randn(16, 12, 3)
    y = x.narrow(model.axis, 0, 2).clone()
    report = unvanish.diagnose(model, x, y, F.mse_loss, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    assert [finding.code for finding in report.findings if finding.code in ("UV602", "UV102")] == []
