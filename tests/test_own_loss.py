"""Models that return their own loss: what is said of their layers does not rest on a gradient that cancels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


class Own(nn.Module):
    def __init__(self, run: Callable[..., Any], net: nn.Module, **parts: Any) -> None:
        super().__init__()
        self.run, self.net = run, net
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *given: Tensor) -> Any:
        return self.run(self, *given)


def errors(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.level == "error"]


def mlp(*widths: int, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    pairs = list(pairwise(widths))
    made = [part for a, b in pairs for part in (nn.Linear(a, b), act())]
    return nn.Sequential(*made[:-1])


def squared(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return ((m.net(x).squeeze(1) - y) ** 2).mean()


def cross_entropy(m: Any, x: Tensor, y: Tensor) -> Tensor:
    picked = m.net(x).log_softmax(1)[torch.arange(len(x)), y.gt(0).long()]
    return -picked.mean()


def variational(m: Any, x: Tensor, y: Tensor) -> Tensor:
    mean, log = m.net(x).chunk(2, 1)
    z = mean + torch.randn_like(mean) * (0.5 * log).exp()
    return ((m.decode(z) - x) ** 2).sum(1).mean() + 0.5 * (mean**2 + log.exp() - log - 1).sum(1).mean()


def contrastive(m: Any, x: Tensor, y: Tensor) -> Tensor:
    a, b = F.normalize(m.net(x)), F.normalize(m.net(x + 0.1 * torch.randn_like(x)))
    logits = m.scale.exp() * a @ b.T
    return (logits.logsumexp(1) - logits.diagonal()).mean()


def weighed(m: Any, x: Tensor, y: Tensor) -> Tensor:
    first, second = m.net(x).unbind(1)
    return (-m.a).exp() * ((first - y) ** 2).mean() + m.a + (-m.b).exp() * (second - x[:, 0]).abs().mean() + m.b


def nested(m: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    fit = ((m.net(x).squeeze(1) - y) ** 2).mean()
    return {"loss": fit + 0.01 * m.net(x).square().mean(), "fit": fit}


def policy(m: Any, x: Tensor, y: Tensor) -> Tensor:
    taken = m.net(x).log_softmax(1)[torch.arange(len(x)), x[:, 0].gt(0).long()]
    return -(taken * (y - y.mean())).mean()


HEALTHY: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "squared error": (squared, lambda: {"net": mlp(4, 32, 32, 1)}),
    "cross-entropy": (cross_entropy, lambda: {"net": mlp(4, 32, 32, 2, act=nn.ReLU)}),
    "variational": (variational, lambda: {"net": mlp(4, 32, 6), "decode": mlp(3, 32, 4)}),
    "contrastive": (contrastive, lambda: {"net": mlp(4, 32, 8), "scale": nn.Parameter(torch.tensor(1.0))}),
    "weighed": (weighed, lambda: {
        "net": mlp(4, 32, 2), "a": nn.Parameter(torch.tensor(0.0)), "b": nn.Parameter(torch.tensor(0.0)),
    }),
    "a dictionary of numbers": (nested, lambda: {"net": mlp(4, 32, 32, 1)}),
    "policy gradient": (policy, lambda: {"net": mlp(4, 32, 3)}),
}  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 4)
    return x, torch.sin(x.sum(1))


def trained(model: nn.Module, given: tuple[Tensor, ...], steps: int, lr: float = 5e-3) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        found: Any = model(*given)
        (found["loss"] if isinstance(found, dict) else found).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [0, 600])
@pytest.mark.parametrize("how", HEALTHY)
def test_sound_layers_stay_without_an_error(seed: int, steps: int, how: str) -> None:
    torch.manual_seed(seed)
    run, parts = HEALTHY[how]
    model, given = Own(run, **parts()), batch()
    optimizer = trained(model, given, steps)
    report = diagnose(Problem(model, given, optimizer=optimizer))
    assert not errors(report), report.findings
    bad = {a.name: a.verdict for a in report.layers if a.verdict not in ("healthy", "undecided", "converged")}
    assert not bad


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_that_fits_is_not_exploding(seed: int) -> None:
    torch.manual_seed(seed)
    model, given = Own(squared, mlp(4, 32, 32, 1)), batch()
    report = diagnose(Problem(model, given, optimizer=trained(model, given, 2500)))
    assert report.verdict in ("undecided", "converged") and not errors(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_loss_handed_on_by_loss_fn(seed: int) -> None:
    torch.manual_seed(seed)
    model, given = Own(squared, mlp(4, 32, 32, 1)), batch()
    trained(model, given, 1500)
    assert not errors(diagnose(Problem(model, given, None, lambda loss, _: loss)))


def triplet(m: Any, *given: Tensor) -> Tensor:
    a, p, n = map(m.net, given)
    return torch.relu((a - p).norm(dim=1) - (a - n).norm(dim=1) + 0.5).mean()


def clusters() -> tuple[Tensor, ...]:
    centres = torch.randn(6, 4) * 2
    k = torch.arange(64) % 6
    return tuple(centres[i] + 0.3 * torch.randn(64, 4) for i in (k, k, (k + 1) % 6))


def margin(m: Any, a: Tensor, p: Tensor, n: Tensor) -> Tensor:
    sign = torch.where(a[:, 0] > 0, 1.0, -1.0)
    return (1 - sign * m.net(a + 3 * sign[:, None])[:, 0]).clamp(min=0).mean()


def squared_hinge(m: Any, a: Tensor, p: Tensor, n: Tensor) -> Tensor:
    sign = torch.where(a[:, 0] > 0, 1.0, -1.0)
    return F.relu(1 - sign * m.net(a + 3 * sign[:, None])[:, 0]).square().sum()


def insensitive(m: Any, a: Tensor, p: Tensor, n: Tensor) -> Tensor:
    return torch.clamp((m.net(a)[:, 0] - 0.1 * a[:, 0]).abs() - 0.3, min=0).mean()


HINGES: dict[str, Callable[..., Tensor]] = {
    "triplet": triplet, "margin": margin, "squared hinge": squared_hinge, "insensitive": insensitive,
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", HINGES)
def test_a_satisfied_hinge_has_nothing_left_to_ask(seed: int, how: str) -> None:
    torch.manual_seed(seed)
    model, given = Own(HINGES[how], mlp(4, 32, 8, act=nn.ReLU)), clusters()
    optimizer = trained(model, given, 800)
    assert model(*given).item() == 0.0
    report = diagnose(Problem(model, given, optimizer=optimizer))
    assert report.verdict == "converged", report.findings


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", HINGES)
def test_a_hinge_that_is_not_satisfied(seed: int, how: str) -> None:
    torch.manual_seed(seed)
    given = clusters()
    drawn = (Own(HINGES[how], mlp(4, 32, 8, act=nn.ReLU)) for _ in range(9))
    model = next(each for each in drawn if each(*given).item() > 0.0)  # some hinges are satisfied as drawn
    report = diagnose(Problem(model, given))
    assert not errors(report) and report.verdict != "converged"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("run", [squared, cross_entropy])
def test_a_vanished_signal_is_still_seen(seed: int, run: Any) -> None:
    torch.manual_seed(seed)
    model = Own(run, mlp(4, *[16] * 20, 2 if run is cross_entropy else 1, act=nn.Sigmoid))
    assert diagnose(Problem(model, batch())).verdict == "vanished"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("run", [squared, cross_entropy])
def test_a_dead_layer_is_still_seen(seed: int, run: Any) -> None:
    torch.manual_seed(seed)
    net = mlp(4, 16, 16, 2 if run is cross_entropy else 1, act=nn.ReLU)
    with torch.no_grad():
        net[2].get_parameter("bias").fill_(-50.0)
    assert diagnose(Problem(Own(run, net), batch())).verdict == "dead"


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_cut_off_by_a_relu_are_not_converged(seed: int) -> None:
    torch.manual_seed(seed)
    net = mlp(4, 16, 1, act=nn.ReLU)
    with torch.no_grad():
        net[2].get_parameter("bias").fill_(-10.0)
    model = Own(lambda m, x, y: ((m.net(x).relu().squeeze(1) - y.abs()) ** 2).mean(), net)
    report = diagnose(Problem(model, batch()))
    assert report.verdict != "converged" and not report.healthy


@pytest.mark.parametrize("seed", SEEDS)
def test_exploding_inside_is_still_seen(seed: int) -> None:
    torch.manual_seed(seed)
    net = mlp(4, *[32] * 20, 1)
    with torch.no_grad():
        for part in net:
            if isinstance(part, nn.Linear):
                part.weight.normal_(0, 4.0 / part.in_features**0.5)
    assert diagnose(Problem(Own(squared, net), batch())).verdict == "exploding"
