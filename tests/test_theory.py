"""theory: chains of one neuron a layer and wide networks in the mean, against independent numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

import unvanish
from unvanish.records import UnvanishError
from unvanish.theory import activation, activations, chain, running_product
from unvanish.theory.activations import Activation
from unvanish.theory.chain import AT_ONCE, FEW, SMALLEST, forward, overflow_from, zero_from
from unvanish.theory.meanfield import (
    critical,
    critical_everywhere,
    critical_with_bias,
    fixed_point,
    grid_chi1,
    moments,
    saturation,
)
from unvanish.theory.products import Scaled, log10_rms, running_product_back, scaled_sum
from unvanish.theory.window import widest_window, window_width

Golden = Callable[[str], Any]
TWELVE = 1e-12
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
MODULES = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "softsign": nn.Softsign}


def close(ours: Any, theirs: Any, relative: float = TWELVE) -> None:
    ours, theirs = np.asarray(ours, float), np.asarray([float(v) for v in np.atleast_1d(theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=relative)


@pytest.mark.parametrize("depth", [4, 20, 50, 100, 200])
def test_a_chain_has_every_published_number(golden: Golden, depth: int) -> None:
    expected = golden("seeds")[f"chain_L{depth}"]
    made = chain(np.full(depth, 0.17), inputs=1.0)
    gradient = made.weight_gradient
    close(gradient.value[0], expected["dout_dw1"])
    close(gradient.value[-1], expected["dout_dwL"])
    close(made.input_gradient.value, expected["dout_dx"])
    close(made.output, expected["output"])
    assert gradient.log10[0] == pytest.approx(float(expected["log10_dout_dw1"]), abs=1e-9)
    if expected["dout_dw"] is not None:
        close(made.activation[0], expected["activations"])
        close(made.pre_activation[0], expected["z"])
        close(made.slope[0], expected["sigma_prime"])
        close(made.factor[0], expected["factors_w_sigma_prime"])
        close(gradient.value, expected["dout_dw"])
    for loss, name in (("half", "half_sq"), ("square", "sq")):
        for target in ("0", "0.5", "1"):
            lossy = chain(np.full(depth, 0.17), inputs=1.0, loss=loss, targets=float(target))
            close(lossy.weight_gradient.value[0], expected[f"dC_dw1_{name}_y{target}"])


def test_the_fixed_point_of_the_chain(golden: Golden) -> None:
    expected = golden("seeds")["chain_fixed_point"]
    made = chain(np.full(60, 0.17))
    close(made.output, expected["a"])
    close(made.factor[0, -1], expected["factor"])


def first_layer_by_depth(weight: float, deepest: int) -> Scaled:
    """∂a_L/∂w₁ of chains of 1, 2, … ``deepest`` sigmoids that share one weight, on the input 1; shape (deepest,)."""
    made = chain(np.full(deepest, weight))
    factor = made.factor[0].copy()
    factor[0] = made.slope[0, 0]
    return running_product(factor)


@pytest.mark.parametrize("dtype", SMALLEST)
def test_the_depth_at_which_a_number_type_reaches_zero(golden: Golden, dtype: str) -> None:
    expected = golden("seeds")
    by_depth = first_layer_by_depth(0.17, 300)
    underflow = expected["underflow"][dtype]
    assert zero_from(by_depth, dtype) == underflow["first_L_below_half_subnormal_exact"]
    assert zero_from(by_depth, dtype) == underflow["first_L_exact_zero_torch"]
    quarters = running_product(np.full(600, 0.25))
    assert zero_from(quarters, dtype) == expected["quarter_power_underflow_L"][dtype]


@pytest.mark.parametrize("dtype", SMALLEST)
def test_torch_reaches_zero_at_the_same_layer(dtype: str) -> None:
    """The rule "at or below half the smallest subnormal" against torch's own backward in that type."""
    for weight in (0.17, 0.9, 2.5):
        deepest = zero_from(first_layer_by_depth(weight, 2_000), dtype)
        assert deepest is not None
        for depth, zero in ((deepest - 2, False), (deepest + 2, True)):
            weights = torch.full((depth,), weight, dtype=DTYPES[dtype], requires_grad=True)
            a = torch.tensor(1.0, dtype=DTYPES[dtype])
            for place in range(depth):
                a = torch.sigmoid(weights[place] * a)
            (gradient,) = torch.autograd.grad(a, weights)
            assert (gradient[0].item() == 0) is zero, (weight, depth)


def test_document_003_and_its_sign(golden: Golden) -> None:
    expected = golden("seeds")["doc003"]
    made = chain(expected["w"], 0.0, expected["x"], loss="square", targets=expected["y"])
    assert made.weight_gradient.value[0] == pytest.approx(expected["autograd"], rel=TWELVE)


def test_document_001_and_its_window(golden: Golden) -> None:
    expected = golden("seeds")["doc001"]
    weight, width = widest_window()
    assert width == pytest.approx(float(expected["nielsen_width_max"]), rel=TWELVE)
    assert weight == pytest.approx(float(expected["nielsen_width_argmax_w"]), rel=1e-7)
    assert window_width(3.9999) == 0 == window_width(-4.0)
    assert activation("sigmoid").slope(np.zeros(1))[0] == expected["max_sigma_prime"]
    # the window of |w| = 5 by hand: |w| σ′ = 1 where σ = (1 ± √(1 − 4/5)) / 2
    edge = (1 + math.sqrt(0.2)) / 2
    assert window_width(-5.0) == pytest.approx(2 * math.log(edge / (1 - edge)) / 5, rel=1e-14)


@pytest.mark.parametrize("name", [n for n in activations() if n != "identity"])
@pytest.mark.parametrize("residual", [False, True])
def test_chains_agree_with_float64_autograd(name: str, residual: bool) -> None:
    from unvanish.lab.activations import functions

    rng = np.random.default_rng(len(name))
    weights, biases = rng.normal(0, 1.2, 9), rng.normal(0, 0.5, 9)
    inputs, targets = rng.normal(0, 1, 4), rng.normal(0, 1, 4)
    w, b = (torch.tensor(part, requires_grad=True) for part in (weights, biases))
    a = torch.tensor(inputs)
    for place in range(9):
        z = w[place] * a + b[place]
        a = functions()[name](z) + (a if residual else 0)
    loss = 0.5 * (a - torch.tensor(targets)).square().sum()
    grad_w, grad_b = torch.autograd.grad(loss, (w, b))
    made = chain(weights, biases, inputs, name, residual, "half", targets)
    # torch keeps the 1/6 of hardsigmoid in float32
    relative = 1e-6 if name == "hardsigmoid" else 1e-10
    np.testing.assert_allclose(made.weight_gradient.value, grad_w.numpy(), rtol=relative, atol=1e-13)
    np.testing.assert_allclose(made.bias_gradient.value, grad_b.numpy(), rtol=relative, atol=1e-13)


@pytest.mark.parametrize(
    ("depth", "name", "weight", "bias", "noise"),
    [(1, "sigmoid", 0.17, 0.0, 0.0), (20, "sigmoid", 0.17, 0.0, 0.0), (300, "tanh", 0.9, 0.1, 0.3),
     (60, "relu", 1.3, 0.2, 0.1), (200, "gelu", 0.8, 0.3, 0.5), (1_000, "sigmoid", 0.17, 0.0, 0.0),
     (1_000, "softsign", -1.4, 0.2, 0.2)],
)  # fmt: skip
def test_the_chain_is_the_tools_own_mathematics(
    depth: int, name: str, weight: float, bias: float, noise: float
) -> None:
    """What capture and backward measure on the same network, layer by layer, far below the smallest number."""
    rng = np.random.default_rng(depth)
    weights = weight + noise * rng.standard_normal(depth)
    inputs, targets = rng.normal(0.5, 1, 3), rng.normal(0, 1, 3)
    layers: list[nn.Module] = []
    for each in weights.tolist():
        linear = nn.Linear(1, 1).double()
        nn.init.constant_(linear.weight, each)
        nn.init.constant_(linear.bias, bias)
        layers += [linear, MODULES[name]()]
    report = unvanish.diagnose(
        nn.Sequential(*layers),
        torch.tensor(inputs)[:, None],
        torch.tensor(targets)[:, None],
        lambda outputs, wanted: 0.5 * (outputs - wanted).square().mean(),
        effort="quick",
    )
    made = chain(weights, bias, inputs, name, False, "half", targets)
    signal = [layer.log10_signal for layer in report.layers]
    norms = [layer.log10_grad_norm for layer in report.layers]
    np.testing.assert_allclose(made.log10_signal, np.array(signal, float), rtol=1e-9, atol=1e-7)
    # the tool's loss is the mean over the batch, and its norm holds weight and bias together
    both = np.stack([made.weight_gradient.log10, made.bias_gradient.log10])
    together = log10_rms(both) + 0.5 * math.log10(2) - math.log10(3)
    np.testing.assert_allclose(together, np.array(norms, float), rtol=1e-9, atol=1e-7)


def test_one_number_at_a_time_or_in_arrays_is_the_same() -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 2, 40)
    few, many = rng.normal(0, 1, 3), rng.normal(0, 1, 50)
    many[:3] = few
    for name in activations():
        one, other = (chain(weights, 0.1, x, name) for x in (few, many))
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(one.activation, other.activation[:3], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_hundred_thousand_layers_against_sixty_digits() -> None:
    made = chain(np.full(100_000, 0.17))
    with mpmath.workdps(60):
        a, log = mpmath.mpf(1), mpmath.mpf(0)
        for layer in range(60):
            a = 1 / (1 + mpmath.exp(-mpmath.mpf(0.17) * a))
            log += mpmath.log10((mpmath.mpf(0.17) if layer else 1) * a * (1 - a))
        log += (100_000 - 60) * mpmath.log10(mpmath.mpf(0.17) * a * (1 - a))
        assert made.weight_gradient.log10[0] == pytest.approx(float(log), rel=1e-12)


def test_slopes_stay_exact_where_they_are_tiny() -> None:
    far = np.array([40.0, -40.0])
    with mpmath.workdps(60):
        sigmoid = float(mpmath.exp(-40) / (1 + mpmath.exp(-40)) ** 2)
        tanh = float(mpmath.sech(40) ** 2)
    np.testing.assert_allclose(activation("sigmoid").slope(far), [sigmoid, sigmoid], rtol=1e-14)
    np.testing.assert_allclose(activation("tanh").slope(far), [tanh, tanh], rtol=1e-14)


def test_activations_far_out_do_not_overflow() -> None:
    far = np.array([-1e4, -800.0, 800.0, 1e4])
    for name in activations():
        phi = activation(name)
        ones = [phi.one(z) for z in far.tolist()]
        np.testing.assert_allclose(phi.phi(far), ones, rtol=1e-12, err_msg=name)
        assert np.isfinite(phi.slope(far)).all(), name
        if name != "sin":
            assert phi.slope(far)[[0, -1]] == pytest.approx([phi.flat_left, phi.flat_right], abs=1e-7), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_running_products_and_sums(seed: int) -> None:
    factors = np.random.default_rng(seed).normal(0, 1e-3, (2, 1_300))
    forward, back = running_product(factors), running_product_back(factors)
    with mpmath.workdps(60):
        for row in (0, 1):
            product = mpmath.mpf(1)
            for value in factors[row].tolist():
                product *= mpmath.mpf(value)
            assert forward.log10[row, -1] == pytest.approx(float(mpmath.log10(abs(product))), rel=1e-13)
            assert forward.sign[row, -1] == int(mpmath.sign(product))
    np.testing.assert_allclose(back.log10[:, 0], forward.log10[:, -1], rtol=1e-13)
    np.testing.assert_allclose(back.value[:, -1], factors[:, -1])


def test_a_zero_is_a_zero_and_sums_cancel() -> None:
    product = running_product(np.array([0.5, 0.0, 3.0]))
    assert product.log10.tolist() == [math.log10(0.5), -math.inf, -math.inf]
    assert product.sign.tolist() == [1, 0, 0]
    tiny = running_product(np.full((2, 2_000), 1e-3))[:, -1]
    cancelled = scaled_sum(Scaled(tiny.mantissa * np.array([1.0, -1.0]), tiny.exponent))
    assert cancelled.sign == 0
    assert scaled_sum(tiny).log10 == pytest.approx(-6_000 + math.log10(2), abs=1e-9)
    assert overflow_from(running_product(np.full(50, 4.0)), "float16") == 8
    assert overflow_from(running_product(np.full(50, 4.0)), "float32") is None
    assert zero_from(running_product(np.full(50, 4.0)), "float16") is None


@pytest.mark.parametrize("name", activations())
def test_the_critical_line(golden: Golden, name: str) -> None:
    expected = golden("meanfield")[name]
    phi = activation(name)
    for row in expected["line"]:
        solution, average = critical(phi, row["q"]), moments(phi, row["q"])
        for ours, theirs in (
            (solution.sigma_w2, row["sigma_w2"]),
            (solution.q_slope, row["q_slope"]),
            (average.mean, row["mean"]),
            (average.square, row["m2"]),
            (average.slope_square, row["Ephi1sq"]),
        ):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12), row
        # σ_b² = q − σ_w² E φ² cancels: six digits of the larger part
        assert solution.sigma_b2 == pytest.approx(
            row["sigma_b2"], abs=1e-6 * max(row["q"], row["sigma_w2"] * row["m2"])
        )
        assert solution.feasible == row["feasible"]
    roots = critical_with_bias(phi, 0.0)
    assert [root.q for root in roots] == pytest.approx([row["q"] for row in expected["zero_bias_roots"]], rel=1e-6)
    assert [root.q_slope for root in roots] == pytest.approx(
        [row["q_slope"] for row in expected["zero_bias_roots"]], rel=1e-6
    )
    assert critical_everywhere(phi) == expected["all_q_at_zero_bias"]


def variance_after(layers: int, phi: Activation, sigma_w2: float, sigma_b2: float) -> float:
    """The variance of the pre-activations after so many layers, from 1; until it has died out or diverged."""
    q = 1.0
    for _ in range(layers):
        following = sigma_w2 * moments(phi, q).square + sigma_b2
        if not 1e-12 < following < 1e12:
            return following
        q = following
    return q


def test_fixed_points_of_common_initialisations(golden: Golden) -> None:
    """The published ones are the variance after 400 layers; where that has settled it is the fixed point."""
    settled = 0
    for name, table in golden("meanfield")["_defaults"].items():
        phi = activation(name)
        for row in table.values():
            q = variance_after(400, phi, row["sigma_w2"], row["sigma_b2"])
            assert q == pytest.approx(row["q"], rel=1e-6), (name, row)
            point = fixed_point(phi, row["sigma_w2"], row["sigma_b2"])
            if row["q"] < 1e-11:
                assert point.q == 0
                assert point.chi1 == pytest.approx(row["chi1"], rel=1e-6)
            elif 0 < point.q < math.inf and abs(point.q_slope) < 0.9:
                settled += 1
                assert point.q == pytest.approx(row["q"], rel=1e-6), (name, row)
                assert point.chi1 == pytest.approx(row["chi1"], rel=1e-6), (name, row)
    assert settled > 20


def test_fixed_points_and_depth_scales_of_tanh(golden: Golden) -> None:
    expected = golden("meanfield")["_schoenholz_tanh"]
    phi = activation("tanh")
    for row in expected["table"]:
        point = fixed_point(phi, row["sigma_w2"], row["sigma_b2"])
        assert point.q == pytest.approx(row["q"], rel=1e-6)
        assert point.chi1 == pytest.approx(row["chi1"], rel=1e-6)
        assert point.q_slope == pytest.approx(row["slope_q"], rel=1e-6)
        assert point.depth_scale == pytest.approx(row["xi_grad"], rel=1e-6)
    (line,) = critical_with_bias(phi, 0.05)
    assert line.sigma_w2 == pytest.approx(expected["critical_at_sb2_0p05"]["sigma_w2"], rel=1e-6)


def test_prediction_against_published_measurements(golden: Golden) -> None:
    """Networks of width 1,000: where the variance settles, the prediction is right to a few percent."""
    errors = []
    for row in golden("meanfield")["_measured_width1000"]:
        if row.get("infeasible"):
            # a leaky ReLU has σ_b² = 0 there, and rounding made it negative
            assert critical(activation(row["act"]), 1.0).sigma_b2 < 1e-12
            continue
        start = row["q"] if row["setting"] == "crit q=1" else 1.0
        point = fixed_point(activation(row["act"]), row["sigma_w2"], row["sigma_b2"], start)
        if row.get("diverges"):
            assert point.q == math.inf
            continue
        errors.append(abs(point.chi1 / row["measured_gain_sq"] - 1))
    assert len(errors) > 40 and np.median(errors) < 0.005
    # the one beyond is hardswish at variance 1, where the variance is not stable
    assert sum(error > 0.02 for error in errors) == 1


def test_fixed_points_that_can_be_worked_out_by_hand() -> None:
    relu = activation("relu")
    assert fixed_point(relu, 1.0, 1.0).q == pytest.approx(2.0, rel=1e-12)  # q = q/2 + 1
    everywhere = fixed_point(relu, 2.0, 0.0)
    assert everywhere.every_q and everywhere.chi1 == pytest.approx(1.0, rel=1e-12)
    gone, grown = fixed_point(relu, 1.0, 0.0), fixed_point(relu, 3.0, 0.1)
    assert (gone.q, gone.chi1) == (0.0, pytest.approx(0.5))
    assert (grown.q, grown.chi1) == (math.inf, pytest.approx(1.5))
    # E sin² = (1 − e^(−2q)) / 2 and E cos² = (1 + e^(−2q)) / 2
    averages = moments(activation("sin"), 0.7)
    assert averages.square == pytest.approx((1 - math.exp(-1.4)) / 2, rel=1e-12)
    assert averages.slope_square == pytest.approx((1 + math.exp(-1.4)) / 2, rel=1e-12)


def test_the_variance_map_grows_with_the_variance() -> None:
    """What the search for a fixed point rests on."""
    for name in activations():
        for q in np.geomspace(1e-8, 1e4, 60).tolist():
            assert moments(activation(name), q).growth > -1e-15, (name, q)


def test_saturation_by_hand() -> None:
    # hardtanh is flat outside [−1, 1]: P(|u| > 1) for q = 1; relu is flat for half of them
    assert saturation(activation("hardtanh"), 1.0) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=1e-3)
    assert saturation(activation("relu"), 5.0) == pytest.approx(0.5, abs=1e-3)
    # σ′ < 0.0025 where |z| > ln((1 + √0.99)² / 0.01) = 5.9814
    edge = 2 * math.log((1 + math.sqrt(0.99)) / 0.1)
    assert saturation(activation("sigmoid"), 9.0) == pytest.approx(math.erfc(edge / 3 / math.sqrt(2)), abs=1e-3)
    assert saturation(activation("identity"), 1.0) == 0


def test_the_grid_reads_off_the_same_fixed_points() -> None:
    weights, biases = np.array([0.3, 1.1, 2.2, 3.3]), np.array([0.0, 0.05, 1.0])
    for name in ("tanh", "relu", "sigmoid", "gelu", "elu"):
        grid = grid_chi1(activation(name), weights, biases)
        for i, b in enumerate(biases.tolist()):
            for j, w in enumerate(weights.tolist()):
                exact = fixed_point(activation(name), w, b).chi1
                assert grid[i, j] == pytest.approx(exact, rel=5e-3), (name, w, b)


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnvanishError, match=r"no activation 'tahn'; did you mean tanh"):
        chain([1.0], phi="tahn")


def test_theory_does_not_import_torch() -> None:
    program = (
        "import sys; from unvanish import theory; from unvanish.theory import meanfield, window;"
        "theory.chain([0.17] * 20); meanfield.fixed_point(theory.activation('tanh'), 1.5, 0.05);"
        "window.widest_window(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("phi", activations())
@pytest.mark.parametrize("kind", ["alike", "drawn", "beyond float64"])
def test_a_few_chains_number_by_number_are_those_that_run_in_arrays(phi: str, residual: bool, kind: str) -> None:
    depth, many = AT_ONCE + 3, FEW + 1
    drawn = np.random.default_rng(1).normal(size=depth)
    weights = {"alike": np.full(depth, 0.17), "drawn": drawn, "beyond float64": 1e3 * drawn}[kind]
    inputs = np.linspace(-2.0, 2.0, many)
    few, all_of_them = (
        forward(np.broadcast_to(weights, (len(x), depth)), np.full(depth, 0.1), x, activation(phi), residual)
        for x in (inputs[:2], inputs)
    )
    for mine, theirs in zip(few, all_of_them, strict=True):
        held = np.isfinite(theirs[:2])
        assert np.allclose(mine[held], theirs[:2][held], rtol=1e-6, atol=1e-12)
        assert not np.isfinite(mine[~held]).any()
