"""Weights that weight decay has taken: the layers vanish, and it is the decay that a new start would fall to again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding

SEEDS = [0, 1, 2]


def classes(seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(512, 16)
    return x, (x @ torch.randn(16, 4)).argmax(1)


def network(depth: int = 2, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(16, 64), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(64, 64), activation()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    rows = torch.randint(0, len(x), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(x[rows]), y[rows]).backward()
    optimizer.step()


def watched(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int, path: Path) -> Finding:
    x, y = classes(seed)
    with unvanish.watch(net, optimizer, to=path / "r.unvanish") as run:
        for _ in range(200):
            step(net, optimizer, x, y)
    assert run.watcher.failed == ""
    return next(each for each in run.findings if each.code == "UV101")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rate", "momentum"), [(0.1, 0.0), (0.01, 0.9)])
def test_a_training_tells_how_the_weights_went(rate: float, momentum: float, seed: int, tmp_path: Path) -> None:
    net = network()
    before = torch.cat([p.detach().flatten() for p in net.parameters()]).norm()
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum, weight_decay=0.5)
    told = watched(net, optimizer, seed, tmp_path)
    after = torch.cat([p.detach().flatten() for p in net.parameters()]).norm()
    assert after < 0.1 * before
    assert told.level == "error" and told.cause == "weight decay" and told.remedies[0] == "no-weight-decay"
    assert "weight decay alone takes 5% of them at every step" in told.message  # 0.1 · 0.5, and 0.01 · 0.5 / (1 - 0.9)
    values = {each.name: each.value for each in told.evidence}
    gone, alone = values["log10 of what the weights have lost"], values["log10 of what decay alone takes in that time"]
    assert gone is not None and alone is not None and 1.0 <= gone <= alone


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_layers_that_vanish_by_their_slopes_are_not_put_down_to_it(decay: float, seed: int, tmp_path: Path) -> None:
    net = network(12, nn.Sigmoid)
    told = watched(net, torch.optim.SGD(net.parameters(), 0.1, weight_decay=decay), seed, tmp_path)
    assert told.level == "error" and told.cause != "weight decay" and "decay" not in told.message


@pytest.mark.parametrize("late", [False, True])
def test_weights_that_something_else_took_are_not_put_down_to_it(late: bool, tmp_path: Path) -> None:
    """They are shrunk by hand, faster than a decay of 0.001 a step could, or than a fast one that begins when they are
    gone: what it takes now it has not taken in all steps before."""
    net, (x, y) = network(), classes(0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=1e-2)
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        for at in range(200):
            if late and at == 60:
                optimizer.param_groups[0]["weight_decay"] = 0.5
            step(net, optimizer, x, y)
            with torch.no_grad():
                for each in net.parameters():
                    each.mul_(0.95)
    told = next(each for each in run.findings if each.code == "UV101")
    assert told.cause != "weight decay" and "decay" not in told.message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decay", [0.5, 1e-4])
def test_a_check_of_what_is_left_names_fast_decay_beside_it(decay: float, seed: int) -> None:
    """Both ways with weights as small as a decay of 0.5 leaves them: with that decay, and with an ordinary one."""
    net, (x, y) = network(), classes(seed)
    eating = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.5)
    for _ in range(200):
        step(net, eating, x, y)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=decay)
    report = unvanish.diagnose(net, x, y, F.cross_entropy, optimizer=optimizer, steps=300)
    told = [(each.code, each.level) for each in report.findings]
    assert told[0] == ("UV101", "error")
    assert (("UV406", "note") in told) == (decay == 0.5)
