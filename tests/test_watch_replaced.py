"""A training whose optimizer was made before a layer was replaced: it moves a layer that no model has any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding


def found(net: nn.Sequential, optimizer: torch.optim.Optimizer, path: Path, classes: int) -> list[Finding]:
    x, y = torch.randn(64, 16), torch.randint(0, classes, (64,))
    with unvanish.watch(net, optimizer, every=1, to=path / "r.unvanish") as run:
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert run.watcher.failed == ""
    return [each for each in run.findings if each.code == "UV605"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [4, 10])
def test_an_optimizer_made_before_its_layer_was_replaced_is_an_error(seed: int, classes: int, tmp_path: Path) -> None:
    """Of as many classes, or of others, as where a trained network gets a new head."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net[2] = new = nn.Linear(32, classes)
    before = new.weight.detach().clone()
    (told,) = found(net, optimizer, tmp_path, classes)
    assert torch.equal(new.weight, before)
    assert told.level == "error" and told.layers == ("2",)
    assert "One holds 132 parameters of such shapes that no model has any more" in told.message  # 4 · 32 + 4


@pytest.mark.parametrize("kind", ["left out", "trained elsewhere", "of another shape"])
def test_without_such_a_layer_it_is_a_note(kind: str, tmp_path: Path) -> None:
    """What the optimizer holds besides is trained elsewhere, or cannot have stood where it leaves a layer out."""
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    other = nn.Linear(32, 4) if kind == "trained elsewhere" else nn.Linear(7, 3)
    more = [] if kind == "left out" else list(other.parameters())
    optimizer = torch.optim.SGD([*net[0].parameters(), *more], 0.1)
    if kind == "trained elsewhere":
        net[0].register_forward_hook(lambda *given: other(torch.ones(1, 32)).sum().backward())
    (told,) = found(net, optimizer, tmp_path, 4)
    assert told.level == "note" and told.layers == ("2",) and "requires_grad_(False) says so" in told.message
