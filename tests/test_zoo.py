"""The zoo's networks are what their rows say, by tests that know nothing of how a verdict is reached."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unvanish import diagnose, zoo
from unvanish.problem import Problem, tensors
from unvanish.records import VERDICTS, UnvanishError
from unvanish.zoo.digits import train

MODEL_WORDS = {
    "pairing", "input_scale", "saturated", "dead_units", "output_range", "output_scale", "flat_loss", "lr_too_large",
    "lr_too_small", "slow", "decay", "left_out", "collapsed", "identical", "uphill",
}  # fmt: skip
LEARNING = [name for name in zoo.names() if zoo.get(name).learns is not None]


def loss_and_gradients(problem: Problem) -> tuple[float, dict[str, torch.Tensor | None]]:
    model, _ = problem.build()
    loss = problem.loss(problem.outputs(model))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return float(loss.detach()), gradients


def reference(problem: Problem, start: float) -> float:
    """The loss there is to beat: that of the class frequencies where digits are classified, else that at the start."""
    if problem.loss_fn is not F.cross_entropy:
        return start
    shares = torch.bincount(problem.targets).double() / len(problem.targets)
    return min(start, float(-(shares * shares.log()).nan_to_num().sum()))


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_has_a_description_and_words_of_the_vocabulary(name: str) -> None:
    network = zoo.get(name)
    assert zoo.describe(name) == network.about and 10 < len(network.about) <= 120
    assert network.expects and set(network.expects) <= set(VERDICTS) | MODEL_WORDS
    assert set(network.layers.values()) <= set(VERDICTS)
    assert network.codes or network.expects == ("healthy",) or network.builder.startswith("treated.")
    modules = dict(network.build().build()[0].named_modules())
    assert {layer.partition("#")[0] for layer in network.layers} <= modules.keys()


@pytest.mark.parametrize("name", zoo.names())
def test_a_seed_fixes_every_number_and_no_global_state_moves(name: str) -> None:
    before = torch.get_rng_state()
    first = zoo.get(name).build(seed=3)
    second, other = zoo.get(name).build(seed=3), zoo.get(name).build(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    numbers = [_numbers(problem) for problem in (first, second, other)]
    assert all(torch.equal(a, b) for a, b in zip(numbers[0], numbers[1], strict=True))
    fixed = name.startswith("chain-") or name == "ravine"  # worked examples
    assert all(torch.equal(a, b) for a, b in zip(numbers[0], numbers[2], strict=True)) == fixed


def _numbers(problem: Problem) -> list[torch.Tensor]:
    model, _ = problem.build()
    return [*model.state_dict().values(), *tensors([problem.inputs, problem.targets])]


@pytest.mark.parametrize("name", LEARNING)
def test_training_does_what_the_row_says(name: str) -> None:
    network = zoo.get(name)
    problem = network.build()
    start, _ = loss_and_gradients(problem)
    to_beat = reference(problem, start)
    end = train(problem, 40)
    if network.learns:
        assert end < 0.97 * to_beat
    else:
        assert not end <= 0.98 * to_beat  # a loss that is not a number has learned nothing either


def test_the_chain_of_20_is_the_worked_example(golden: Any) -> None:
    exact = golden("seeds")["chain_L20"]
    problem = zoo.get("chain-20").build()
    loss, gradients = loss_and_gradients(problem)
    assert loss == pytest.approx(0.5 * float(exact["output"]) ** 2, rel=1e-6)
    first = gradients["0.weight"]
    assert first is not None
    assert math.log10(first.item()) == pytest.approx(math.log10(float(exact["dC_dw1_half_sq_y0"])), abs=1e-5)


def test_weight_gradients_of_the_stuck_network_are_flat() -> None:
    problem = zoo.get("stuck-sigmoid-10").build()
    _, gradients = loss_and_gradients(problem)
    lower = [gradients[f"{2 * i}.weight"] for i in range(1, 6)]
    norms = [float(gradient.double().norm()) for gradient in lower if gradient is not None]
    assert len(norms) == 5 and max(norms) < 10 * min(norms)


def test_the_converged_network_has_used_up_its_loss() -> None:
    loss, _ = loss_and_gradients(zoo.get("converged-digits").build())
    assert loss < 1e-3 * math.log(10)


@pytest.mark.parametrize(
    ("name", "silent", "live"),
    [
        ("dead-relu", ["0.weight", "2.weight", "2.bias"], ["4.bias", "6.weight"]),
        ("softmax-one-unit", ["0.weight", "2.weight"], []),
        ("all-zero-weights", ["0.weight", "2.weight", "4.weight"], ["4.bias"]),
        ("zero-head", ["0.weight", "4.weight"], ["6.weight"]),
        ("rezero", ["1.inner.weight", "1.outer.weight"], ["1.gate", "0.weight"]),
        ("lora-zero-b", ["0.a.weight"], ["0.b.weight"]),
        ("clamped-loss", ["0.weight", "4.weight"], []),
    ],
)
def test_exact_zeros_are_where_they_should_be(name: str, silent: list[str], live: list[str]) -> None:
    _, gradients = loss_and_gradients(zoo.get(name).build())
    for parameter in silent:
        gradient = gradients[parameter]
        assert gradient is not None and not gradient.any(), parameter
    for parameter in live:
        gradient = gradients[parameter]
        assert gradient is not None and gradient.any(), parameter


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("unused-layer", {"forgotten.weight", "forgotten.bias"}),
        ("unused-expert", {"experts.3.weight", "experts.3.bias"}),
        ("detached", {f"features.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}),
        ("frozen-backbone", {f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}),
    ],
)
def test_parameters_outside_the_graph(name: str, without: set[str]) -> None:
    _, gradients = loss_and_gradients(zoo.get(name).build())
    assert {parameter for parameter, gradient in gradients.items() if gradient is None} == without


def test_where_numbers_leave_the_range() -> None:
    assert math.isnan(loss_and_gradients(zoo.get("nonfinite-log").build())[0])
    assert math.isinf(loss_and_gradients(zoo.get("overflow-exp").build())[0])
    loss, gradients = loss_and_gradients(zoo.get("nonfinite-sqrt0").build())
    weight = gradients["embed.weight"]
    assert loss == 1.0 and weight is not None and weight.isnan().all()


@pytest.mark.parametrize("name", ["underflow-loss-1e-42", "half-precision-underflow"])
def test_most_of_the_gradient_is_below_the_smallest_normal_number(name: str) -> None:
    _, gradients = loss_and_gradients(zoo.get(name).build())
    entries = torch.cat([gradient.flatten() for gradient in gradients.values() if gradient is not None])
    smallest = torch.finfo(entries.dtype).smallest_normal
    assert (entries.abs() < smallest).double().mean() > 0.5


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnvanishError, match=r"no network 'sigmoid20'; did you mean .*sigmoid-20"):
        zoo.get("sigmoid20")
    with pytest.raises(UnvanishError, match="unvanish zoo --list"):
        zoo.describe("?")


def test_names_and_descriptions_do_not_import_torch() -> None:
    program = (
        "import sys; from unvanish import zoo; print(zoo.describe(zoo.names()[0])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("seed", [33, 34, 35])
def test_a_rise_of_rounding_alone_does_not_turn_the_ladder_round(seed: int) -> None:
    """With seed 34 a step of 10⁻⁸ raises the loss of 2.3 by one spacing of float32: larger ones are tried."""
    report = diagnose(zoo.get("lr-too-small-adam").build(seed))
    assert report.step is not None and report.step.best is not None
    rungs = dict(report.step.ladder)
    assert abs(rungs[1.0] - report.step.loss) <= 4 * 2.0**-22
    assert report.step.best >= 1e4 and rungs[report.step.best] < report.step.loss - 0.01
    assert report.verdict == "lr_too_small"
