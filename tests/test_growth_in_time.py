"""Recurrent layers through whose steps the error signal grows: how much, against float64, and what is said of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.pipeline import look
from unvanish.preserve import seeded
from unvanish.trace.scaled import normal_like

SEEDS = range(3)
STEPS = 40


class Reader(nn.Module):
    def __init__(self, kind: str, size: float, read: str = "last", **options: Any) -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(4, 32, batch_first=True, **options)
        self.head = nn.Linear(32 * (2 if options.get("bidirectional") else 1), 4)
        self.read = read
        for name, weight in self.cells.named_parameters():
            if "weight_hh" in name:
                for gate in weight.detach().split(32):
                    nn.init.orthogonal_(gate, size)

    def forward(self, x: Tensor) -> Tensor:
        given, state = self.cells(x)
        if self.read == "state":
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])
        return self.head(given.mean(1) if self.read == "mean" else given[:, 0 if self.read == "first" else -1])


def problem(model: nn.Module, seed: int) -> unvanish.Problem:
    with seeded(seed):
        x = torch.randn(32, STEPS, 4)
    return unvanish.Problem(model, x, x[:, -1].argmax(1), F.cross_entropy, lambda p: torch.optim.Adam(p, 2e-3))


def reader(seed: int, *given: Any, **options: Any) -> Reader:
    with seeded(seed):
        return Reader(*given, **options)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("read", ["last", "state", "mean"])
@pytest.mark.parametrize(("kind", "size"), [("RNN", 3.0), ("GRU", 6.0), ("LSTM", 1.0)])
def test_the_rise_is_that_of_autograd_in_float64(kind: str, size: float, read: str, seed: int) -> None:
    model = reader(seed, kind, size, read).double()
    case = problem(model, seed)
    x = case.inputs.double().requires_grad_()
    given, state = model.cells(x)
    ends = [given, *(state if isinstance(state, tuple) else (state,))]
    for each in ends:
        each.retain_grad()
    part = {"last": given[:, -1], "state": ends[1][-1], "mean": given.mean(1)}[read]
    output = model.head(part)
    noise = normal_like(output.detach(), torch.Generator().manual_seed(0))
    (output * noise / output.detach().pow(2).mean().sqrt()).sum().backward()
    made = [given] if read != "state" else ends[1:]
    pairs = [(t.grad, t) for t in made if t.grad is not None]
    if read != "state":
        pairs = [(g[:, k], t[:, k]) for g, t in pairs for k in range(STEPS)]
    assert x.grad is not None
    with torch.no_grad():
        top = max(float(x.grad[:, k].norm() * x[:, k].norm()) for k in range(STEPS))
        below = math.hypot(*(float(g.norm() * t.norm()) for g, t in pairs))
    expected = math.log10(top / below)
    (facts,) = look(unvanish.Problem(model, x.detach(), case.targets, F.cross_entropy)).time
    assert facts.log10_rise == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kind", "size", "explodes"),
    [
        ("RNN", 3.0, True),
        ("RNN", 1.5, False),
        ("GRU", 6.0, True),
        ("GRU", 3.0, False),
        ("LSTM", 8.0, True),
        ("LSTM", 4.0, False),
    ],
)
def test_chaos_in_time_is_an_error(kind: str, size: float, explodes: bool, seed: int) -> None:
    report = unvanish.diagnose(problem(reader(seed, kind, size), seed))
    found = [finding for finding in report.findings if finding.code == "UV201"]
    assert [finding.cause for finding in found] == ["depth in time"] * explodes
    assert (report.verdict == "exploding") == explodes == (not report.healthy)
    if explodes:
        assert found[0].layers == ("cells",) and found[0].remedies == ("clip-gradients",)
        assert (found[0].evidence[1].value or 0.0) > 0.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"bidirectional": True, "num_layers": 2}])
def test_a_signal_that_vanishes_the_other_way_round_does_not_grow(options: dict[str, Any], seed: int) -> None:
    """Read at the first step, the backward direction hears the last steps least: seen from there, the signal grows."""
    (facts,) = look(problem(reader(seed, "LSTM", 1.0, "first", **options), seed)).time
    assert facts.log10_signal[0] is not None and facts.log10_signal[0] > 2.5
    assert facts.log10_rise is not None and facts.log10_rise < 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [2.0, 1.0])
def test_a_linear_growth_is_told_and_leaves_sensitivity_alone(size: float, seed: int) -> None:
    """Of a ReLU recurrence states grow as the signal does; the growth told is that of all the way back."""
    (facts,) = look(problem(reader(seed, "RNN", size, nonlinearity="relu"), seed)).time
    first = facts.log10_signal[0]
    assert (
        first is not None and facts.log10_gain is not None and (facts.log10_gain > 0.0) == (first > 0.0) == (size > 1.0)
    )
    assert facts.log10_rise is not None and facts.log10_rise < 0.5 and facts.states_unseen == ""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("size", "grows"), [(4.0, True), (1.0, False)])
def test_a_state_that_grows_within_a_recurrent_call_is_forward_growth(size: float, grows: bool, seed: int) -> None:
    """Of ReLUs, which have no bound, and as in a loop of one's own; the same weights under tanh stay in range."""
    for nonlinearity in ("relu", "tanh"):
        model = reader(seed, "RNN", size, nonlinearity=nonlinearity)
        report = unvanish.diagnose(problem(model, seed), effort="quick")
        found = [finding for finding in report.findings if finding.code == "UV202"]
        assert bool(found) == (grows and nonlinearity == "relu")
        if found:
            assert found[0].layers[0] == "cells" and "within cells" in found[0].message and found[0].level == "error"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}, {"bias": False}])
def test_what_the_steps_of_a_recurrence_give_each_by_itself(options: dict[str, Any], packed: bool) -> None:
    model = reader(0, "RNN", 3.0, nonlinearity="relu", **options)
    x = problem(model, 0).inputs
    alone = model.cells.eval()(x.reshape(-1, 1, 4))[0].detach()
    expected = math.log10(float(alone.pow(2).mean().sqrt()))

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = model.cells.train()

        def forward(self, x: Tensor) -> Tensor:
            given = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), STEPS), batch_first=True)
            return self.cells(given if packed else x)[1][0]

    flow = look(unvanish.Problem(Packed(), x, torch.zeros(len(x), 32), F.mse_loss), "quick")
    assert [call.log10_apart_rms for call in flow.calls if call.name == "rnn_relu"] == [pytest.approx(expected, 1e-4)]


def test_a_state_that_outgrows_the_number_type_is_an_overflow() -> None:
    report = unvanish.diagnose(problem(reader(0, "RNN", 500.0, nonlinearity="relu"), 0))
    (finding,) = report.findings
    assert (finding.code, finding.cause) == ("UV501", "overflow") and "step to step" in finding.message
