"""Layers of n neurons: against autograd in float64 and the tool's own check, and one neuron against the chain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from unvanish import diagnose, lab
from unvanish.lab.readable import MOST, readable
from unvanish.records import UnvanishError
from unvanish.theory import chain
from unvanish.theory.wide import draw_weights, layers

SETTINGS = [
    {"width": 16},
    {"width": 16, "weight": 2.0, "activation": "tanh", "bias": 0.3, "depth": 7},
    {"width": 8, "weight": 1.5, "activation": "relu", "residual": True, "loss": "half", "target": 0.4, "noise": 0.3},
    {"width": 3, "weight": (1.0, -2.0, 0.5), "activation": "gelu", "loss": "square", "target": -1.0, "depth": 3},
    {"width": 1, "weight": 0.7, "activation": "tanh", "residual": True, "loss": "square", "target": 2.0, "depth": 5},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_and_error_signals_are_those_of_autograd_and_of_the_check(settings, seed):
    settings = {**settings, "seed": seed}
    rows = lab.run("chain", **settings).rows
    chosen = lab.get("chain")
    assert chosen.network is not None
    problem = chosen.network(chosen.settle(**settings))()
    model: Any = problem.model
    assert problem.loss_fn is not None
    problem.loss_fn(model(problem.inputs), problem.targets).backward()
    gradients = [p.grad for name, p in model.named_parameters() if name.endswith("weight")]
    norms = [math.log10(norm) if (norm := float(each.norm())) else -math.inf for each in gradients]
    assert [row["log10_gradient"] for row in rows] == pytest.approx(norms, abs=1e-11)
    signals = [layer.log10_signal for layer in diagnose(problem, effort="quick").layers]
    assert [row["log10_delta"] for row in rows] == pytest.approx(signals, abs=1e-11)


def test_one_neuron_is_a_chain():
    weights = np.array([0.7, -1.3, 2.0, 0.4])
    for residual in (False, True):
        one = chain(weights, 0.2, 0.8, "tanh", residual, "square", 0.5)
        same = layers(weights.reshape(-1, 1, 1), 0.2, 0.8, "tanh", residual, "square", 0.5)
        assert same.log10_signal == pytest.approx(one.log10_signal, abs=1e-12)
        assert same.weight_gradient.log10 == pytest.approx(one.weight_gradient.log10, abs=1e-12)
        assert same.activation == pytest.approx(one.activation)
        assert same.loudest.log10 == pytest.approx(one.loudest.log10, abs=1e-12)


def test_it_is_exact_where_every_number_type_has_reached_zero():
    """Orthogonal weights of gain 10⁻³ under the identity: each of 999 steps back multiplies by exactly that."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    made = layers(np.broadcast_to(1e-3 * turn, (1000, 4, 4)), phi="identity")
    assert made.log10_signal[0] == pytest.approx(-2997.0, abs=1e-9)
    assert made.weights == pytest.approx(np.full(1000, 1e-3))


def test_where_nothing_arrives_the_signal_is_zero_and_no_number_is_invented():
    made = layers(np.full((3, 2, 2), -1.0), phi="relu")
    assert made.log10_signal[0] == -math.inf
    assert made.slope[0, 0] == 0 and made.weights[0] == 1.0


def test_the_gain_of_a_layer_is_that_of_one_neuron():
    """Weights w·N(0, 1/n): with the identity a layer multiplies the signal by |w|, whatever the width."""
    for neurons in (4, 32, 256):
        made = layers(draw_weights([1.5] * 12, 0.0, neurons, 1), phi="identity")
        step = (made.log10_signal[0] - made.log10_signal[-1]) / 11
        assert step == pytest.approx(math.log10(1.5), abs=1.0 / neurons**0.5)
    both = draw_weights([3.0] * 20, 4.0, 64, 0)
    assert both.std() * 8 == pytest.approx(5.0, rel=0.02)  # 3² + 4² = 5²


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"width": 2, "input": (1.0, 2.0)}, "one input"),
        ({"width": 2, "written": "000"}, "formula"),
        ({"width": 256, "depth": 1000}, "at most 76"),
        ({"width": 257}, "from 1 to 256"),
    ],
)
def test_what_does_not_go_with_more_neurons_is_refused(settings, reason):
    with pytest.raises(UnvanishError, match=reason):
        lab.run("chain", **settings)


def test_beside_a_chain_stand_its_remedies_with_what_reaches_layer_1():
    data = {row["name"]: row for row in lab.run("chain").pictures[-1].data}
    as_is = lab.run("chain").rows[0]["log10_delta"]
    assert data["as it is"]["log10 gain"] == data["clipping or Adagrad"]["log10 gain"] == pytest.approx(as_is)
    assert data["half the depth: 10"]["log10 gain"] == pytest.approx(lab.run("chain", depth=10).rows[0]["log10_delta"])
    assert data["relu, weight 1, bias 0"]["log10 gain"] == 0.0  # input 1: every slope is 1
    assert data["as it is"]["score"] == -abs(as_is)
    rising = {row["name"]: row for row in lab.run("chain", activation="identity", weight=10.0).pictures[-1].data}
    assert rising["as it is"]["score"] == pytest.approx(-19.0)  # an explosion is as far from 1 as its inverse
    assert rising["as it is"]["log10 gain"] == pytest.approx(19.0)


def test_every_picture_carries_its_numbers_as_rows():
    runs: list[tuple[str, dict[str, Any]]] = [
        ("ravine", {"steps": 100}),
        ("activations", {}),
        ("phase", {"width": 0}),
        ("unstable", {}),
    ]
    for name, settings in runs:
        for picture in lab.run(name, **settings).pictures:
            assert 0 < len(picture.data) <= MOST
            assert all(isinstance(key, str) for row in picture.data for key in row)


def test_rows_say_which_numbers_are_logarithms_and_long_ones_are_thinned():
    def tables(names, log10_signal, parts=None, gains=None, compare=()):
        del names, log10_signal, parts, gains, compare

    more = {"parts": {"w": [1, 2]}, "compare": [("other", [5])]}
    rows = readable("staircase", tables, (["a", "b"], [-1.0, -2.0]), more)
    assert rows[0] == {"layer": "a", "log10 signal": -1.0, "log10 w": 1, "log10 other": None}
    assert rows[1]["log10 other"] == 5
    many = readable("staircase", tables, ([str(n) for n in range(1000)], list(range(1000))), {})
    assert len(many) <= MOST and many[0]["layer"] == "0"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("activation", ["silu", "relu", "softplus", "elu"])
def test_extreme_settings_warn_of_nothing(activation):
    """Activations grow to 1e200, the square of which is beyond float64, and on until they leave it themselves."""
    for residual in (False, True):
        settings = {"width": 8, "weight": 1_000, "activation": activation, "residual": residual, "input": 1e6}
        outcome = lab.run("chain", depth=200, **settings)
        assert "nan" not in str(outcome) and outcome.ok
    made = layers(draw_weights([1_000.0] * 70, 0.0, 8, 0), 0.0, 1.0, "softplus", True)
    assert made.before.max() > 1e160 and np.isfinite(made.before).all()
    assert made.before[0, 0] == pytest.approx(math.sqrt(8))
