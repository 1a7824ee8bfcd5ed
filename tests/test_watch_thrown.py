"""Units that a step has thrown off, and what the headline then says; layers that are thawed while they are watched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish

SEEDS = [0, 1]


def _watched(rate: float, shut: bool, seed: int, path: Path) -> unvanish.watching.run.Run:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    if shut:
        nn.init.constant_(net.get_parameter("2.bias"), -100.0)
    # all inputs are positive, so that a step moves all weights of a unit alike and can shut it; and nothing is to learn
    x, y = torch.rand(64, 16) + 0.5, torch.randint(5, (64,))
    optimizer = torch.optim.Adam(net.parameters(), rate)
    with unvanish.watch(net, optimizer, every=5, to=path) as run:
        for _ in range(41):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return unvanish.load_run(run.path)


@pytest.mark.parametrize("seed", SEEDS)
def test_units_that_a_large_step_has_thrown_off_are_said_to_be_its_doing(seed: int, tmp_path: Path) -> None:
    run = _watched(0.3, False, seed, tmp_path / "r.unvanish")
    report = run.report()
    assert max(run.by_layer("dead_fraction")["2"]) > 0.9 > run.by_layer("dead_fraction")["2"][0] + 0.3
    assert report.verdict == "lr_too_large"
    (large,) = [each for each in report.findings if each.code == "UV704"]
    assert large is report.findings[0] and large.level == "error" and "lr-0.1" in large.remedies
    assert {each.code for each in report.findings} & {"UV301", "UV303"}


@pytest.mark.parametrize("seed", SEEDS)
def test_units_that_were_off_from_the_start_are_not(seed: int, tmp_path: Path) -> None:
    report = _watched(1e-3, True, seed, tmp_path / "r.unvanish").report()
    assert report.verdict == "dead" and not [each for each in report.findings if each.code == "UV704"]


def test_layers_that_are_thawed_one_after_the_other_are_not_called_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    net[:4].requires_grad_(False)
    optimizer = torch.optim.SGD(net[4].parameters(), 0.1)
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        for step in range(16):
            if step in (4, 8):
                layer = net[2] if step == 4 else net[0]
                optimizer.add_param_group({"params": layer.requires_grad_(True).parameters()})
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    read = unvanish.load_run(run.path)
    assert not [each for each in run.findings if each.verdict == "frozen"]
    assert [each.verdict for each in read.report().layers] == ["healthy"] * 3 and not read.report().findings


@pytest.mark.parametrize("steps_at", [0, 6, 99])
def test_layers_whose_own_optimizer_makes_no_step_are_told_of_until_it_does(steps_at: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 3)
    net = nn.Sequential(body, head)
    optimizers = torch.optim.SGD(body.parameters(), 0.1), torch.optim.Adam(head.parameters())
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    with unvanish.watch(net, optimizers, every=1, to=tmp_path / "r.unvanish") as run:
        for step in range(12):
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizers[0].step()
            if step >= steps_at:
                optimizers[1].step()
    found = [each for each in run.findings if each.code == "UV605"]
    assert [(each.layers, each.level, "Adam, which holds it, has made no step" in each.message) for each in found] == (
        [(("1",), "note", True)] if steps_at else []
    )
    left = [each for each in unvanish.load_run(run.path).report().findings if each.code == "UV605"]
    assert len(left) == (steps_at == 99)
