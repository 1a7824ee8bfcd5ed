"""Functions of the user's own whose backward is not the derivative of their forward, and their healthy twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Report, diagnose
from unvanish.evidence import own_backward
from unvanish.preserve import seeded

SEEDS = range(2)
Both = Callable[..., Any]


def own(forward: Both, backward: Both) -> Any:
    """A Function of one argument; ``backward`` is given the gradient and the argument."""

    def forwards(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return forward(x)

    def backwards(ctx: Any, g: Tensor) -> Tensor:
        return backward(g, *ctx.saved_tensors)

    parts = {"forward": staticmethod(forwards), "backward": staticmethod(backwards)}
    return type("Own", (torch.autograd.Function,), parts)


class Linear(torch.autograd.Function):
    sign = 1.0

    @staticmethod
    def forward(x: Tensor, weight: Tensor, sign: float) -> Tensor:  # type: ignore[override]
        return x @ weight.T

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.sign = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return g @ weight, ctx.sign * (g.T @ x), None


class Branch(nn.Module):
    """Two branches, of which one passes the Function: the step of the whole network lowers the loss all the same."""

    def __init__(self, middle: Callable[[Tensor], Tensor], factor: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 24), nn.Linear(10, 24), nn.Linear(24, 3)
        self.weight = nn.Parameter(torch.randn(24, 24) / 5)
        self.middle, self.factor = middle, factor

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(self.a(x)) if self.middle is not Linear else Linear.apply(self.a(x), self.weight, self.factor)
        return self.c(h + torch.tanh(self.b(x)))


def check(middle: Any, seed: int, scale: float = 1.0, **more: Any) -> Report:
    with seeded(seed):
        model, x = Branch(middle, **more), torch.randn(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return diagnose(model, x, x[:, :3].argmax(1), lambda o, y: scale * F.cross_entropy(o, y), optimizer=optimizer)


def told(report: Report) -> list[tuple[str, str]]:
    return [(fact.argument, fact.kind) for fact in report.flow.functions]


def softplus_slope(g: Tensor, x: Tensor) -> Tensor:
    return g * torch.sigmoid(x)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_backward_that_sends_one_branch_uphill_is_an_error(scale: float, seed: int) -> None:
    function = own(F.softplus, lambda g, x: -2.0 * softplus_slope(g, x))
    report = check(function.apply, seed, scale)
    (finding,) = [f for f in report.findings if f.code == "UV710"]
    assert finding.level == "error" and finding.layers == ("a",)
    (fact,) = report.flow.functions
    assert fact.factor == pytest.approx(-2.0, abs=1e-6) and fact.error == pytest.approx(3.0, abs=1e-6)
    assert fact.rise == pytest.approx(0.5, rel=0.1)  # the slope is half of what the gradient says, and upwards
    assert not [f for f in check(own(F.softplus, softplus_slope).apply, seed, scale).findings if f.code == "UV710"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gradient_of_a_weight_with_the_wrong_sign_is_that_layers_alone(seed: int) -> None:
    report = check(Linear, seed, factor=-1.0)
    assert [f.layers for f in report.findings if f.code == "UV710"] == [("weight",)]
    assert told(report) == [("weight", "other")] and told(check(Linear, seed)) == []


QUIET: dict[str, tuple[Both, Both]] = {
    "softplus": (F.softplus, softplus_slope),
    "relu": (lambda x: x.clamp(min=0), lambda g, x: g * (x > 0)),
    "steep tanh, most of it flat": (lambda x: torch.tanh(30 * x), lambda g, x: 30 * g / torch.cosh(30 * x) ** 2),
    "in float32": (lambda x: torch.tanh(x.float()).to(x), lambda g, x: g * (1 - torch.tanh(x) ** 2)),
    "in float16": (lambda x: torch.tanh(x.half()).to(x), lambda g, x: g * (1 - torch.tanh(x) ** 2)),
}
NOTED: dict[str, tuple[Both, Both, str, str]] = {
    "round": (lambda x: (4 * x).round() / 4, lambda g, x: g, "flat", "straight-through"),
    "grid": (lambda x: (20 * x).round() / 20, lambda g, x: g, "flat", "straight-through"),
    "step": (lambda x: (x > 0).to(x), lambda g, x: g * torch.sigmoid(x) * torch.sigmoid(-x), "flat", "surrogate"),
    "clamp": (lambda x: x.clamp(-0.3, 0.3), lambda g, x: g, "flat", "straight-through"),
    "reversal": (lambda x: x.view_as(x), lambda g, x: -0.5 * g, "identity", "-0.5 times the gradient"),
    "half": (torch.square, lambda g, x: g * x, "other", "0.5 times the derivative"),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", QUIET)
def test_what_is_the_derivative_to_rounding_is_not_named(name: str, seed: int) -> None:
    report = check(own(*QUIET[name]).apply, seed)
    assert told(report) == [] and report.notes == ()


@pytest.mark.parametrize("name", NOTED)
def test_what_may_be_meant_is_a_note(name: str) -> None:
    forward, backward, kind, words = NOTED[name]
    report = check(own(forward, backward).apply, 0)
    assert told(report) == [("x", kind)] and "UV710" not in [f.code for f in report.findings]
    (note,) = [note for note in report.notes if "Own at " in note]
    assert words in note


@pytest.mark.parametrize(("name", "draws"), [("softplus", 2), ("half", 4), ("round", 4)])
def test_two_directions_are_enough_where_they_show_nothing(
    name: str, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    drawn, draw = [], own_backward._draw
    monkeypatch.setattr(own_backward, "_draw", lambda *given: drawn.append(draw(*given)))
    check(own(*{**QUIET, **NOTED}[name][:2]).apply, 0)
    assert len(drawn) == draws


def test_the_functions_are_as_before_and_state_is_left_alone() -> None:
    function = own(torch.square, lambda g, x: g * x)
    child = type("Child", (function,), {})
    forward = function.__dict__["forward"]
    check(lambda x: child.apply(function.apply(x)), 0)
    assert function.__dict__["forward"] is forward and "forward" not in child.__dict__


def test_one_that_takes_a_module_is_not_called_alone() -> None:
    calls = []

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, run: Any) -> Tensor:  # type: ignore[override]
            calls.append(x.dtype)
            return run(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
            return -g, None

    report = check(lambda x: Through.apply(x, torch.square), 0)
    assert told(report) == [] and torch.float64 not in calls
    assert "the backward of Through was not compared with its forward" in " ".join(report.notes)


def test_a_backward_that_refuses_float64_is_compared_as_it_is() -> None:
    def refuses(g: Tensor, x: Tensor) -> Tensor:
        if g.dtype is torch.float64:
            raise TypeError("expected float32")
        return -g * x.cos()

    (fact,) = check(own(torch.sin, refuses).apply, 0).flow.functions
    assert fact.factor == pytest.approx(-1.0, abs=1e-2)


def test_what_holds_too_many_numbers_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unvanish.trace.functions.LARGE", 64 * 24 - 1)
    report = check(own(torch.square, lambda g, x: g * x).apply, 0)
    assert told(report) == [] and "was not compared" in " ".join(report.notes)


class Quantised(torch.autograd.Function):
    """A grid whose width is learned, by a gradient of its own (Esser et al. 2020), which is not that between jumps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, scale)
        return (x / scale).clamp(-127, 127).round() * scale

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, scale = ctx.saved_tensors
        at = x / scale
        slope = torch.where(at.abs() <= 127, at.round() - at, at.sign() * 127)
        return g * (at.abs() <= 127), (g * slope).sum()


class Grid(nn.Module):
    def __init__(self, first: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        self.scale, self.first = nn.Parameter(torch.tensor(0.05)), first

    def forward(self, x: Tensor) -> Tensor:
        h = Quantised.apply(torch.relu(self.a(x)), self.scale)
        h = self.b(h)
        return self.c(torch.tanh(h) if self.first is None else self.first(h))


def of_grid(seed: int, first: Any = None) -> Report:
    with seeded(seed):
        model, x = Grid(first), torch.randn(64, 10)
    return diagnose(model, x, x[:, :3].argmax(1), F.cross_entropy)


@pytest.mark.parametrize("seed", [2, 7])
def test_the_width_of_a_grid_is_learned_by_another_gradient_on_purpose(seed: int) -> None:
    """With these seeds, of the first eight, the loss rises where the width steps against its gradient."""
    report = of_grid(seed)
    assert ("x", "flat") in told(report) and "UV710" not in [f.code for f in report.findings]
    assert len([note for note in report.notes if "backward of Quantised" in note]) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_backward_behind_a_grid_is_an_error_of_the_layers_between(seed: int) -> None:
    report = of_grid(seed, own(torch.tanh, lambda g, x: -g * (1 - x.tanh() ** 2)).apply)
    (found,) = [f for f in report.findings if f.code == "UV710"]
    assert found.level == "error" and found.layers == ("b",)


def test_calls_alike_are_compared_twice_and_told_where_they_were_made() -> None:
    calls = []

    def forward(x: Tensor) -> Tensor:
        calls.append(x.dtype)
        return x.sin()

    function = own(forward, lambda g, x: 0.5 * g * x.cos())

    def deep(x: Tensor) -> Tensor:
        for _ in range(12):
            x = function.apply(x)  # here
        return x

    with open(__file__, encoding="utf-8") as text:
        line = next(at for at, each in enumerate(text, 1) if each.rstrip().endswith("# here"))
    report = check(deep, 0)
    assert f"test_own_backward.py:{line} " in " ".join([*report.notes, *(f.message for f in report.findings)])
    assert calls.count(torch.float64) < 2 * 4 * 3 * 5  # calls, draws, lengths, ends and the graph


@pytest.mark.parametrize("seed", range(3))
def test_what_is_nearer_to_the_derivative_than_zero_is_no_error(seed: int) -> None:
    """A soft slope in place of that of ReLU: on one sample the loss may well rise by it."""
    function = own(torch.relu, lambda g, x: g * torch.sigmoid(4 * x))
    with seeded(seed):
        model, x = Branch(function.apply), torch.randn(1, 10)
    report = diagnose(model, x, x[:, :3].argmax(1), F.cross_entropy)
    assert told(report) == [("x", "other")] and report.flow.functions[0].error < 1.0
    assert all(f.level == "note" for f in report.findings if f.code == "UV710")


class Zeros(torch.autograd.Function):
    """A backward that was never filled in; ``how`` says what the forward gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: str) -> Tensor:
        return {"same": x.clone(), "twice": 2.0 * x, "bent": x.sin()}[how]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:  # type: ignore[override]
        return torch.zeros_like(u), None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["same", "twice", "bent", "dead relu"])
def test_a_backward_of_zeros_is_what_a_dead_layer_has_to_mend(how: str, seed: int) -> None:
    """No start of the weights and no normalisation helps there; beside it, units of ReLU that are off, they do."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            return self.b(torch.relu(h - 2.0) if how == "dead relu" else cast(Tensor, Zeros.apply(h, how)))

    torch.manual_seed(seed)
    report = diagnose(Model(), torch.randn(32, 6), torch.arange(32) % 3, F.cross_entropy)
    (finding,) = (each for each in report.findings if each.code == "UV301")
    ours = "the backward that the program wrote for Zeros" in finding.message
    assert finding.layers == ("a",) and ours == (how != "dead relu") and bool(finding.remedies) != ours
