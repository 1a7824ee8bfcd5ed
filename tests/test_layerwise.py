"""Curvature along a layer's gradient and what the layer alone could gain, against dense matrices in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import CLASSES, LOSSES, draw, entropy, mse
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from unvanish import Problem, zoo
from unvanish.evidence import layerwise
from unvanish.evidence.gauss_newton import dot
from unvanish.evidence.layerwise import MOST, GradientCurvature, gradient_curvatures
from unvanish.evidence.output_loss import loss_of_outputs
from unvanish.flow.look import looking
from unvanish.pipeline import diagnose

SEEDS = range(3)


def found(problem: Problem) -> dict[str, GradientCurvature] | str:
    model: Any = problem.model
    report = diagnose(problem, effort="quick")
    with looking(problem, model) as look:
        output_loss = loss_of_outputs(problem, look.capture)
        assert not isinstance(output_loss, str)
        return gradient_curvatures(look, look.layers, {a.name: a for a in report.layers}, output_loss)


def numbers(problem: Problem) -> dict[str, GradientCurvature]:
    values = found(problem)
    assert not isinstance(values, str), values
    return values


def dense(problem: Problem, layer: str) -> tuple[Tensor, Tensor]:
    """The gradient g and the Gauss-Newton matrix G = Jᵀ H J of one layer's parameters."""
    model: Any = problem.model
    own = {n: p.detach() for n, p in model.named_parameters() if n.startswith(f"{layer}.")}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        return functional_call(model, values, (problem.inputs,))

    loss: Callable[[Tensor], Tensor] = lambda out: problem.loss(out)  # noqa: E731 - torch.func wants a plain function
    now = outputs(own).detach()
    by_name = jacrev(outputs)(own)
    jacobian = torch.cat([by_name[n].reshape(now.numel(), -1) for n in own], dim=1)
    hessian = torch.autograd.functional.hessian(loss, now).reshape(now.numel(), now.numel())  # type: ignore[arg-type]
    residual = torch.autograd.functional.jacobian(loss, now).reshape(-1)  # type: ignore[union-attr]
    return (jacobian.T @ residual).detach(), (jacobian.T @ hessian @ jacobian).detach()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", LOSSES)
def test_along_the_gradient_it_is_what_the_dense_matrices_say(make: Callable[[int], Problem], seed: int) -> None:
    problem = make(seed)
    for layer, measured in numbers(problem).items():
        g, curvature = dense(problem, layer)
        along = float(g @ curvature @ g / (g @ g))
        assert measured.log10_curvature == pytest.approx(math.log10(along), abs=1e-9)
        assert measured.log10_gain == pytest.approx(math.log10(0.5 * float(g @ g) / along), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", LOSSES)
def test_the_gain_is_a_lower_bound_of_the_layers_own_decrement(make: Callable[[int], Problem], seed: int) -> None:
    problem = make(seed)
    for layer, measured in numbers(problem).items():
        g, curvature = dense(problem, layer)
        whole = 0.5 * float(g @ torch.linalg.pinv(curvature, hermitian=True, rtol=1e-12) @ g)
        assert 0.0 < 10.0**measured.log10_gain <= whole * (1.0 + 1e-9)


def sigmoids(depth: int) -> Problem:
    torch.manual_seed(depth)
    layers: list[nn.Module] = [nn.Linear(4, 4)]
    for _ in range(depth - 1):
        layers += [nn.Sigmoid(), nn.Linear(4, 4)]
    return Problem(nn.Sequential(*layers), torch.randn(16, 4), torch.randn(16, 4), F.mse_loss)


def at_scales(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The power of two at which each call pulled its gradients back; None where it walked."""
    powers: list[int | None] = []
    known = layerwise._power

    def listening(*args: Any) -> int | None:
        powers.append(known(*args))
        return powers[-1]

    monkeypatch.setattr(layerwise, "_power", listening)
    return powers


@pytest.mark.parametrize("depth", [8, 24, 40])
def test_gradients_pulled_back_at_one_scale_are_those_that_are_walked(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    powers = at_scales(monkeypatch)
    pulled = numbers(sigmoids(depth))
    assert powers[0] is not None and powers[0] > depth  # the first layers have the smallest gradients
    monkeypatch.setattr(layerwise, "_power", lambda *_: None)
    walked = numbers(sigmoids(depth))
    assert set(pulled) == set(walked)
    for name, measured in pulled.items():
        assert measured == pytest.approx(walked[name], abs=1e-4)


@pytest.mark.parametrize("scale", [1e-38, 1e-42])
def test_a_loss_too_small_for_its_own_gradient_is_walked(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    powers = at_scales(monkeypatch)
    problem = sigmoids(2)
    tiny = Problem(problem.model, problem.inputs, problem.targets, lambda out, t: scale * F.mse_loss(out, t))
    numbers(tiny)
    assert powers == [None]


def test_gradients_too_far_apart_for_one_scale_are_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    powers = at_scales(monkeypatch)
    assert numbers(sigmoids(70))
    assert powers == [None]


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-5, 1.0, 1e25])
def test_products_of_float32_outside_its_range_are_summed(size: float) -> None:
    x = torch.full((64,), size)
    assert dot([x, x], [x, 2.0 * x]) == pytest.approx(3.0 * 64.0 * float(x[0]) ** 2, rel=1e-6)


@pytest.mark.parametrize("depth", [8, 24, 40])
def test_float32_agrees_with_float64_far_below_the_range_of_its_squares(depth: int) -> None:
    problem = sigmoids(depth)
    model, x, y = copy.deepcopy(problem.model).double(), problem.inputs.double(), problem.targets.double()
    narrow, wide = numbers(problem), numbers(Problem(model, x, y, F.mse_loss))
    assert set(narrow) == set(wide)
    assert narrow["0"].log10_curvature < -1.5 * depth
    for name, measured in narrow.items():
        assert measured.log10_curvature == pytest.approx(wide[name].log10_curvature, abs=0.02)
        assert measured.log10_gain == pytest.approx(wide[name].log10_gain, abs=0.02)


@pytest.mark.parametrize("power", [-6, 6])
def test_the_gain_follows_the_scale_of_the_loss_and_its_share_stays(power: int) -> None:
    scale = 10.0**power
    problem = entropy(0)
    scaled = Problem(problem.model, problem.inputs, CLASSES, lambda out, t: scale * F.cross_entropy(out, t))
    one, other = numbers(problem), numbers(scaled)
    for name in one:
        assert other[name].log10_gain - one[name].log10_gain == pytest.approx(power, abs=1e-6)
        assert other[name].log10_curvature - one[name].log10_curvature == pytest.approx(power, abs=1e-6)
    shares = [[a.newton_decrement for a in diagnose(p, effort="full").layers] for p in (problem, scaled)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_gradient_has_much_to_gain_and_a_used_up_one_nothing(seed: int) -> None:
    lost = diagnose(zoo.get("stuck-sigmoid-10").build(seed))
    first, last = lost.layers[0], lost.layers[-1]
    assert first.verdict == "vanished"
    assert first.newton_decrement is not None and first.newton_decrement > 0.05
    assert last.newton_decrement is not None and last.newton_decrement < 1e-4
    done = diagnose(zoo.get("converged-digits").build(seed))
    assert {a.verdict for a in done.layers} == {"converged"}
    assert all(a.newton_decrement is not None and a.newton_decrement < 1e-3 for a in done.layers)


def test_effort_says_which_layers_are_looked_at() -> None:
    healthy = zoo.get("relu-he-20").build(0)
    assert all(a.log10_curvature is None and a.newton_decrement is None for a in diagnose(healthy).layers)
    assert all(a.log10_curvature is not None for a in diagnose(healthy, effort="full").layers)
    chain = zoo.get("chain-20").build(0)
    assert all(a.log10_curvature is None for a in diagnose(chain, effort="quick").layers)
    known = [a.name for a in diagnose(chain).layers if a.log10_curvature is not None]
    vanished = [a.name for a in diagnose(chain).layers if a.verdict == "vanished"]
    assert len(known) == MOST["auto"] < len(vanished)
    assert set(known) <= set(vanished) and (known[0], known[-1]) == (vanished[0], vanished[-1])


def test_a_layer_called_twice_has_one_curvature() -> None:
    layers = {a.name: a for a in diagnose(zoo.get("shared-module-twice").build(0), effort="full").layers}
    assert layers["shared"].log10_curvature is not None
    assert layers["shared"].log10_curvature == layers["shared#2"].log10_curvature
    assert layers["shared"].newton_decrement == layers["shared#2"].newton_decrement


def test_a_gradient_that_is_zero_has_no_curvature_along_it() -> None:
    layers = diagnose(zoo.get("zero-head").build(0), effort="full").layers
    assert [a.log10_curvature is None for a in layers] == [True, True, True, False]


def test_a_loss_that_bends_downwards_promises_nothing() -> None:
    torch.manual_seed(0)
    problem = Problem(nn.Linear(2, 1), torch.randn(8, 2), torch.randn(8, 1), lambda out, t: -((out - t) ** 2).mean())
    assert found(problem) == {}


class _Square(torch.autograd.Function):
    """A square with all its derivatives, but without a rule for many of them at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2.0 * ctx.saved_tensors[0] * gradient


class _Once(_Square):
    """The same, whose backward cannot be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2.0 * ctx.saved_tensors[0] * gradient


class _Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Once.apply(self.first(x)))


def test_an_operation_without_a_second_derivative_is_said() -> None:
    torch.manual_seed(0)
    report = diagnose(_Squared(), torch.randn(8, 2), torch.randn(8, 1), F.mse_loss, effort="full")
    assert all(a.log10_curvature is None and a.newton_decrement is None for a in report.layers)
    assert "the curvature along each layer's gradient" in dict(report.undecided)


@pytest.mark.parametrize("effort", ["quick", "auto", "full"])
def test_steps_to_learn_stand_wherever_an_optimizer_does(effort: str) -> None:
    problem = zoo.get("relu-he-20").build(0)
    assert all(
        a.steps_to_learn is not None and a.steps_to_learn >= 1.0 for a in diagnose(problem, effort=effort).layers
    )


def pushed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "AT_ONCE", 1)


@pytest.mark.parametrize("name", ["chain-20", "relu-he-20", "postnorm-large-rate"])
def test_directions_pushed_at_once_give_what_each_gives_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = diagnose(zoo.get(name).build(0), effort="full").layers
    pushed_one_by_one(monkeypatch)
    alone = {a.name: a for a in diagnose(zoo.get(name).build(0), effort="full").layers}
    assert any(a.log10_curvature is not None for a in together)
    for layer in together:
        one = alone[layer.name]
        assert layer.log10_curvature == pytest.approx(one.log10_curvature, abs=1e-5)
        assert (layer.newton_decrement or 0.0) == pytest.approx(one.newton_decrement or 0.0, rel=1e-4)


class _Cut(_Square):
    """A square whose backward hands on numbers without their history."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (2.0 * ctx.saved_tensors[0] * gradient).detach()


class _Beside(nn.Module):
    def __init__(self, square: Callable[[Tensor], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.middle, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.square = square
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.first(x))
        return self.last(x + self.square(x))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_cannot_be_pushed_at_once_is_pushed_one_by_one(seed: int) -> None:
    def problem(square: Callable[[Tensor], Tensor]) -> Problem:
        return Problem(_Beside(square, seed), draw(10, 2, seed=seed), draw(10, 1, seed=seed + 9), F.mse_loss)

    own, plain = numbers(problem(_Square.apply)), numbers(problem(torch.square))
    assert set(own) == {"first", "middle", "last"}
    for name, measured in own.items():
        assert measured == pytest.approx(plain[name], abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_backward_that_is_cut_on_one_of_two_ways_is_noticed(seed: int) -> None:
    problem = Problem(_Beside(_Cut.apply, seed), draw(10, 2, seed=seed), draw(10, 1, seed=seed + 9), F.mse_loss)
    assert found(problem) == "an operation of the model has no second derivative"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_pull_back_is_needed_where_the_loss_falls_as_the_gradients_say(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    whole = layerwise.GaussNewton.is_whole

    def listening(*args: Any) -> bool:
        asked.append(whole(*args))
        return asked[-1]

    monkeypatch.setattr(layerwise.GaussNewton, "is_whole", listening)
    numbers(mse(seed))
    assert asked == []
    monkeypatch.setattr(layerwise.GaussNewton, "slope", lambda *_: math.nan)  # as where the samples' slopes cancel
    assert numbers(mse(seed))
    assert asked == [True]
