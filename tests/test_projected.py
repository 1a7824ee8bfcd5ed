"""Norms of weight gradients by random projection: against the products, the dense Jacobian, and autograd."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unvanish.flow.transmission import output_cotangents
from unvanish.problem import Problem
from unvanish.trace import projected
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.trace.projected import DIRECTIONS, Projector
from unvanish.trace.tape import Tape

WIDE = 256
"""Outputs of the layers here: enough for the projection to pay."""


class Tokens(nn.Module):
    """An embedding, a layer on sequences, one without a bias, and a mean over the places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, WIDE, padding_idx=0)
        self.first, self.second = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(self.table(ids)))).mean(1)


class Twice(nn.Module):
    """One weight with two uses, and one with one."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def dense_net() -> tuple[nn.Module, Tensor]:
    parts = [part for _ in range(3) for part in (nn.Linear(WIDE, WIDE), nn.Tanh())]
    return nn.Sequential(*parts, nn.Linear(WIDE, 3)), torch.randn(6, WIDE)


def normalised() -> tuple[nn.Module, Tensor]:
    """A batch norm makes the rows depend on each other."""
    body = (nn.Linear(WIDE, WIDE), nn.BatchNorm1d(WIDE), nn.ReLU())
    return nn.Sequential(*body, nn.Linear(WIDE, 3)), torch.randn(6, WIDE)


def convolutions() -> tuple[nn.Module, Tensor]:
    body = (nn.Conv2d(3, WIDE, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(WIDE, WIDE, 2, bias=False), nn.Flatten())
    return nn.Sequential(*body, nn.LazyLinear(3)), torch.randn(4, 3, 6, 6)


def along_time() -> tuple[nn.Module, Tensor]:
    body = (nn.Conv1d(8, WIDE, 3, dilation=2), nn.Tanh(), nn.Flatten())
    return nn.Sequential(*body, nn.LazyLinear(3)), torch.randn(4, 8, 9)


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "dense": dense_net,
    "normalised": normalised,
    "tokens": lambda: (Tokens(), torch.randint(0, 50, (4, 5))),
    "convolutions": convolutions,
    "along time": along_time,
    "twice": lambda: (Twice(), torch.randn(6, WIDE)),
}
PROJECTED = {"dense": 3, "normalised": 1, "tokens": 3, "convolutions": 2, "along time": 1, "twice": 1}
"""Weights whose gradient is not made."""


@pytest.fixture(autouse=True)
def where_it_barely_pays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projected, "WORTH", 1.0)


def made(name: str, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(1)
    model, inputs = NETS[name]()
    model(inputs)  # lazy layers
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    return Problem(model.to(dtype), inputs, None, lambda out, _: out.square().mean())


def probed(problem: Problem, seed: int, projector: Projector | None) -> tuple[Tape, Tape]:
    """Tapes of the loss, and of one random cotangent of the outputs."""
    model: Any = problem.model
    capture = record(problem, model)
    assert capture.loss_root is not None
    ones = torch.ones(capture.loss_root.shape, dtype=capture.loss_root.dtype)
    loss, probe = walk(capture, [[(capture.loss_root, ones)], output_cotangents(capture, seed)], None, None, projector)
    return loss, probe


def names(problem: Problem) -> dict[int, str]:
    model: Any = problem.model
    return {id(p): n for n, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETS)
def test_only_weights_are_projected_and_nothing_else_changes(name: str, dtype: torch.dtype) -> None:
    problem = made(name, dtype)
    close = 1e-12 if dtype is torch.float64 else 2e-6
    (loss, plain), (same_loss, quick) = probed(problem, 0, None), probed(problem, 0, Projector(0))
    assert same_loss.leaves == loss.leaves and same_loss.edges == loss.edges
    assert quick.signals == pytest.approx(plain.signals, abs=close)
    assert quick.edges == pytest.approx(plain.edges, abs=close)
    assert quick.leaves.keys() == plain.leaves.keys()
    moved = [key for key in plain.leaves if abs(plain.leaves[key] - quick.leaves[key]) > close]
    assert len(moved) == PROJECTED[name]
    assert all(names(problem)[key].endswith("weight") for key in moved)
    if name == "twice":
        assert names(problem)[moved[0]] == "last.weight"


@pytest.mark.parametrize("name", NETS)
def test_the_squared_norm_is_right_in_the_mean_and_as_close_as_promised(name: str) -> None:
    problem = made(name)
    plain = probed(problem, 0, None)[1].leaves
    ratios: dict[int, list[float]] = {}
    for seed in range(40):
        for key, value in probed(problem, 0, Projector(1000 * seed))[1].leaves.items():
            ratios.setdefault(key, []).append(100.0 ** (value - plain[key]))
    for key, each in ratios.items():
        spread = math.sqrt(2.0 / DIRECTIONS)  # of a gradient of rank one; less otherwise
        assert statistics.mean(each) == pytest.approx(1.0, abs=4.0 * spread / math.sqrt(len(each))), names(problem)[key]
        assert statistics.pstdev(each) < 1.35 * spread, names(problem)[key]


@pytest.mark.parametrize("name", ["dense", "normalised", "tokens", "convolutions"])
def test_probes_agree_with_the_dense_jacobian(name: str) -> None:
    """‖∂f/∂w‖ over all outputs, one backward pass an output."""
    problem = made(name)
    model: Any = problem.model
    out, parameters = model(problem.inputs), list(model.parameters())
    squares = {id(p): 0.0 for p in parameters}
    for entry in out.reshape(-1):
        for p, g in zip(parameters, torch.autograd.grad(entry, parameters, retain_graph=True), strict=True):
            squares[id(p)] += float(g.square().sum())
    rms = float(out.detach().square().mean().sqrt())
    found: dict[str, dict[int, list[float]]] = {"plain": {}, "quick": {}}
    for seed in range(40):
        for kind, projector in (("plain", None), ("quick", Projector(seed))):
            for key, value in probed(problem, seed, projector)[1].leaves.items():
                found[kind].setdefault(key, []).append(100.0**value * rms**2 / squares[key])
    most = max(squares.values())
    for key in (key for key, square in squares.items() if square > 1e-20 * most):  # a bias before a norm has none
        plain, quick = found["plain"][key], found["quick"][key]
        error = statistics.pstdev(quick) / math.sqrt(len(quick))
        assert statistics.mean(quick) == pytest.approx(1.0, abs=4.0 * error + 1e-9), names(problem)[key]
        added = math.sqrt(statistics.pvariance(plain) + 2.0 / DIRECTIONS * statistics.mean(v * v for v in plain))
        assert statistics.pstdev(quick) < 1.4 * added, names(problem)[key]


@pytest.mark.parametrize("name", ["dense", "tokens", "convolutions"])
def test_a_power_of_two_on_a_layer_moves_its_norm_by_just_that(name: str) -> None:
    """Both ways of a probe are linear in what stands behind the layer, whatever its size."""
    problem, far = made(name, torch.float32), made(name, torch.float32)
    model: Any = far.model
    last = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    with torch.no_grad():
        last.weight.mul_(2.0**-100)
        if last.bias is not None:
            last.bias.mul_(2.0**-100)
    near, there = probed(problem, 3, Projector(0))[1].leaves, probed(far, 3, Projector(0))[1].leaves
    # the cotangents of the outputs are N(0, 1) / rms(outputs): what the last layer is multiplied by is divided out
    by_name = {names(far)[key]: value for key, value in there.items()}
    for key, value in near.items():
        layer = names(problem)[key]
        own = 100 * math.log10(2.0) * (model.get_submodule(layer.rpartition(".")[0]) is last)
        assert by_name[layer] - own == pytest.approx(value, abs=1e-4), layer


@pytest.mark.parametrize("seed", range(3))
def test_how_the_units_are_numbered_makes_no_difference(seed: int) -> None:
    problem, other = made("dense"), made("dense")
    model: Any = other.model
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for first, second in ((model[0], model[2]), (model[2], model[4])):
            order = torch.randperm(WIDE, generator=generator)
            first.weight.copy_(first.weight[order])
            first.bias.copy_(first.bias[order])
            second.weight.copy_(second.weight[:, order])
    before, after = probed(problem, seed, Projector(seed))[1].leaves, probed(other, seed, Projector(seed))[1].leaves
    assert list(after.values()) == pytest.approx(list(before.values()), abs=1e-9)


def test_a_gradient_that_is_zero_is_exactly_zero() -> None:
    problem = made("dense")
    model: Any = problem.model
    nn.init.zeros_(model[-1].weight)
    leaves = probed(problem, 0, Projector(0))[1].leaves
    assert leaves[id(model[0].weight)] == -math.inf


def test_bfloat16_autocast_projects_through_the_casts() -> None:
    problem = made("dense", torch.float32)
    given = Problem(problem.model, problem.inputs, None, problem.loss_fn, autocast=torch.bfloat16)
    plain, quick = probed(given, 0, None)[1].leaves, probed(given, 0, Projector(0))[1].leaves
    assert quick == pytest.approx(plain, abs=0.25)
    assert quick != plain


@pytest.mark.parametrize("kind", ["AddmmBackward0", "ConvolutionBackward0", "EmbeddingBackward0"])
def test_without_the_private_details_the_node_is_called_as_it_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise AttributeError("_saved_mat1")

    name = {"AddmmBackward0": "dense", "ConvolutionBackward0": "convolutions", "EmbeddingBackward0": "tokens"}[kind]
    problem = made(name)
    plain = probed(problem, 0, None)[1].leaves
    for each, (weight, _) in list(projected._KINDS.items()):
        monkeypatch.setitem(projected._KINDS, each, (weight, missing))
    assert probed(problem, 0, Projector(0))[1].leaves == plain
