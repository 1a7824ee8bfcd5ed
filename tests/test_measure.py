"""What is measured, against numbers worked by hand, direct counts, and steps really made."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ALL, Forward, chain, problem, squares
from torch import Tensor, nn

from unvanish.flow.observe import _below
from unvanish.flow.updates import Updates
from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem
from unvanish.records import LayerFlow
from unvanish.trace.scaled import Device, Host

WITHOUT_A_STEP = (  # no layer stands behind another
    "sparse_embedding_used_twice",
    "sorting_and_indexing",
    "linear_algebra",
    "masks_and_straight_through",
)
PARTS = ("log10_weight_gain", "log10_slope_gain", "log10_norm_gain", "log10_join_gain")


def layers(given: Problem, **options: Any) -> dict[str, LayerFlow]:
    return {layer.name: layer for layer in look(given, **options).layers}


def log(value: float) -> float:
    return math.log10(abs(value))


def three_neurons() -> Problem:
    """σ(w₃σ(w₂σ(w₁x))) with x = ln 3, w = 1, −ln 3 / 0.75, 4 ln 1.5, and loss (out − 0.1)² / 2.

    z₁ = ln 3:  h₁ = 3/4, σ′ = 3/16.   z₂ = −ln 3:  h₂ = 1/4, σ′ = 3/16.   z₃ = ln 1.5:  out = 0.6, σ′ = 0.24.
    """
    weights = (1.0, -math.log(3) / 0.75, 4 * math.log(1.5))
    model = nn.Sequential()
    for weight in weights:
        model.append(nn.Linear(1, 1, bias=False, dtype=torch.float64)).append(nn.Sigmoid())
        model[-2].weight.data.fill_(weight)  # type: ignore[union-attr,operator]
    x, target = (torch.tensor([[value]], dtype=torch.float64) for value in (math.log(3), 0.1))
    return Problem(model, x, target, lambda out, y: 0.5 * ((out - y) ** 2).sum())


def test_three_neurons_worked_by_hand() -> None:
    by_name = layers(three_neurons())
    assert list(by_name) == ["0", "2", "4"]
    first, second, third = by_name.values()
    w1, w2, w3 = 1.0, -math.log(3) / 0.75, 4 * math.log(1.5)
    # Error signals ∂C/∂z, from ∂C/∂out = 0.6 − 0.1: 0.5 · 0.24, then times w₃ · 3/16, then times w₂ · 3/16.
    d3 = 0.12
    d2 = 0.12 * 1.62186043243266 * 0.1875
    d1 = d2 * 1.46481638489081 * 0.1875
    signals = [layer.log10_signal for layer in by_name.values()]
    assert signals == pytest.approx([log(d1), log(d2), log(d3)], abs=1e-12)
    assert signals == pytest.approx([-1.9990195, -1.4378040, -0.9208188], abs=1e-7)
    # ∂C/∂w = ∂C/∂z times what came in: x = ln 3, h₁ = 3/4, h₂ = 1/4.
    gradients = [layer.log10_grad_norm for layer in by_name.values()]
    assert gradients == pytest.approx([log(d1 * math.log(3)), log(d2 * 0.75), log(0.03)], abs=1e-12)
    # One step back from layer 3 to layer 2 multiplies by w₃ and by σ′(z₂); the first layer has none before it.
    assert (first.before, second.before, third.before) == ("", "0", "2")
    assert third.log10_gain == pytest.approx(log(w3 * 0.1875), abs=1e-12)
    assert (third.log10_weight_gain, third.log10_slope_gain) == pytest.approx((log(w3), log(0.1875)), abs=1e-12)
    assert (second.log10_weight_gain, second.log10_slope_gain) == pytest.approx((log(w2), log(0.1875)), abs=1e-12)
    for layer in (second, third):
        assert layer.log10_norm_gain == layer.log10_join_gain == 0.0
    assert (first.log10_gain, *(getattr(first, part) for part in PARTS)) == (None,) * 5
    # Jacobians of the output, whose probe is ±1 / rms(out) = ±1/0.6.
    j3, j2, j1 = 0.24 * 0.25, 0.24 * w3 * 0.1875 * 0.75, 0.24 * w3 * 0.1875 * w2 * 0.1875 * math.log(3)
    jacobians = [layer.log10_jacobian_norm for layer in by_name.values()]
    assert jacobians == pytest.approx([log(j / 0.6) for j in (j1, j2, j3)], abs=1e-12)
    # T = |∂out/∂w|·|w|; every |w| is above the natural √(1/3). Relative to the best layer downstream.
    t1, t2, t3 = abs(j1 * w1), abs(j2 * w2), abs(j3 * w3)  # 0.0220, 0.0802, 0.0973
    assert t1 < t2 < t3
    transmissions = [layer.log10_transmission for layer in by_name.values()]
    assert transmissions == pytest.approx([log(t1 / t3), log(t2 / t3), 0.0], abs=1e-12)
    assert [layer.log10_weight_norm for layer in by_name.values()] == pytest.approx([0.0, log(w2), log(w3)], abs=1e-12)
    # Sensitivity |∂out/∂z|·|z| at z₁, z₂, z₃ and |∂out/∂h|·|h| at h₁, h₂, out, all over 0.6; the rise is over the least
    # of those further on.
    s = {
        "z1": 0.24 * w3 * 0.1875 * w2 * 0.1875 * math.log(3), "h1": 0.24 * w3 * 0.1875 * w2 * 0.75,
        "z2": 0.24 * w3 * 0.1875 * math.log(3), "h2": 0.24 * w3 * 0.25, "z3": 0.24 * math.log(1.5), "out": 0.6,
    }  # fmt: skip
    least = [min(abs(v) for v in list(s.values())[k:]) for k in (0, 2, 4)]
    rises = [layer.log10_sensitivity_rise for layer in by_name.values()]
    assert rises == pytest.approx([log(s[z] / low) for z, low in zip(("z1", "z2", "z3"), least, strict=True)], abs=1e-9)
    assert [(layer.kind, layer.parameters, layer.dtype, layer.frozen) for layer in by_name.values()] == [
        ("Linear", 1, "float64", False)
    ] * 3
    for layer in by_name.values():
        assert layer.saturated_fraction == layer.dead_fraction == layer.underflow_fraction == 0.0


def test_the_calls_of_three_neurons_worked_by_hand() -> None:
    calls = look(three_neurons()).calls[:6]
    assert [(c.name, c.role, c.inputs, c.next) for c in calls] == [
        ("linear", "weights", (), 1), ("sigmoid", "slopes", (0,), 2), ("linear", "weights", (1,), 3),
        ("sigmoid", "slopes", (2,), 4), ("linear", "weights", (3,), 5), ("sigmoid", "slopes", (4,), 6),
    ]  # fmt: skip
    values = [math.log(3), 0.75, math.log(3), 0.25, math.log(1.5), 0.6]
    assert [c.log10_rms for c in calls] == pytest.approx([log(v) for v in values], abs=1e-12)
    w2, w3 = math.log(3) / 0.75, 4 * math.log(1.5)
    steps = [0.1875, w2, 0.1875, w3, 0.24]  # what the next call multiplies the signal by on its way back
    assert [c.log10_gain for c in calls[:5]] == pytest.approx([log(v) for v in steps], abs=1e-12)
    assert calls[5].log10_signal == pytest.approx(log(0.5), abs=1e-12)


def test_the_loss_of_the_mean_shows_the_error_signal_of_a_sample() -> None:
    """Ten copies of one sample under a mean loss: √10 times the norm of ten cotangents, each a tenth of the one's."""
    one = three_neurons()
    many = Problem(
        one.model, one.inputs.repeat(10, 1), one.targets.repeat(10, 1), lambda out, y: 0.5 * ((out - y) ** 2).mean()
    )
    for name, layer in layers(many).items():
        assert layer.log10_signal == pytest.approx(layers(one)[name].log10_signal, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["mlp", "residual", "densenet", "unet", "mixed_losses", "gru"])
def test_repeating_the_batch_changes_no_signal(name: str, seed: int) -> None:
    given = problem(name, seed)
    if name == "mixed_losses":
        given = Problem(given.model, given.inputs, given.targets, F.mse_loss)
    doubled = Problem(
        given.model, given.inputs.repeat(2, *[1] * (given.inputs.ndim - 1)),
        given.targets.repeat(2, *[1] * (given.targets.ndim - 1)), given.loss_fn,
    )  # fmt: skip
    once, twice = layers(given), layers(doubled)
    for key, layer in once.items():
        assert twice[key].log10_signal == pytest.approx(layer.log10_signal, abs=1e-4)
        assert twice[key].log10_grad_norm == pytest.approx(layer.log10_grad_norm, abs=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_factors_of_a_layers_path_add_up_to_its_gain(name: str) -> None:
    stepped = 0
    for layer in look(problem(name, 4)).layers:
        parts = [getattr(layer, part) for part in PARTS]
        if layer.log10_gain is None:
            assert parts == [None] * 4
            continue
        stepped += 1
        assert layer.before and all(math.isfinite(part) for part in parts)
        assert sum(parts) == pytest.approx(layer.log10_gain, abs=1e-9)
    assert stepped or name in WITHOUT_A_STEP


@pytest.mark.parametrize("name", ["mlp", "cnn_batchnorm", "called_twice"])
def test_gains_telescope_along_a_chain(name: str) -> None:
    by_name = layers(problem(name, 1))
    for layer in by_name.values():
        if layer.before:
            assert layer.log10_gain is not None and layer.log10_signal is not None
            before = by_name[layer.before].log10_signal
            assert layer.log10_signal + layer.log10_gain == pytest.approx(before, abs=1e-9)
    assert sum(bool(layer.before) for layer in by_name.values()) == len(by_name) - 1


def test_a_norm_takes_its_share_of_the_blame() -> None:
    """BatchNorm over z = 100·u divides the signal by about 100: that is the norm's, not the weights'."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(100.0 * torch.eye(6))  # type: ignore[union-attr,operator]
        model[1].bias.zero_()  # type: ignore[union-attr,operator]
        model[3].weight.copy_(torch.eye(6)[:2])  # type: ignore[union-attr,operator]
    by_name = layers(Problem(model, 2.0 * torch.randn(64, 6).double(), torch.randn(64, 2).double(), squares))
    assert by_name["1"].log10_weight_gain == pytest.approx(2.0, abs=1e-9)
    assert by_name["3"].log10_weight_gain == pytest.approx(0.0, abs=1e-9)
    assert by_name["3"].log10_norm_gain is not None and by_name["3"].log10_norm_gain == pytest.approx(-2.1, abs=0.2)


def test_nothing_underflows_that_is_not_zero() -> None:
    """64·64 weights of 1e-25, a loss scaled by 1e-30, inputs of 1e-25: all of it below what float32 squares hold."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    nn.init.constant_(model[0].weight, 1e-25)  # type: ignore[arg-type]
    flow = look(Problem(model, torch.ones(64, 64), torch.zeros(()), lambda out, t: 1e-30 * out.sum()))
    (layer,) = flow.layers
    assert layer.log10_weight_norm == pytest.approx(log(64e-25), abs=1e-6)
    assert flow.calls[0].log10_rms == pytest.approx(log(64e-25), abs=1e-6)
    assert layer.log10_signal == pytest.approx(log(8 * 64e-30), abs=1e-6)  # √64 samples × 64² entries of 1e-30
    assert layer.log10_grad_norm == pytest.approx(log(64 * 64e-30), abs=1e-6)
    nn.init.constant_(model[0].weight, 1.0)  # type: ignore[arg-type]
    small = Problem(model, torch.full((64, 64), 1e-25), torch.zeros(()), lambda out, t: 1e-30 * out.sum())
    (layer,) = look(small).layers
    assert layer.log10_grad_norm == pytest.approx(log(64) + log(64) - 55, abs=1e-5)  # entries of 64 · 1e-55
    assert layer.underflow_fraction == 1.0


def test_minus_infinity_stands_for_a_true_zero_only() -> None:
    deep = look(Problem(chain(300), torch.tensor(1.0))).layers
    assert all(layer.log10_grad_norm is not None and math.isfinite(layer.log10_grad_norm) for layer in deep)
    assert min(layer.log10_grad_norm or 0.0 for layer in deep) < -400
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].bias, -100.0)  # type: ignore[arg-type]
    by_name = layers(Problem(model, torch.randn(8, 4), torch.randn(8, 2), squares))
    dead = by_name["0"]
    assert dead.log10_grad_norm == dead.log10_signal == dead.log10_transmission == -math.inf
    assert by_name["0"].dead_fraction == by_name["0"].saturated_fraction == 1.0
    assert by_name["2"].log10_grad_norm is not None and math.isfinite(by_name["2"].log10_grad_norm)  # its bias


ACTIVATIONS: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor], float]] = {
    "tanh": (nn.Tanh(), lambda z: 1 - z.tanh() ** 2, 1.0),
    "sigmoid": (nn.Sigmoid(), lambda z: z.sigmoid() * (1 - z.sigmoid()), 0.25),
    "relu": (nn.ReLU(), lambda z: (z > 0).to(z.dtype), 1.0),
    "relu in place": (nn.ReLU(inplace=True), lambda z: (z > 0).to(z.dtype), 1.0),
    "elu": (nn.ELU(), lambda z: torch.where(z > 0, 1.0, z.exp()), 1.0),
    "leaky": (nn.LeakyReLU(0.005), lambda z: torch.where(z > 0, 1.0, 0.005).to(z.dtype), 1.0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_saturated_and_dead_shares_against_the_activations_themselves(name: str, seed: int) -> None:
    activation, slope, largest = ACTIVATIONS[name]
    torch.manual_seed(seed)
    first = nn.Linear(6, 20).double()
    with torch.no_grad():
        first.weight *= 3.0
        first.bias.uniform_(-9.0, 9.0)
    x = torch.randn(8, 6).double()
    model = nn.Sequential(first, activation, nn.Linear(20, 2).double())
    flat = slope(first(x).detach()).abs() < 0.01 * largest
    by_name = layers(Problem(model, x, torch.randn(8, 2).double(), squares))
    assert 0.0 < float(flat.double().mean()) < 1.0
    assert by_name["0"].saturated_fraction == pytest.approx(float(flat.double().mean()), abs=1e-12)
    assert by_name["0"].dead_fraction == pytest.approx(float(flat.all(0).double().mean()), abs=1e-12)
    assert by_name["2"].saturated_fraction is None


def test_the_units_of_a_convolution_are_its_channels() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, padding=1).double()
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([-50.0, 0.0, 0.0, 50.0]))  # type: ignore[union-attr]
    x = torch.randn(3, 2, 5, 5).double()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(100, 2).double())
    by_name = layers(Problem(model, x, torch.randn(3, 2).double(), squares))
    assert by_name["0"].dead_fraction == 0.25
    assert by_name["0"].saturated_fraction == pytest.approx(float((conv(x) <= 0).double().mean()), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_entries_below_float32s_smallest_normal(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*[part for _ in range(30) for part in (nn.Linear(8, 8), nn.Sigmoid())])
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    by_name = layers(Problem(model, x, y, lambda out, t: 1e-18 * squares(out, t)))
    wide = copy.deepcopy(model).double()
    (1e-18 * squares(wide(x.double()), y.double())).backward()
    shares = []
    for name, layer in by_name.items():
        module: Any = wide.get_submodule(name)
        entries = torch.cat([module.weight.grad.flatten(), module.bias.grad])
        share = float((entries.abs() < 2.0**-126).double().mean())
        shares.append(share)
        assert layer.underflow_fraction == pytest.approx(share, abs=2.5 / 72)  # an entry or two lie at the limit
    assert shares[0] == 1.0 and shares[-1] == 0.0 and any(0.0 < share < 1.0 for share in shares)


@pytest.mark.parametrize("math_", [Host, Device])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("exponent", "below", "live"),
    [(0, 0, 4), (-126, 3, 4), (-2000, 4, 4), (2000, 0, 4)],
)
def test_entries_below_a_limit_of_any_size(
    math_: Any, dtype: torch.dtype, exponent: int, below: int, live: int
) -> None:
    settled = math_.settle(torch.tensor([0.0, 0.0, 0.25, -0.5, 0.75, 1.5], dtype=dtype), exponent)
    assert tuple(float(count) for count in _below(settled, torch.float32)) == (below, live)
    without_zeros = math_.settle(torch.tensor([0.25, -0.5, 0.75, 1.5], dtype=dtype), exponent)
    assert tuple(float(count) for count in _below(without_zeros, torch.float32)) == (below, live)


def test_under_float16_autocast_the_limit_is_float16s() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(5) for part in (nn.Linear(32, 32), nn.Tanh())])
    x, y = torch.randn(16, 32), torch.randn(16, 32)
    by_name = layers(Problem(model, x, y, lambda out, t: 0.02 * squares(out.float(), t), autocast=torch.float16))
    (0.02 * squares(model(x), y)).backward()
    for name, layer in by_name.items():
        module: Any = model.get_submodule(name)
        entries = torch.cat([module.weight.grad.flatten(), module.bias.grad])
        share = float((entries.abs() < 2.0**-14).double().mean())
        assert layer.dtype == "float16" and share > 0.05
        assert layer.underflow_fraction == pytest.approx(share, abs=0.02)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.2, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("earlier", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_update_against_a_step_really_made(name: str, earlier: int, same_before_and_after: Any) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(6, 5).double(), torch.randn(6, 3).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    stepped: list[str] = []
    optimizer.register_step_post_hook(lambda *_: stepped.append("step"))

    def step() -> None:
        optimizer.zero_grad()
        squares(model(x), y).backward()
        optimizer.step()
        schedule.step()

    for _ in range(earlier):
        step()
    counted, clock = len(stepped), copy.deepcopy(schedule.state_dict())
    with same_before_and_after(model, optimizer):
        by_name = layers(Problem(model, x, y, squares, optimizer))
    assert len(stepped) == counted == earlier and schedule.state_dict() == clock
    before = copy.deepcopy(model)
    step()
    for key, layer in by_name.items():
        old, new = list(before.get_submodule(key).parameters()), list(model.get_submodule(key).parameters())
        moved = math.sqrt(sum(float((a - b).detach().norm()) ** 2 for a, b in zip(old, new, strict=True)))
        weights = math.sqrt(sum(float(a.detach().norm()) ** 2 for a in old))
        assert layer.update_to_weight_ratio == pytest.approx(moved / weights, rel=1e-6)


ENTRIES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    **OPTIMIZERS,
    "Adam on what it was told to maximise": lambda p: torch.optim.Adam(p, lr=0.01, maximize=True, amsgrad=True),
    "AdamW with its decay": lambda p: torch.optim.AdamW(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ENTRIES)
def test_updates_of_many_tensors_at_once_are_those_of_each(name: str, dtype: torch.dtype) -> None:
    """Tensors larger than a vector, some that share one, other strides, a number, and a late one with its own count."""
    torch.manual_seed(5)
    shapes = [(300, 400), (3, 5), (7,), (1,), (), (2, 3, 4, 5), (200, 500)]
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    parameters[5].data = parameters[5].data.contiguous(memory_format=torch.channels_last)
    optimizer = ENTRIES[name](parameters)
    for turn in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        if turn == 0:
            parameters[2].grad = None
        optimizer.step()
    gradients = [torch.randn(shape, dtype=dtype) * 10.0**-k for k, shape in enumerate(shapes)]
    state = copy.deepcopy(optimizer.state_dict())
    updates = Updates(optimizer, keep=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        updates.read(parameter, gradient.clone())
    updates.flush()
    assert not updates.refused and repr(optimizer.state_dict()) == repr(state)
    before = [p.detach().clone() for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter, old in zip(parameters, before, strict=True):
        moved = (parameter.detach() - old).double()
        change = updates.changes[id(parameter)].double()
        relative, absolute = (1e-4, 2e-6) if dtype is torch.float32 else (1e-9, 1e-13)
        torch.testing.assert_close(change, moved, rtol=relative, atol=absolute)
        size = float(change.norm())
        assert updates.found[id(parameter)] == pytest.approx(size, rel=1e-5)


def test_a_parameter_the_optimizer_does_not_hold_will_not_move() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    by_name = layers(Problem(model, torch.randn(4, 3), torch.randn(4, 2), squares, optimizer))
    assert by_name["0"].update_to_weight_ratio == 0.0
    assert by_name["2"].update_to_weight_ratio is not None and by_name["2"].update_to_weight_ratio > 0.0


def test_a_look_leaves_the_problem_as_it_was_and_says_the_same_twice(same_before_and_after: Any) -> None:
    for name in ("cnn_batchnorm", "transformer_encoder", "spectral_norm", "checkpoint_reentrant"):
        given = problem(name, 0)
        with same_before_and_after(given.model):
            first, second = look(given), look(given)
        assert repr(first) == repr(second)  # to the last digit, and with nan equal to nan


def test_frozen_and_unused_layers_say_so() -> None:
    given = problem("several_outputs", 0)
    model: Any = given.model
    for parameter in model.value.parameters():
        parameter.requires_grad_(False)
    by_name = layers(given)
    assert by_name["value"].frozen and by_name["value"].log10_grad_norm is None
    assert not by_name["unused"].frozen and by_name["unused"].call is None and by_name["unused"].log10_grad_norm is None
    assert not by_name["trunk"].frozen and by_name["trunk"].log10_grad_norm is not None


def test_a_layer_off_the_loss_has_no_signal() -> None:
    """The auxiliary head runs, but the loss does not read it."""

    def forward(m: Any, x: Tensor) -> Any:
        h = torch.tanh(m.trunk(x))
        return m.head(h), m.auxiliary(h)

    parts = {"trunk": nn.Linear(4, 4), "head": nn.Linear(4, 2), "auxiliary": nn.Linear(4, 3)}
    given = Problem(Forward(forward, **parts), torch.randn(5, 4), torch.randn(5, 2), lambda out, y: squares(out[0], y))
    by_name = layers(given)
    assert by_name["auxiliary"].log10_grad_norm is None and by_name["auxiliary"].log10_signal is None
    assert by_name["head"].log10_grad_norm is not None


class WithSum(nn.Module):
    """Two outputs: a layer's, and the sum of numbers that cancel but for rounding."""

    def __init__(self, left: float) -> None:
        super().__init__()
        self.first, self.second, self.left = nn.Linear(6, 4), nn.Linear(4, 4), left

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(torch.tanh(self.first(x)))
        weights = self.second.weight
        return h, self.left + (weights - weights.detach()).sum() * torch.ones(len(x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("left", [0.0, 1e-8, 1e-7])
def test_an_output_of_rounding_alone_does_not_drown_the_others(left: float, seed: int) -> None:
    """A flow's log-determinant at its start: in units of its own it would be all that the outputs say."""
    torch.manual_seed(seed)
    model, x = WithSum(left), torch.randn(32, 6)
    loss = lambda outputs, _: outputs[0].square().mean() + outputs[1].mean()  # noqa: E731
    report = diagnose(Problem(model, x, None, loss))
    assert all((layer.log10_transmission or 0.0) > -1.0 for layer in report.layers)
    assert report.healthy


def test_alignment_worked_by_hand() -> None:
    """N samples of 256 unit vectors: |J|_F = √N; a residual that is alike in all samples of one vector adds up.

    Each vector once in 256 samples: |Jᵀr| = |r|, so |Jᵀr| √N / (|J|_F |r|) = 1. Four times: |Jᵀr| = 2 |r|, so 2.
    Where the four residuals of each vector cancel, nothing of what the loss asks can be met.
    """

    def alignment(repeats: int, residual: Tensor) -> float | None:
        x = torch.eye(256, dtype=torch.float64).repeat(repeats, 1)
        model = nn.Linear(256, 1, bias=False, dtype=torch.float64)
        nn.init.zeros_(model.weight)
        (layer,) = layers(Problem(model, x, -residual[:, None], F.mse_loss)).values()
        return layer.log10_alignment

    r = torch.linspace(0.5, 1.5, 256, dtype=torch.float64)
    assert alignment(1, r) == pytest.approx(0.0, abs=0.1)  # |J|_F from one random vector
    assert alignment(4, r.repeat(4)) == pytest.approx(log(2.0), abs=0.1)
    cancelled = alignment(4, torch.cat([r, -r, r, -r]))
    assert cancelled is not None and cancelled < -10.0
