"""How much the relative sensitivity rises towards the input, outside normalised layers: by hand, and in networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.decide import decide
from unvanish.decide.limits import EXPLODING
from unvanish.flow.look import looking
from unvanish.flow.observe import observe
from unvanish.flow.paths import Observed, Paths
from unvanish.flow.slopes import role
from unvanish.pipeline import diagnose, look
from unvanish.preserve import seeded
from unvanish.trace.calls import Call
from unvanish.trace.tape import Tape

SEEDS = range(3)
WIDTH = 64


def paths(signals: list[float], norms: list[float], roles: list[str], outputs: int = 1) -> Paths:
    """A chain of calls, each fed by the one before; ``signals``: log10 of the random cotangent at each result."""
    calls = [
        Call(
            index=i, name=role, module="", source="", part="model", frames=(), inputs=[i - 1] if i else [],
            parameters=[], shape=(1, 1), dtype=torch.float32, norm=norm, numel=1, finite=True, probe=None,
        )
        for i, (norm, role) in enumerate(zip(norms, roles, strict=True))
    ]  # fmt: skip
    edges = {(i + 1, i): signal for i, signal in enumerate(signals[:-1])}
    tape = Tape(signals=dict(enumerate(signals)), edges=edges)
    return Paths(calls, Observed(tape, [tape], outputs), roles, len(calls) - 1)


def test_a_chain_of_four_calls() -> None:
    """Sensitivities 10³·1, 10²·10, 10¹·1, 10⁰·10: 3, 3, 1, 1 decades.

    The last counts nothing, the third rises by 0, the second by 2, the first by 2.
    """
    rises = paths([3.0, 2.0, 1.0, 0.0], [1.0, 10.0, 1.0, 10.0], ["weights"] * 4)
    assert rises.sensitivity == pytest.approx([3.0, 3.0, 1.0, 1.0])
    assert rises.rises == pytest.approx([2.0, 2.0, 0.0, 0.0])


def test_a_normaliser_between_takes_one_rise_away() -> None:
    """Of the rises 1, 2 and 4 decades between four layers, the normaliser covers the middle one."""
    signals, norms = [7.0, 6.0, 5.5, 4.0, 0.0], [1.0] * 5
    without = paths(signals, norms, ["weights", "weights", "slopes", "weights", "weights"])
    assert without.rises == pytest.approx([7.0, 6.0, 4.0, 4.0, 0.0])
    with_it = paths(signals, norms, ["weights", "weights", "norm", "weights", "weights"])
    assert with_it.rises == pytest.approx([5.0, 4.0, 4.0, 4.0, 0.0])


def test_a_slope_between_belongs_to_the_layers_around_it() -> None:
    """The growth from one call with weights to the next counts as a whole, whatever lies between."""
    rises = paths([2.0, 9.0, 0.0], [1.0, 1.0, 1.0], ["weights", "slopes", "weights"])
    assert rises.rises == pytest.approx([2.0, 0.0, 0.0])


def test_a_fall_counts_but_never_below_zero() -> None:
    """From the end: a rise of 3, a fall of 2, a rise of 1 leave 2; a fall of 3 before a rise of 1 leaves 1."""
    assert paths([2.0, 1.0, 3.0, 0.0], [1.0] * 4, ["weights"] * 4).rises == pytest.approx([2.0, 1.0, 3.0, 0.0])
    assert paths([1.0, 0.0, 3.0], [1.0] * 3, ["weights"] * 3).rises == pytest.approx([1.0, 0.0, 0.0])


def test_the_sensitivity_is_per_output_entry() -> None:
    rises = paths([3.0, 0.0], [2.0, 1.0], ["weights"] * 2, outputs=100)
    assert rises.sensitivity == pytest.approx([3.0 + math.log10(2.0) - 1.0, -1.0])
    assert rises.rise(0) == pytest.approx(3.0 + math.log10(2.0))


def test_a_result_that_is_zero_has_no_sensitivity() -> None:
    rises = paths([3.0, 1.0, 0.0], [1.0, 0.0, 1.0], ["weights"] * 3)
    assert rises.rise(1) is None and rises.rise(0) == pytest.approx(3.0)


def stack(depth: int, seed: int, activation: type[nn.Module], init: Callable[[Tensor], Any], norm: bool = False) -> Any:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        linear = nn.Linear(WIDTH, WIDTH)
        init(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, *([nn.BatchNorm1d(WIDTH)] if norm else []), activation()]
    last = nn.Linear(WIDTH, 10)
    init(last.weight)
    return nn.Sequential(*layers, last)


def highest(model: nn.Module, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(128, WIDTH, generator=generator)
    flow = decide(look(Problem(model, inputs, torch.arange(128) % 10, F.cross_entropy), "quick", seed))
    rises = [layer.log10_sensitivity_rise for layer in flow.layers]
    assert all(rise is not None and math.isfinite(rise) for rise in rises)
    top = max(rise for rise in rises if rise is not None)
    assert (top > EXPLODING) == any(layer.verdict == "exploding" for layer in flow.layers)
    return top


def default(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def normal(gain: float) -> Callable[[Tensor], Any]:
    """Standard deviation gain / √n."""
    return lambda weight: nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))


CALM = [
    pytest.param(20, nn.ReLU, default, True, 1.5, id="20 of BatchNorm and ReLU"),
    pytest.param(50, nn.ReLU, default, True, 1.5, id="50 of BatchNorm and ReLU"),
    pytest.param(50, nn.SELU, normal(1.0), False, 2.0, id="50 of SELU"),
    pytest.param(50, nn.Identity, nn.init.orthogonal_, False, 2.0, id="50 linear, orthogonal"),
    pytest.param(20, nn.ReLU, normal(math.sqrt(2.0)), False, 2.0, id="20 of ReLU"),
]
WILD = [
    pytest.param(20, nn.Tanh, normal(3.0), id="20 tanh, 3/√n"),
    pytest.param(50, nn.Tanh, normal(3.0), id="50 tanh, 3/√n"),
    pytest.param(10, nn.Tanh, normal(8.0), id="10 tanh, N(0, 1)"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("depth", "activation", "init", "norm", "limit"), CALM)
def test_networks_that_train_rise_little(
    depth: int, activation: type[nn.Module], init: Callable[[Tensor], Any], norm: bool, limit: float, seed: int
) -> None:
    assert highest(stack(depth, seed, activation, init, norm), seed) < limit


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("depth", "activation", "init"), WILD)
def test_networks_that_do_not_rise_steeply(
    depth: int, activation: type[nn.Module], init: Callable[[Tensor], Any], seed: int
) -> None:
    assert highest(stack(depth, seed, activation, init), seed) > 2.5


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    model = stack(20, 0, nn.Tanh, normal(3.0))
    inputs = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(128) % 10
    one, other = (
        look(Problem(model, inputs, targets, lambda o, t, s=s: s * F.cross_entropy(o, t)), "quick") for s in (1, scale)
    )
    for a, b in zip(one.layers, other.layers, strict=True):
        assert b.log10_sensitivity_rise == pytest.approx(a.log10_sensitivity_rise, abs=1e-4)
    assert max(a.log10_sensitivity_rise or 0.0 for a in one.layers) > 2.5


def test_of_a_result_of_which_only_a_part_is_read_the_part_counts() -> None:
    """A call of norm 100 of which the next takes an entry of norm 1: the other entries move no output."""
    calls = [
        Call(
            index=i, name=name, module="", source="", part="model", frames=(), inputs=[i - 1] if i else [],
            parameters=[], shape=(1, 1), dtype=torch.float32, norm=norm, numel=1, finite=True, probe=None,
        )
        for i, (name, norm) in enumerate([("lstm", 100.0), ("__getitem__", 1.0), ("linear", 1.0)])
    ]  # fmt: skip
    tape = Tape(signals=dict.fromkeys(range(3), 0.0), edges={(1, 0): 0.0, (2, 1): 0.0})
    read = Paths(calls, Observed(tape, [tape], 1), ["weights", "join", "weights"], 2)
    assert read.sensitivity == pytest.approx([0.0, 0.0, 0.0])
    calls[1].name = "relu"  # takes all of it
    assert Paths(calls, Observed(tape, [tape], 1), ["weights", "slopes", "weights"], 2).sensitivity[0] == 2.0


class LastStep(nn.Module):
    def __init__(self, kind: str, embeds: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 32) if embeds else nn.Identity()
        self.read = getattr(nn, kind)(32 if embeds else 1, 32, 2 if embeds else 1, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.embed(x))[0][:, -1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "embeds", "steps"), [("RNN", False, 200), ("LSTM", True, 60), ("RNN", True, 200)])
@pytest.mark.parametrize("first", ["alone", "large"])
def test_what_vanishes_through_time_does_not_explode(
    kind: str, embeds: bool, steps: int, first: str, seed: int
) -> None:
    """The first step is larger than the others and is not heard: only the last state is read."""
    with seeded(seed):
        model, x = LastStep(kind, embeds), torch.randn(64, steps, 1)
    x = torch.cat([x[:, :1], 0.0 * x[:, 1:]], 1) if first == "alone" else torch.cat([100.0 * x[:, :1], x[:, 1:]], 1)
    report = diagnose(Problem(model, x, x[:, 0] / x[:, 0].std(), F.mse_loss))
    codes = {finding.code for finding in report.findings}
    assert "UV102" in codes and "UV201" not in codes


def cancelling(weights: list[float], inputs: Tensor) -> Paths:
    """Two layers of weights 1 and ``weights`` (one output), and the rises along them."""
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([weights]))
    model = nn.Sequential(first, last)
    problem = Problem(model, inputs, torch.zeros(len(inputs), 1), F.mse_loss)
    with looking(problem, model) as this:
        seen = observe(this.capture, this.layers)
        return Paths(this.capture.calls, seen, [role(call) for call in this.capture.calls], this.capture.loss_index)


def test_where_the_terms_of_the_last_product_cancel_its_usual_size_counts() -> None:
    """Entries of rms 1 and a row of length √2 make an entry of √2; of the 10⁻⁴ that is left all the rest would rise."""
    inputs = torch.tensor([[1.0, 1.0001], [1.0, 1.0001]])
    found = cancelling([1.0, -1.0], inputs)
    assert found.calls[1].norm == pytest.approx(math.sqrt(2) * 1e-4, rel=1e-2)
    # |∂f/∂h|·|h| of the first layer over |∂f/∂f|·√2 an entry: √2·‖h‖ over √2·√2, with ‖h‖ = 2
    assert found.rises[:2] == pytest.approx([math.log10(math.sqrt(2.0)), 0.0], abs=1e-3)


def test_a_last_product_of_its_usual_size_or_more_counts_as_it_is() -> None:
    inputs = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    found = cancelling([1.0, 1.0], inputs)
    assert found.sensitivity[1] is not None and found.sensitivity[0] is not None
    assert found.rises[:2] == pytest.approx([max(0.0, found.sensitivity[0] - found.sensitivity[1]), 0.0], abs=1e-6)


class Poisson(nn.Module):
    """The residual of u'' = -π² sin πx inside (0, 1), and u at both ends."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.u = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        first = torch.autograd.grad(self.u(x).sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
        ends = [self.u(torch.full((1, 1), end)).expand(len(x), 1) for end in (0.0, 1.0)]
        return torch.cat([second + math.pi**2 * torch.sin(math.pi * x), *ends], 1)


@pytest.mark.parametrize("steps", [0, 300])
@pytest.mark.parametrize("seed", SEEDS)
def test_conditions_that_are_met_do_not_make_the_network_explode(seed: int, steps: int) -> None:
    with seeded(seed):
        model = Poisson()
    x, zero = torch.linspace(0, 1, 48)[:, None], torch.zeros(1)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    report = diagnose(Problem(model, x, zero, lambda f, _: f.square().mean(), optimizer))
    assert report.healthy and not report.undecided, str(report)
