"""What library models do: heads behind views, cut trunks, dead-end calls, lazy outputs, gates in series, residuals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-3)


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def verdicts(report: Report) -> dict[str, str]:
    return {layer.name: layer.verdict for layer in report.layers}


# ------------------------------------------------------------ what stands between the last activation and the loss
class Then(nn.Module):
    """A small network with a function behind its last layer."""

    def __init__(self, outputs: int, last: Callable[[Tensor], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers, self.last = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs)), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


SAMPLES, STEPS = draw(48, 8), draw(16, 3, 8)
CLASSES = torch.arange(48) % 8
BCE = F.binary_cross_entropy_with_logits
BITS = (torch.arange(48) % 3 == 0).float()


def by_rows(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.view(-1, 8), targets.view(-1))


def by_classes(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets.view(16, 3))


MOVED = [
    pytest.param(STEPS, lambda z: z, by_rows, id="view in the loss"),
    pytest.param(STEPS, lambda z: z.reshape(-1, 8), F.cross_entropy, id="reshape"),
    pytest.param(STEPS, lambda z: z.flatten(0, 1), F.cross_entropy, id="flatten"),
    pytest.param(STEPS, lambda z: z.transpose(1, 2), by_classes, id="transpose"),
    pytest.param(STEPS, lambda z: z.permute(0, 2, 1).contiguous(), by_classes, id="permute and contiguous"),
    pytest.param(STEPS, lambda z: z.mT, by_classes, id="mT"),
    pytest.param(STEPS, lambda z: z.movedim(-1, 1).clone(), by_classes, id="movedim and clone"),
    pytest.param(STEPS, lambda z: z[:, -1], lambda o, t: F.cross_entropy(o, t.view(16, 3)[:, -1]), id="the last step"),
    pytest.param(STEPS, lambda z: z.mean(1), lambda o, t: F.cross_entropy(o, t[:16]), id="mean over steps"),
    pytest.param(SAMPLES, lambda z: z[:, None].squeeze(1), F.cross_entropy, id="squeeze"),
    pytest.param(SAMPLES, lambda z: z[:], F.cross_entropy, id="indexing of all"),
    pytest.param(SAMPLES, lambda z: z.float(), lambda o, t: F.cross_entropy(o[t >= 0], t[t >= 0]), id="a mask"),
    pytest.param(
        STEPS, lambda z: z, lambda o, t: F.cross_entropy(o.view(-1, 8), t, reduction="none").mean(), id="none"
    ),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("inputs", "move", "loss_fn"), MOVED)
def test_a_softmax_before_cross_entropy_is_seen_through_what_moves_it(
    inputs: Tensor, move: Callable[[Tensor], Tensor], loss_fn: Callable[..., Tensor], seed: int
) -> None:
    double = diagnose(Problem(Then(8, lambda z: move(z.softmax(-1)), seed), inputs, CLASSES, loss_fn, adam))
    found = {finding.code: finding for finding in double.findings}
    assert double.verdict == "pairing" and found["UV706"].cause == "softmax"
    assert "before cross_entropy" in found["UV706"].message
    assert codes(diagnose(Problem(Then(8, move, seed), inputs, CLASSES, loss_fn, adam))) == {}


BIT_MOVES = [
    pytest.param(lambda z: z.view(-1), BCE, id="view"),
    pytest.param(lambda z: z, lambda o, t: BCE(o.squeeze(1), t), id="squeeze"),
    pytest.param(lambda z: z[:, 0], BCE, id="index"),
    pytest.param(lambda z: z, lambda o, t: BCE(o.view_as(t), t), id="view_as"),
    pytest.param(lambda z: z[:, None].mean(1), lambda o, t: BCE(o, t[:, None]), id="mean"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("move", "loss_fn"), BIT_MOVES)
def test_a_sigmoid_before_another_is_seen_through_what_moves_it(
    move: Callable[[Tensor], Tensor], loss_fn: Callable[..., Tensor], seed: int
) -> None:
    double = diagnose(Problem(Then(1, lambda z: move(z.sigmoid()), seed), SAMPLES, BITS, loss_fn, adam))
    found = {finding.code: finding for finding in double.findings}
    assert found["UV706"].level == "error" and found["UV706"].cause == "sigmoid"
    assert codes(diagnose(Problem(Then(1, move, seed), SAMPLES, BITS, loss_fn, adam))) == {}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("last", "loss_fn"),
    [
        pytest.param(lambda z: z.log_softmax(-1), lambda o, t: F.nll_loss(o.view(-1, 8), t), id="log-softmax and NLL"),
        pytest.param(lambda z: z.softmax(-1), lambda o, t: F.nll_loss(o.view(-1, 8).log(), t), id="softmax, log, NLL"),
        pytest.param(lambda z: z.mul(2.0).transpose(1, 2), by_classes, id="a temperature"),
    ],
)
def test_what_fits_is_left_alone_behind_a_view(
    last: Callable[[Tensor], Tensor], loss_fn: Callable[..., Tensor], seed: int
) -> None:
    assert "UV706" not in codes(diagnose(Problem(Then(8, last, seed), STEPS, CLASSES, loss_fn, adam)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_range_is_that_of_the_activation_behind_a_view(seed: int) -> None:
    targets = torch.linspace(5.0, 25.0, 48)
    found = diagnose(Problem(Then(1, lambda z: z.sigmoid().squeeze(-1), seed), SAMPLES, targets, F.mse_loss, adam))
    assert {finding.code: finding.cause for finding in found.findings}["UV701"] == "sigmoid"
    inside = diagnose(
        Problem(Then(1, lambda z: z.sigmoid().squeeze(-1), seed), SAMPLES, targets / 30, F.mse_loss, adam)
    )
    assert codes(inside) == {}


# ------------------------------------------------------------ a residual as the output
def small_net(inputs: int, act: type[nn.Module], first: float = 1.0) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(inputs, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 1))
    with torch.no_grad():
        for parameter in net[0].parameters():
            parameter.mul_(first)
    return net


class Residual(nn.Module):
    """What an equation or a fit has left over is the output; the loss drives it to zero."""

    def __init__(self, left_over: Callable[[nn.Module, Tensor], Tensor], act: type[nn.Module], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net, self.left_over = small_net(1, act), left_over

    def forward(self, x: Tensor) -> Tensor:
        return self.left_over(self.net, x)


def of_a_fit(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) - torch.sin(3.0 * x)


def of_decay(net: nn.Module, x: Tensor) -> Tensor:
    """u' + u = 0 with u(0) = 1, held by construction."""
    x = x.clone().requires_grad_(True)
    u = 1.0 + x * net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return slope + u


def of_poisson(net: nn.Module, x: Tensor) -> Tensor:
    """u'' = -π² sin(πx), with u(0) = u(1) = 0 held by construction."""
    x = x.clone().requires_grad_(True)
    u = x * (1.0 - x) * net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return bend + math.pi**2 * torch.sin(math.pi * x)


def of_squares(residual: Tensor, _: Any) -> Tensor:
    return residual.pow(2).mean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("act", [nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("left_over", [of_a_fit, of_decay, of_poisson])
def test_a_residual_that_tends_to_zero_explodes_nowhere(
    left_over: Callable[[nn.Module, Tensor], Tensor], act: type[nn.Module], seed: int
) -> None:
    model, x = Residual(left_over, act, seed), torch.linspace(0.0, 1.0, 64)[:, None]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = float(of_squares(model(x), None).detach())
    for step in range(401):
        if step in (0, 100, 400):
            report = diagnose(Problem(model, x, torch.zeros(1), of_squares, optimizer))
            assert report.healthy and "exploding" not in verdicts(report).values(), step
            assert report.loss is not None and not report.loss.at_constant
        optimizer.zero_grad()
        of_squares(model(x), None).backward()
        optimizer.step()
    assert float(of_squares(model(x), None).detach()) < 0.02 * first


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chaotic_network_explodes_behind_a_difference_too(seed: int) -> None:
    """Fifty tanh layers of weights 3/√n: whether a constant is taken from their output changes nothing."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(8, 64)]
    for _ in range(50):
        layers += [nn.Tanh(), nn.Linear(64, 64)]
        nn.init.normal_(layers[-1].weight, std=3.0 / 8.0)  # type: ignore[arg-type]
    net = nn.Sequential(*layers, nn.Tanh(), nn.Linear(64, 1))
    targets = draw(48, 1, seed=seed)
    for loss_fn in (F.mse_loss, lambda o, t: (o - t).pow(2).mean()):
        assert "UV201" in codes(diagnose(Problem(net, SAMPLES, targets, loss_fn)))

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) - targets

    assert "UV201" in codes(diagnose(Problem(Shifted(), SAMPLES, torch.zeros(1), of_squares)))


# ------------------------------------------------------------ which call is a layer's output
class Cell(nn.Module):
    """Gives several results of one weight, as recurrent cells and equivariant layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8) + 0.1 * torch.arange(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.weight, x + self.weight


class WithCell(nn.Module):
    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.cell, self.last, self.use = nn.Linear(8, 8), Cell(), nn.Linear(8, 8), use

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.use(*self.cell(F.relu(self.first(x)))))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("use", "name"), [(lambda a, b: a, "mul"), (lambda a, b: b, "add"), (lambda a, b: a * b.detach(), "mul")]
)
def test_a_layers_output_is_the_one_that_the_loss_uses(use: Any, name: str, seed: int) -> None:
    model = WithCell(use, seed)
    report = diagnose(Problem(model, SAMPLES, CLASSES, F.cross_entropy, adam))
    cell = next(layer for layer in report.layers if layer.name == "cell")
    assert cell.call is not None and report.calls[cell.call].name == name
    assert report.verdict == "healthy" and cell.verdict == "healthy" and cell.log10_signal is not None
    wide = WithCell(use, seed).double()
    F.cross_entropy(wide(SAMPLES.double()), CLASSES).backward()
    assert cell.log10_grad_norm == pytest.approx(math.log10(float(wide.cell.weight.grad.norm())), abs=1e-3)  # type: ignore[union-attr]


# ------------------------------------------------------------ layers that run inside the loss
class Conditional:
    """What some libraries' models return: an object whose density runs the layers."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.x = net, x

    def nll(self, y: Tensor) -> Tensor:
        return (self.net(self.x) - y).pow(2).mean()


class Lazy(nn.Module):
    def __init__(self, act: Callable[[], nn.Module], depth: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        hidden = [part for _ in range(depth) for part in (nn.Linear(16, 16), act())]
        self.net = nn.Sequential(nn.Linear(8, 16), act(), *hidden, nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Any:
        return Conditional(self.net, x)


class Eager(Lazy):
    def forward(self, x: Tensor) -> Any:
        return self.net(x)


NUMBERS = draw(48, 1, seed=5)


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_that_run_inside_the_loss_are_judged_as_those_before_it(seed: int) -> None:
    for act, depth in ((nn.Tanh, 1), (nn.Sigmoid, 20)):
        lazy = diagnose(Problem(Lazy(act, depth, seed), SAMPLES, NUMBERS, lambda d, y: d.nll(y), adam))
        eager = diagnose(Problem(Eager(act, depth, seed), SAMPLES, NUMBERS, F.mse_loss, adam))
        assert verdicts(lazy) == verdicts(eager)
        for one, other in zip(lazy.layers, eager.layers, strict=True):
            assert one.log10_grad_norm == pytest.approx(other.log10_grad_norm, abs=1e-4)
            assert one.log10_transmission == pytest.approx(other.log10_transmission, abs=1e-4)
    assert set(verdicts(lazy).values()) >= {"vanished", "healthy"}
    assert "UV101" in codes(lazy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_that_the_loss_runs_is_judged(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.ModuleDict({"trunk": small_net(8, nn.Tanh)[:4], "head": nn.Linear(32, 8)})
    model.forward = lambda x: model["trunk"](x)  # type: ignore[method-assign]
    report = diagnose(Problem(model, SAMPLES, CLASSES, lambda h, t: F.cross_entropy(model["head"](h), t), adam))
    assert report.healthy and set(verdicts(report).values()) == {"healthy"}


# ------------------------------------------------------------ samples that cannot be cut apart
class Graph(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(F.relu(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])))


class Process(nn.Module):
    """Insists on the inputs it was made with, as an exact Gaussian process in training does."""

    def __init__(self, x: Tensor, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.x, self.net = x, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.equal(x, self.x):
            raise RuntimeError("you must train on the training inputs")
        return self.net(x)


@pytest.mark.parametrize("seed", SEEDS)
def test_full_effort_leaves_the_noise_open_where_samples_hang_together(seed: int) -> None:
    x, targets = draw(40, 8, seed=seed), torch.arange(40) % 3
    edges = torch.randint(40, (2, 160), generator=torch.Generator().manual_seed(seed))
    for model, inputs in ((Graph(seed), (x, edges)), (Process(x, seed), x)):
        report = diagnose(Problem(model, inputs, targets, F.cross_entropy, adam), effort="full")
        assert report.healthy and set(verdicts(report).values()) == {"healthy"}
        assert [what for what, _ in report.undecided] == ["noise"] and "cut apart" in report.undecided[0][1]
        assert all(layer.noise is None and layer.log10_curvature is not None for layer in report.layers)
    apart = diagnose(Problem(nn.Linear(8, 3), x, targets, F.cross_entropy, adam), effort="full")
    assert apart.undecided == () and all(layer.noise is not None for layer in apart.layers)
