"""The Gauss-Newton decrement, against dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import CLASSES, LOSSES, draw, entropy, mse, net
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from unvanish import Problem, zoo
from unvanish.evidence.curvature import CLOSE, DAMPING, STATIONARY, decrement
from unvanish.flow.layers import natural_norm
from unvanish.flow.look import looking
from unvanish.pipeline import diagnose, loss_of_outputs

SEEDS = range(4)
NEARLY = 0.9999  # of the threshold: so close that the search must go to its end to know the side


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def found(problem: Problem, reference: float, **more: Any) -> float | str:
    model: Any = problem.model
    with looking(problem, model) as look:
        output_loss = loss_of_outputs(problem, look.capture)
        assert not isinstance(output_loss, str), output_loss
        return decrement(look, output_loss, reference, **more)


def number(problem: Problem, reference: float, **more: Any) -> float:
    value = found(problem, reference, **more)
    assert isinstance(value, float), value
    return value


def dense(problem: Problem, only: Sequence[str] = (), outputs_of: Callable[[Any], Tensor] = lambda out: out) -> float:
    """½ gᵀ(G + λ)⁻¹g of the matrices themselves, in relative coordinates."""
    model: Any = problem.model
    own = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and (not only or n in only)}
    scales = torch.cat([
        torch.full((p.numel(),), max(float(p.norm()), 1e-3 * natural_norm(n, nn.Parameter(p)))) for n, p in own.items()
    ])  # fmt: skip

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return outputs_of(functional_call(model, parameters, (problem.inputs,)))

    def loss(z: Tensor) -> Tensor:
        assert problem.loss_fn is not None
        return problem.loss_fn(z, problem.targets)

    now = outputs(own).detach()
    rows = [j.detach().reshape(now.numel(), -1) for j in jacrev(outputs)(own).values()]
    jacobian = torch.cat(rows, dim=1) * scales
    hessian = torch.autograd.functional.hessian(loss, now)
    assert isinstance(hessian, Tensor)
    hessian = hessian.reshape(now.numel(), now.numel())
    residual = jacrev(loss)(now).reshape(-1)
    g, curvature = jacobian.T @ residual, jacobian.T @ hessian @ jacobian
    damping = DAMPING * float((curvature @ (g / g.norm())).norm())
    return 0.5 * float(g @ torch.linalg.solve(curvature + damping * torch.eye(len(g)), g))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", LOSSES)
def test_the_decrement_is_that_of_the_dense_matrices(make: Callable[[int], Problem], seed: int) -> None:
    problem = make(seed)
    exact = dense(problem)
    share = number(problem, exact / (NEARLY * STATIONARY))  # just below the threshold: the search goes to its end
    assert share == pytest.approx(NEARLY * STATIONARY, rel=2 * CLOSE)
    assert share <= NEARLY * STATIONARY * (1 + 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("times", [2.0, 1e2, 1e5])
def test_the_early_end_gives_a_lower_bound_above_the_threshold(
    make: Callable[[int], Problem], seed: int, times: float
) -> None:
    problem = make(seed)
    exact = dense(problem)
    assert STATIONARY <= number(problem, exact / (times * STATIONARY)) <= times * STATIONARY * (1 + 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_some_parameters_alone(seed: int) -> None:
    problem = entropy(seed)
    exact = dense(problem, only=("2.weight", "2.bias"))
    assert exact < dense(problem)
    share = number(problem, exact / (NEARLY * STATIONARY), only=("2.weight", "2.bias"))
    assert share == pytest.approx(NEARLY * STATIONARY, rel=2 * CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_frozen_and_unused_parameters_do_not_count(seed: int) -> None:
    problem = mse(seed)
    exact = dense(problem, only=("2.weight", "2.bias"))
    model: Any = problem.model
    model[0].requires_grad_(False)
    model.forgotten = nn.Linear(3, 3)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    assert number(problem, exact / (NEARLY * STATIONARY)) == pytest.approx(NEARLY * STATIONARY, rel=2 * CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_an_optimum_nothing_is_left(seed: int) -> None:
    inputs, targets = draw(40, 3, seed=seed), draw(40, 1, seed=seed + 9)
    model = nn.Linear(3, 1)
    best = torch.linalg.lstsq(torch.cat([inputs, torch.ones(40, 1)], 1), targets).solution
    with torch.no_grad():
        model.weight.copy_(best[:3].T)
        model.bias.copy_(best[3])
    problem = Problem(model, inputs, targets, F.mse_loss)
    assert 0.0 <= number(problem, 1.0) < 1e-25
    with torch.no_grad():
        model.bias.add_(0.01)  # now exactly 0.01² can be won back
    assert number(problem, 1.0) == pytest.approx(1e-4, rel=0.05)  # less what the damping holds back


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_scale_of_the_loss_cancels(make: Callable[[int], Problem], scale: float) -> None:
    problem = make(1)
    reference = dense(problem) / (0.5 * STATIONARY)
    loss_fn: Any = problem.loss_fn
    scaled = Problem(problem.model, problem.inputs, problem.targets, lambda o, t: loss_fn(o, t) * scale)
    assert number(scaled, reference * scale) == pytest.approx(number(problem, reference), rel=2 * CLOSE)


@pytest.mark.parametrize("factor", [100.0, 0.01])
@pytest.mark.parametrize("seed", SEEDS)
def test_rescaling_the_layers_of_a_rectifier_network_changes_nothing(seed: int, factor: float) -> None:
    model: Any = net(seed, 3, nn.ReLU)
    problem = Problem(model, draw(10, 2, seed=seed), CLASSES, F.cross_entropy)
    reference = dense(problem) / (0.5 * STATIONARY)
    before = number(problem, reference)
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
        model[2].weight.div_(factor)
    assert number(problem, reference) == pytest.approx(before, rel=2 * CLOSE)


class Inside(nn.Module):
    """Computes its loss itself, among its outputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = net(seed, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, CLASSES), "logits": logits}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_inside_the_model(seed: int) -> None:
    reference = dense(entropy(seed)) / (NEARLY * STATIONARY)
    outside, inside = number(entropy(seed), reference), number(Problem(Inside(seed), draw(10, 2, seed=seed)), reference)
    assert inside == pytest.approx(outside, rel=1e-9)


class Two(nn.Module):
    """Two outputs that matter, of which the head reaches only one, and one that has no gradient."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        h = torch.tanh(self.body(x))
        return h, {"value": self.head(h)}, h.detach().sum(1)


def both(out: Any, targets: Tensor) -> Tensor:
    return F.mse_loss(out[0], targets.expand(10, 2)) + F.mse_loss(out[1]["value"], targets) + out[2].mean()


@pytest.mark.parametrize("only", [(), ("head.weight", "head.bias"), ("body.weight",)])
@pytest.mark.parametrize("seed", SEEDS)
def test_several_outputs(seed: int, only: tuple[str, ...]) -> None:
    problem = Problem(Two(seed), draw(10, 2, seed=seed), draw(10, 1, seed=seed + 9), both)

    def joined(z: Tensor, targets: Tensor) -> Tensor:
        return both((z[:, :2], {"value": z[:, 2:]}, torch.zeros(1)), targets)

    flat = Problem(problem.model, problem.inputs, problem.targets, joined)
    exact = dense(flat, only, lambda out: torch.cat([out[0], out[1]["value"]], 1))
    share = number(problem, exact / (NEARLY * STATIONARY), only=only)
    assert share == pytest.approx(NEARLY * STATIONARY, rel=2 * CLOSE)


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention(dropout: float) -> None:
    problem = Problem(Attention(dropout), draw(10, 5, 8), CLASSES, F.cross_entropy)
    share = number(problem, 1.0)
    assert STATIONARY <= share < math.inf
    assert share == number(problem, 1.0)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.pow(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return g * 2 * z


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(x)


class _Numbers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.from_numpy(np.tanh(z.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return torch.from_numpy(g.detach().numpy() * (1 - np.tanh(z.detach().numpy()) ** 2))


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Numbers.apply(x)


def fussy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.grad_fn is None:
        raise TypeError("only outputs of the model")
    return F.mse_loss(outputs, targets)


def plain() -> nn.Module:
    return net(0)


def once_inside() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), Once(), nn.Linear(3, 1))


def doubly() -> nn.Module:
    """A function with a backward of its own whose numbers autograd does not see being made."""
    return nn.Sequential(nn.Linear(2, 3), Numbers(), nn.Linear(3, 1))


REASONS = [
    (plain, lambda o, t: _Once.apply(o - t).mean(), "curvature along the gradient is zero"),
    (once_inside, F.mse_loss, "has no second derivative"),
    (doubly, F.mse_loss, "has no second derivative"),
    (plain, lambda o, t: (o - t).mean(), "curvature along the gradient is zero"),
    (plain, lambda o, _: -o.pow(2).mean(), "not convex"),
    (plain, fussy, "only outputs of the model"),
    (plain, lambda o, t: F.mse_loss(o, t) * 0.0, "below the range"),
]


@pytest.mark.parametrize(("make", "loss_fn", "reason"), REASONS)
def test_what_cannot_be_had_is_a_reason(make: Callable[[], nn.Module], loss_fn: Any, reason: str) -> None:
    why = found(Problem(make(), draw(10, 2), draw(10, 1), loss_fn), 1.0)
    assert isinstance(why, str) and reason in why


def test_an_interrupt_is_not_a_reason() -> None:
    count = 0

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return F.mse_loss(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        found(Problem(net(0), draw(10, 2), draw(10, 1), loss_fn), 1.0)


def ill_conditioned(spread: float, flat: float, count: int = 60) -> tuple[Problem, float]:
    """A linear model of ``count`` weights of 1, curvatures from 1 down to ``spread``, and one far flatter direction.

    The loss is ½ Σ hᵢ eᵢ²: every steep direction could win 10⁻⁶, the flat one, at weight e, ``½ h e²``. Returns the
    problem and what there is to win.
    """
    curvatures = torch.cat([torch.logspace(0, math.log10(spread), count), torch.tensor([flat])])
    left = torch.sqrt(2e-6 / curvatures)
    left[-1] = math.sqrt(2 * 5e-2 / flat)
    inputs = torch.diag(torch.sqrt(curvatures))
    model = nn.Linear(count + 1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    targets = inputs @ (model.weight.detach() + left).T
    problem = Problem(model, inputs, targets, lambda o, t: 0.5 * (o - t).pow(2).sum())
    return problem, 0.5 * float((curvatures * left**2).sum())


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("flat", [1e-3, 1e-5, 1e-6, 1e-7])
def test_no_false_stationary_point_among_curvatures_far_apart(spread: float, flat: float) -> None:
    problem, left = ill_conditioned(spread, flat)
    exact = dense(problem)
    assert exact <= left * (1 + 1e-9)
    for times in (1.5, 5.0, 20.0):
        value = found(problem, exact / (times * STATIONARY))
        assert isinstance(value, str) or value >= STATIONARY


def test_where_the_search_ends_between_the_bounds_nothing_is_claimed() -> None:
    problem, _ = ill_conditioned(1e-5, 1e-6, 200)
    why = found(problem, dense(problem) / (1.5 * STATIONARY))
    assert isinstance(why, str) and "curvatures too far apart" in why


@pytest.mark.parametrize("seed", SEEDS)
def test_no_false_stationary_point_for_random_quadratics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        rows = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
        powers = torch.rand(40, generator=generator) * 8
        inputs = rows * 10 ** (-powers / 2)
        model = nn.Linear(40, 1, bias=False)
        targets = inputs @ (model.weight.detach().T + torch.randn(40, 1, generator=generator) * 10 ** powers[:, None])
        problem = Problem(model, inputs, targets, F.mse_loss)
        exact = dense(problem)
        above, below = found(problem, exact / (1.05 * STATIONARY)), found(problem, exact / (0.95 * STATIONARY))
        assert isinstance(above, str) or above >= STATIONARY
        assert isinstance(below, str) or below <= 0.95 * STATIONARY * (1 + 1e-6)


class Branch(nn.Module):
    """x + 0.001 · tanh(Wx + b): a layer of which little arrives at the output, and no parameter says why."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * torch.tanh(self.inner(x))


def at_its_optimum() -> Problem:
    """Least squares on what the branch leaves of the inputs: the head has nothing to gain."""
    torch.manual_seed(0)
    model = nn.Sequential(Branch(), nn.Linear(3, 1))
    inputs = draw(64, 3)
    targets = inputs @ draw(3, 1, seed=4) + draw(64, 1, seed=5)
    with torch.no_grad():
        features: Any = model[0](inputs)
        best = torch.linalg.lstsq(torch.cat([features, torch.ones(64, 1)], 1), targets).solution
        head: Any = model[1]
        head.weight.copy_(best[:3].T)
        head.bias.copy_(best[3] + 1e-6)
    return Problem(model, inputs, targets, F.mse_loss)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The names each decrement was taken of; () for all."""
    calls: list[tuple[str, ...]] = []

    def listening(*args: Any) -> float | str:
        calls.append(tuple(args[3]) if len(args) > 3 else ())
        return decrement(*args)

    monkeypatch.setattr("unvanish.evidence.curvature.decrement", listening)
    return calls


def test_those_that_transmit_are_asked_first_and_the_others_where_they_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = asked(monkeypatch)
    """The head has nothing to gain, and what the branch could still gain must not be called an optimum."""
    report = diagnose(at_its_optimum())
    assert report.loss is not None and not report.loss.at_constant
    assert calls == [("1.weight", "1.bias"), ()]
    assert report.decrement is not None and report.decrement >= STATIONARY
    assert [a.verdict for a in report.layers] == ["vanished", "healthy"]


def test_a_deep_network_that_has_vanished_is_asked_only_where_it_transmits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    calls = asked(monkeypatch)
    report = diagnose(zoo.get("stuck-sigmoid-10").build(0))
    weak = {a.name for a in report.layers if a.verdict == "vanished"}
    assert weak and len(calls) == 1
    assert {name.rpartition(".")[0] for name in calls[0]} == {a.name for a in report.layers} - weak
    assert report.decrement is not None and report.decrement < STATIONARY


def test_a_step_that_lowers_the_loss_spares_the_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = asked(monkeypatch)
    report = diagnose(zoo.get("slow-quadratic").build(0))
    assert calls == [] and report.decrement is None and report.verdict == "slow"
    assert report.step is not None and report.step.lowered is not None and report.step.lowered >= STATIONARY
    assert any("no stationary point" in note for note in report.notes)
    assert "whether this is a stationary point" not in dict(report.undecided)


def test_what_was_refused_is_an_open_question_of_the_report() -> None:
    """A plateau whose curvature cannot be had is not called one."""
    torch.manual_seed(0)
    inputs, targets = draw(64, 3), draw(64, 1, seed=5)
    model = nn.Linear(3, 1)
    best = torch.linalg.lstsq(torch.cat([inputs, torch.ones(64, 1)], 1), targets).solution
    with torch.no_grad():
        model.weight.copy_(best[:3].T)
        model.bias.copy_(best[3] + 1e-6)

    def once(outputs: Tensor, wanted: Tensor) -> Tensor:
        return _Once.apply(outputs - wanted).mean()

    known, unknown = diagnose(model, inputs, targets, F.mse_loss), diagnose(model, inputs, targets, once)
    assert {layer.verdict for layer in known.layers} <= {"plateau", "converged"}
    assert not {layer.verdict for layer in unknown.layers} & {"plateau", "converged"}
    assert any("curvature" in why for _, why in unknown.undecided)
