"""Stacked networks and chains against a loop of modules under torch's own autograd, and against theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import Problem, diagnose
from unvanish.population import chains, draws, stacked, training
from unvanish.population.data import Images
from unvanish.population.designs import Block
from unvanish.population.initialisations import KINDS
from unvanish.population.modules import build, network
from unvanish.population.names import OPTIMIZERS
from unvanish.population.shape import Shape, numbers_of, shape_of
from unvanish.population.work import predicted, verdict
from unvanish.theory import activation
from unvanish.theory.deep import log10_signal_ratio, table
from unvanish.theory.meanfield import moments

SETTINGS: tuple[dict[str, Any], ...] = (
    {"depth": 5, "width": 16, "activation": "tanh", "weight_variance": 1.3, "bias_variance": 0.05},
    {"depth": 20, "width": 48, "activation": "sigmoid"},
    {"depth": 12, "width": 32, "activation": "relu", "init": "he"},
    {"depth": 8, "width": 24, "activation": "gelu", "init": "xavier", "norm": "layer"},
    {"depth": 8, "width": 24, "activation": "relu", "init": "he", "norm": "batch", "batch": 24},
    {"depth": 8, "width": 24, "activation": "relu", "init": "he", "skip": 1.0},
    {"depth": 9, "width": 24, "activation": "tanh", "init": "orthogonal", "skip": "1/sqrt(depth)", "norm": "batch"},
    {"depth": 10, "width": 24, "activation": "sigmoid", "init": "centred"},
    {"depth": 6, "width": 24, "activation": "sigmoid", "init": "critical"},
    {"depth": 1, "width": 8, "activation": "silu", "init": "normal"},
    {"depth": 30, "width": 1, "activation": "softplus", "weight_variance": 1.0, "bias_variance": 1.0},
    {"depth": 6, "width": 40, "activation": "hardtanh", "weight_variance": 2.0, "batch": 4},
)


def measured(settings: dict[str, Any], seeds: list[int]) -> tuple[Shape, stacked.Flows]:
    """The flow of two points, of which the second is the one asked for."""
    shape = shape_of(settings)
    weight, bias, skip = numbers_of(settings)
    other = 1.7 * weight
    return shape, stacked.flows(shape, np.array([[other, weight], [bias, bias]]), np.array([skip, skip]), seeds)


def asked(shape: Shape, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs and the cotangents of one seed."""
    inputs = draws.inputs([seed], shape.batch, shape.inputs)[0]
    aim = draws.cotangents([seed], shape.batch, shape.outputs)[0]
    return torch.tensor(inputs), torch.tensor(aim)


def signals_by_autograd(net: nn.Sequential, inputs: torch.Tensor, aim: torch.Tensor) -> tuple[float, float]:
    """Norms of the derivatives by the outputs of the first and the last linear layer, in float64."""
    net, inputs, aim = net.double(), inputs.double(), aim.double()
    kept: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, out: (out.retain_grad(), kept.append(out))[1])
    (net(inputs) * aim).sum().backward()
    norms = [kept[at].grad.norm().item() for at in (0, -1)]  # pyright: ignore[reportOptionalMemberAccess]
    return norms[0], norms[1]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_signal_is_that_of_plain_autograd(settings: dict[str, Any]) -> None:
    shape, flows = measured(settings, [0, 3])
    for at, seed in enumerate((0, 3)):
        first, last = signals_by_autograd(network(settings, seed), *asked(shape, seed))
        assert flows.ratio[1, at] == pytest.approx(math.log10(first / last), abs=2e-5)
        assert flows.finite[1, at]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_transmission_and_rise_are_those_of_the_check(settings: dict[str, Any]) -> None:
    shape, flows = measured(settings, [2])
    inputs, aim = asked(shape, 2)
    problem = Problem(network(settings, 2), inputs, aim, lambda outputs, aim: (outputs * aim).sum() / len(aim))
    layers = diagnose(problem, effort="quick", seed=2).layers
    linear = [each for each in layers if each.kind == "Linear"]
    sent = [each.log10_transmission for each in layers if each.log10_transmission is not None]
    rises = [each.log10_sensitivity_rise for each in layers if each.log10_sensitivity_rise is not None]
    assert flows.transmission[1, 0] == pytest.approx(linear[0].log10_transmission, abs=2e-5)
    assert flows.lowest[1, 0] == pytest.approx(min(sent), abs=2e-5)
    assert flows.rise[1, 0] == pytest.approx(max(rises), abs=2e-5)


def test_chunks_and_neighbours_do_not_change_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(6, 12, 12, 10, "tanh", "gaussian")
    variances = np.array([[0.5, 1.0, 2.0, 3.0, 4.0], [0.0, 0.1, 0.0, 0.1, 0.0]])
    whole = stacked.flows(shape, variances, np.zeros(5), range(7))
    monkeypatch.setattr(stacked, "CHUNK", 3 * shape.batch * shape.width)
    monkeypatch.setattr(stacked, "WEIGHTS", 1)  # weights are drawn again for the way back
    pieces = stacked.flows(shape, variances, np.zeros(5), range(7))
    for name in ("ratio", "transmission", "lowest", "rise"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), abs=1e-4), name


def test_weights_that_are_not_kept_are_drawn_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, biases = (each.copy() for each in draws.layer("normal", 5, 2, 9, 7))
    monkeypatch.setattr(draws, "KEPT", 1)
    for place in range(4):
        draws.layer("normal", 5, place, 9, 7)
    draws.forget()
    again = draws.layer("normal", 5, 2, 9, 7)
    assert (again[0] == weights).all() and (again[1] == biases).all()
    assert not (draws.layer("normal", 6, 2, 9, 7)[0] == weights).any()


@pytest.mark.parametrize("name", KINDS)
def test_the_variances_of_the_drawn_weights_are_those_theory_is_told(name: str) -> None:
    settings = {"depth": 3, "width": 200, "activation": "sigmoid", "init": name, "weight_variance": 2.5}
    shape = shape_of({**settings, "bias_variance": 0.3})
    given = np.array([[2.5], [0.3]])
    net = build(shape, given, 0.0, seed=4)
    for place, linear in enumerate(m for m in net.modules() if isinstance(m, nn.Linear)):
        weight, bias = (each[0] for each in shape.variances(place, given))
        spread = linear.weight.square().mean().item() * linear.in_features
        assert spread == pytest.approx(weight, rel=6 / math.sqrt(linear.weight.numel()))
        if not (shape.centred and place):
            assert linear.bias.square().mean().item() == pytest.approx(bias, rel=0.7, abs=1e-12)


@pytest.mark.parametrize("phi", ["sigmoid", "tanh", "relu", "softplus", "identity"])
@pytest.mark.parametrize("variances", [(1.0, 1.0), (4.0, 0.1)])
def test_chains_in_numpy_are_the_stacked_networks(phi: str, variances: tuple[float, float]) -> None:
    shape = Shape(12, 1, 1, 1, phi, "gaussian", batch=1)
    assert chains.is_chain(shape, False)
    given = np.array([[variances[0]] * 2, [variances[1], 0.4]])
    seeds = [0, 1, draws.BLOCK - 1, draws.BLOCK, 3 * draws.BLOCK + 5]
    one, other = chains.flows(shape, given, seeds), stacked.flows(shape, given, np.zeros(2), seeds)
    for name in ("ratio", "transmission", "lowest", "rise"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name


def test_a_chain_of_ten_thousand_layers_has_a_finite_logarithm() -> None:
    shape = Shape(10_000, 1, 1, 1, "sigmoid", "gaussian", batch=1)
    flows = chains.flows(shape, np.array([[1.0], [1.0]]), [0, 1])
    assert (flows.ratio < -5_000).all() and np.isfinite(flows.ratio).all() and np.isfinite(flows.transmission).all()


def test_a_dead_chain_is_dead_and_a_blown_one_not_finite() -> None:
    assert verdict(False, 0.0, 0.0) == "nonfinite"
    shape = Shape(40, 1, 1, 1, "relu", "gaussian", batch=1)
    flows = chains.flows(shape, np.array([[2.0], [0.0]]), range(50))
    dead = flows.ratio[0] == -np.inf
    assert dead.any() and (flows.transmission[0][dead] == -np.inf).all()
    blown = stacked.flows(Shape(60, 8, 8, 8, "relu", "gaussian"), np.array([[1e6], [0.0]]), np.zeros(1), [0])
    assert not blown.finite[0, 0]


@pytest.mark.parametrize("q", [1e-9, 0.013, 1.0, 37.0])
@pytest.mark.parametrize("phi", ["sigmoid", "tanh", "relu", "gelu"])
def test_the_table_of_averages_is_right_between_its_places(phi: str, q: float) -> None:
    exact = moments(activation(phi), q)
    mean, square, slope = (float(each[0]) for each in table(phi).at(np.array([q])))
    assert (square, slope) == pytest.approx((exact.square, exact.slope_square), rel=2e-4)
    assert mean == pytest.approx(exact.mean, rel=5e-4, abs=1e-6)


def test_batch_normalised_relu_explodes_by_the_published_rate() -> None:
    def at(depth: int) -> float:
        two, none = np.array([2.0]), np.array([0.0])
        return float(log10_signal_ratio("relu", depth, (two, none), (two, none), two, norm="batch")[0])

    assert 10 ** (at(41) - at(40)) == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "within"),
    [
        ({"depth": 10, "width": 400, "activation": "tanh", "weight_variance": 1.4, "bias_variance": 0.05}, 0.1),
        ({"depth": 10, "width": 400, "activation": "sigmoid"}, 0.15),
        ({"depth": 10, "width": 400, "activation": "relu", "init": "he", "norm": "layer"}, 0.15),
        ({"depth": 10, "width": 400, "activation": "relu", "init": "he", "norm": "batch", "batch": 128}, 0.15),
        ({"depth": 10, "width": 400, "activation": "relu", "init": "he", "skip": 0.5}, 0.15),
        ({"depth": 10, "width": 400, "activation": "sigmoid", "init": "centred"}, 0.15),
        ({"depth": 10, "width": 400, "activation": "tanh", "init": "xavier", "skip": 1.0, "norm": "layer"}, 0.15),
    ],
)  # fmt: skip
def test_wide_networks_do_what_theory_says(settings: dict[str, Any], within: float) -> None:
    shape = shape_of(settings)
    weight, bias, skip = numbers_of(settings)
    given, factor = np.array([[weight], [bias]]), np.array([skip])
    ratio = stacked.flows(shape, given, factor, range(3)).ratio.mean()
    assert ratio == pytest.approx(predicted(shape, given, factor)[0], abs=within)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 3, "width": 12, "activation": "tanh", "weight_variance": 1.5},
        {"depth": 3, "width": 12, "activation": "gelu", "init": "he", "norm": "batch", "skip": 0.5},
        {"depth": 3, "width": 12, "activation": "sigmoid", "init": "centred", "norm": "layer"},
    ],
)
def test_training_is_that_of_a_loop_of_modules(settings: dict[str, Any], optimizer: str) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [(torch.randn(40, 9, generator=generator), torch.arange(40) % 4) for _ in range(3)]
    data = Images(parts[0], parts[1], parts[2])
    shape = shape_of({**settings, "batch": 10}, data.inputs, data.classes)
    weight, bias, skip = numbers_of(settings)
    rates = np.array([0.02, 0.005])
    recipe = training.Recipe(optimizer, rates, steps=12)
    trained = training.train(shape, np.array([[weight] * 2, [bias] * 2]), np.array([skip] * 2), [0, 4], data, recipe)
    for at, rate in enumerate(rates.tolist()):
        for place, seed in enumerate((0, 4)):
            net = build(shape, np.array([[weight], [bias]]), skip, seed)
            descent = training.MAKERS[optimizer](net.parameters(), lr=rate)
            linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
            squares, loss = torch.zeros(len(linear)), torch.tensor(math.nan)
            for inputs, labels in data.batches(10, 12, 0):
                descent.zero_grad()
                loss = F.cross_entropy(net(inputs), labels)
                loss.backward()
                squares += torch.stack([m.weight.grad.square().sum() for m in linear])  # pyright: ignore[reportOptionalMemberAccess]
                descent.step()
            right = (net(data.judge[0]).argmax(-1) == data.judge[1]).double().mean().item()
            # RMSprop and Adam divide by the gradient's size, which makes rounding as large as what it rounds
            assert trained.loss[at, place] == pytest.approx(loss.item(), abs=3e-4)
            assert trained.accuracy[at, place] == pytest.approx(right, abs=1e-9)
            speeds = 0.5 * (squares / 12).log10()
            assert trained.log10_speeds[:, at, place] == pytest.approx(speeds.numpy(), abs=5e-3)


def test_the_module_is_what_its_settings_say() -> None:
    net = network({"depth": 4, "width": 6, "activation": "relu", "skip": "1/sqrt(depth)"}, seed=1)
    blocks = [each for each in net if isinstance(each, Block)]
    assert [block.skip for block in blocks] == [0.0, 0.5, 0.5, 0.5]
    assert isinstance(net[-1], nn.Linear) and net[-1].out_features == 6
