"""The idealised network beside a reported one: against real networks of random weights, and against golden numbers."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from unvanish import Problem, diagnose, lab
from unvanish.lab.whatif import AS_REPORTED, INITIALISATIONS, idealised, variances, what_if
from unvanish.records import UnvanishError
from unvanish.theory import activation, activations
from unvanish.theory.activations import CENTRED, centred_sigmoid
from unvanish.theory.meanfield import critical

DEPTH, WIDTH, SEEDS = 20, 256, range(2)
TORCH = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "gelu": nn.functional.gelu,
         CENTRED: lambda x: 2 * torch.tanh(x / 2)}  # fmt: skip
ABSOLUTE = 0.1
"""Of log10 over 19 steps, the mean over two networks of width 256: 1.2% a step."""
settled = partial(lab.get("whatif").settle)


def silent(share: float, what: str) -> None:
    del share, what


def gain(layers: Any) -> float:
    """log10 of the error signal at the first layer over that at the last."""
    return layers[0].log10_signal - layers[-1].log10_signal


class Block(nn.Module):
    def __init__(self, linear: nn.Linear, phi: Any, scale: float | None) -> None:
        super().__init__()
        self.linear, self.phi, self.scale = linear, phi, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.phi(self.linear(x))
        return branch if self.scale is None else x + self.scale * branch


def drawn(phi: str, initialisation: str, residual: str, seed: int, width: int = WIDTH) -> Problem:
    """A real network: 19 blocks and a linear head, on inputs of mean square one."""
    generator = torch.Generator().manual_seed(seed)
    function = centred_sigmoid() if phi == CENTRED else activation(phi)
    weight, bias = variances(initialisation, function, width)
    scale = {"none": None, "plain": 1.0, "scaled": 1 / math.sqrt(DEPTH - 1)}[residual]
    layers: list[nn.Module] = []
    for at in range(DEPTH):
        linear = nn.Linear(width, width, dtype=torch.float64)
        if initialisation == "orthogonal":
            nn.init.orthogonal_(linear.weight, generator=generator)
        else:
            nn.init.normal_(linear.weight, 0.0, math.sqrt(weight / width), generator)
        nn.init.normal_(linear.bias, 0.0, math.sqrt(bias), generator)
        layers.append(linear if at == DEPTH - 1 else Block(linear, TORCH[phi], scale))
    inputs = torch.randn(16, width, generator=generator, dtype=torch.float64)
    aim = torch.randn(16, width, generator=generator, dtype=torch.float64)
    return Problem(nn.Sequential(*layers), inputs, aim, lambda outputs, aim: (outputs * aim).sum(1).mean())


CASES = [
    ("tanh", "critical", "none"), ("tanh", "torch default", "none"), ("sigmoid", "torch default", "none"),
    ("relu", "he", "none"), ("gelu", "lecun", "scaled"),
    ("sigmoid", "xavier", "plain"), ("tanh", "orthogonal", "plain"), ("tanh", "orthogonal", "none"),
    (CENTRED, "he", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("phi", "initialisation", "residual"), CASES)
def test_real_wide_networks_do_what_the_idealised_ones_say(phi, initialisation, residual):
    measured = []
    for seed in SEEDS:
        layers = diagnose(drawn(phi, initialisation, residual, seed), effort="quick").layers
        measured.append(gain(layers))
    function = centred_sigmoid() if phi == CENTRED else activation(phi)
    ideal = idealised(function, *variances(initialisation, function, WIDTH), DEPTH, residual, silent)
    predicted = sum(ideal.steps)
    assert sum(measured) / len(measured) == pytest.approx(predicted, abs=ABSOLUTE)


def test_a_residual_stream_of_relu_gains_more_at_finite_width_and_comes_closer_with_width():
    """The error signal aligns with the stream's mean; the idealisation is its limit, reached from above."""
    function = activation("relu")
    off = []
    for width in (64, 256, 1024):
        layers = diagnose(drawn("relu", "torch default", "plain", 0, width), effort="quick").layers
        predicted = sum(idealised(function, *variances("torch default", function, width), DEPTH, "plain", silent).steps)
        off.append(gain(layers) - predicted)
    assert off[0] > off[1] > off[2] > 0
    assert off[1] < 0.25 and off[2] < 0.12


def test_deep_down_every_step_is_the_golden_chi1(golden):
    """√χ₁ at the fixed point of common initialisations, and the critical variances, from independent quadrature."""
    gold = golden("meanfield")
    for name in ("tanh", "sigmoid", "relu", "gelu", "softsign"):
        phi = activation(name)
        for point in (each for each in gold[name]["line"] if each["feasible"] and each["q"] in (0.25, 1.0)):
            ideal = idealised(phi, point["sigma_w2"], max(point["sigma_b2"], 0.0), 400, "none", silent)
            if point["q_slope"] < 0.95:
                assert ideal.variances[-1] == pytest.approx(point["q"], rel=1e-6)
                assert ideal.steps[-3] == pytest.approx(0.0, abs=1e-7)
        if critical(phi, 1.0).feasible:
            one = next(each for each in gold[name]["line"] if each["q"] == 1.0)
            assert variances("critical", phi, 1) == pytest.approx((one["sigma_w2"], max(one["sigma_b2"], 0.0)), 1e-6)


def test_a_linear_network_by_hand():
    """Identity, σ_w² = 2: q doubles and the signal grows by √2 a layer; plain residual: the stream by √3."""
    identity = activation("identity")
    plain = idealised(identity, 2.0, 0.0, 6, "none", silent)
    assert plain.variances == pytest.approx([2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    assert plain.steps == pytest.approx([0.5 * math.log10(2)] * 5 + [0])
    residual = idealised(identity, 2.0, 0.0, 4, "plain", silent)
    assert residual.variances == pytest.approx([2.0, 6.0, 18.0, 54.0])
    assert residual.steps == pytest.approx([0.5 * math.log10(3)] * 2 + [0.5 * math.log10(2), 0])
    scaled = idealised(identity, 2.0, 0.0, 5, "scaled", silent)  # branch times 1/2
    assert scaled.variances == pytest.approx([2 * 1.5**at for at in range(5)])
    assert scaled.steps == pytest.approx([0.5 * math.log10(1.5)] * 3 + [0.5 * math.log10(0.5), 0])


def test_the_centred_sigmoid_is_a_stretched_tanh():
    import numpy as np

    phi, x = centred_sigmoid(), np.linspace(-6, 6, 7)
    assert phi.phi(x) == pytest.approx(4 / (1 + np.exp(-x)) - 2, abs=1e-15)
    assert phi.one(0.7) == pytest.approx(4 / (1 + math.exp(-0.7)) - 2)
    assert phi.slope(x) == pytest.approx(4 * np.exp(-x) / (1 + np.exp(-x)) ** 2)


@pytest.fixture(scope="module")
def report() -> Any:
    from unvanish.zoo import get

    return diagnose(get("sigmoid-20").build(0), effort="quick")


def test_a_saved_report_is_opened_and_both_numbers_are_said(report, tmp_path):
    report.save(tmp_path / "x.json")
    outcome = lab.run("whatif", report=str(tmp_path / "x.json"), activation=AS_REPORTED, initialisation="torch default")
    first, last = outcome.rows[0], outcome.rows[-1]
    assert first["log10_reported"] == report.layers[0].log10_signal
    assert last["log10_idealised"] == last["log10_reported"] == report.layers[-1].log10_signal
    # the network IS what the idealisation describes, at width 64
    assert first["log10_idealised"] == pytest.approx(first["log10_reported"], abs=0.5)
    assert [row["layer"] for row in outcome.rows] == [layer.name for layer in report.layers]
    assert "sigmoid with torch's default weights" in outcome.sentence and "6." in outcome.sentence
    assert any("Left out" in note for note in outcome.notes)
    assert outcome.chart(0).svg().startswith("<svg")


def test_the_sum_of_the_steps_is_the_signal(report):
    outcome = what_if(report, settled(activation="relu", initialisation="he", residual="plain"), silent)
    rows = outcome.rows
    for here, after in pairwise(rows):
        assert here["log10_idealised"] - after["log10_idealised"] == pytest.approx(here["log10_idealised_step"])
        assert here["log10_reported"] - after["log10_reported"] == pytest.approx(here["log10_reported_step"])


def test_every_setting_gives_numbers_or_one_clear_refusal(report):
    report = report.replace(layers=report.layers[:4])
    for name in (AS_REPORTED, CENTRED, *activations()):
        for initialisation in INITIALISATIONS:
            for residual in ("none", "scaled"):
                settings = settled(activation=name, initialisation=initialisation, residual=residual)
                try:
                    outcome = what_if(report, settings, silent)
                except UnvanishError as error:
                    assert initialisation == "critical" and "no initialisation" in str(error), (name, str(error))
                else:
                    assert not any(math.isnan(row["log10_idealised"]) for row in outcome.rows), settings.plain()


def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path):
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("none.json", "No such file"), ("no.json", "not valid JSON"), ("binary.json", "no text")):
        with pytest.raises(UnvanishError, match=reason):
            lab.run("whatif", report=str(tmp_path / name))


def test_a_report_without_enough_layers_or_signal_is_refused(report):
    one = report.replace(layers=report.layers[:1])
    dead = report.replace(layers=tuple(layer.replace(log10_signal=-math.inf) for layer in report.layers))
    for each in (one, dead):
        with pytest.raises(UnvanishError, match="at least two"):
            what_if(each, settled(), silent)


def test_an_activation_the_theory_lacks_is_refused_by_name(report):
    other = report.replace(calls=tuple(call.replace(name="threshold") for call in report.calls))
    with pytest.raises(UnvanishError, match="threshold"):
        what_if(other, settled(activation=AS_REPORTED), silent)


def test_the_outcome_survives_its_own_json(report):
    outcome = what_if(report, settled(), silent)
    assert json.loads(outcome.to_json())["rows"][0]["layer"] == report.layers[0].name
