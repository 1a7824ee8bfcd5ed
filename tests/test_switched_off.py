"""Branches and penalties that are multiplied by zero are switched off, not dead; what is dead stays so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem

SEEDS = range(3)
Loss = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """A stem, a head, and a layer aside; the forward pass is a function of them."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.run, self.stem, self.head, self.aside = run, nn.Linear(8, 32), nn.Linear(32, 2), nn.Linear(32, 32)
        self.register_buffer("warm", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def hidden(net: Any, x: Tensor) -> Tensor:
    return torch.relu(net.stem(x))


def beside(net: Any, x: Tensor, times: Callable[[Any, Tensor], Tensor]) -> Tensor:
    h = hidden(net, x)
    return net.head(h + times(net, net.aside(h)))


def alone(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def both(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h = hidden(net, x)
    return net.head(h), torch.relu(net.aside(h))


CASES: dict[str, tuple[Callable[[Any, Tensor], Any], Loss]] = {
    "a penalty times 0 in the loss": (both, lambda o, t: F.cross_entropy(o[0], t) + 0.0 * o[1].square().mean()),
    "a weight that is a tensor": (both, lambda o, t: F.cross_entropy(o[0], t) + torch.zeros(()) * o[1].square().mean()),
    "a sum times 0": (lambda net, x: beside(net, x, lambda _, a: 0 * a.sum()), alone),
    "a branch times 0": (lambda net, x: beside(net, x, lambda _, a: 0.0 * a.relu()), alone),
    "a warm-up at 0": (lambda net, x: beside(net, x, lambda n, a: n.warm * a), alone),
    "multiplied in place": (lambda net, x: beside(net, x, lambda _, a: a.mul_(0.0)), alone),
}


def report_of(
    run: Callable[[Any, Tensor], Any], loss: Loss, seed: int, change: Callable[[Any], Any] | None = None
) -> Any:
    with seeded(seed):
        model, x = Net(run), torch.randn(64, 8)
    if change is not None:
        change(model)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    return diagnose(Problem(model, x, (x[:, 0] > 0).long(), loss, adam))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_layer_that_is_multiplied_by_zero_is_switched_off(name: str, seed: int) -> None:
    report = report_of(*CASES[name], seed)
    assert report.healthy
    assert {layer.name: layer.verdict for layer in report.layers} == {
        "stem": "healthy", "head": "healthy", "aside": "unused",
    }  # fmt: skip
    finding = next(f for f in report.findings if f.code == "UV602")
    assert (
        finding.level == "note"
        and finding.layers == ("aside",)
        and "test_switched_off.py" in finding.message.partition("multiplied by zero at ")[2]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_at_any_other_weight_it_takes_part(seed: int) -> None:
    def opened(model: Any) -> None:
        model.warm.fill_(0.5)

    assert not report_of(*CASES["a warm-up at 0"], seed, opened).findings


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_dead_stays_dead(seed: int) -> None:
    def never(model: Any) -> None:
        model.aside.bias.data.fill_(-100.0)

    branch = report_of(lambda n, x: beside(n, x, lambda _, a: a.relu()), alone, seed, never)
    assert branch.verdict == "dead"
    trunk = report_of(lambda n, x: n.head(n.aside(0.0 * hidden(n, x)).relu()), alone, seed)
    assert {layer.name: layer.verdict for layer in trunk.layers}["stem"] == "dead" and not trunk.healthy
    loss = report_of(lambda n, x: n.head(n.aside(hidden(n, x))), lambda o, t: 0.0 * F.cross_entropy(o, t), seed)
    assert loss.verdict == "no_signal"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_module_that_is_used_elsewhere_too_is_in_use(seed: int) -> None:
    def twice(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(net.aside(hidden(net, x)))
        return net.head(h), net.aside(h)

    report = report_of(twice, lambda o, t: F.cross_entropy(o[0], t) + 0.0 * o[1].square().mean(), seed)
    assert "UV602" not in {f.code for f in report.findings}
