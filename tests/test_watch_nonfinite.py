"""Twenty numbers that stop being finite at a known step: the step and the call are named, also between samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import PLANTED, PLANTS, train
from torch import nn
from torch.nn import functional as F

import unvanish


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("name", PLANTS)
def test_the_step_and_the_call_are_named(name: str, every: int, tmp_path: Path) -> None:
    plant, runs = PLANTS[name], []

    def watch(model: Any, optimizer: Any) -> Any:
        runs.append(unvanish.watch(model, optimizer, every=every, to=tmp_path / "run.unvanish"))
        return runs[0]

    net = train(plant, watch)
    assert not all(bool(torch.isfinite(p).all()) for p in net.parameters())  # the fault is one
    assert runs[0].watcher.failed == ""
    found = [each for each in runs[0].findings if each.verdict == "nonfinite"]
    assert len(found) == 1, runs[0].findings
    assert found[0].level == "error"
    assert f"at step {PLANTED}:" in found[0].message
    assert plant.call in found[0].message, found[0].message
    assert found[0].code == {"backward": "UV502"}.get(plant.born, "UV501")


@pytest.mark.parametrize("fault", [True, False])
def test_a_scale_below_one_does_not_overflow_anything(fault: bool, tmp_path: Path) -> None:
    """A part of the loss that takes a weight itself, with an infinite slope: no smaller scale mends it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer, scaler = torch.optim.SGD(net.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=16.0)
    with unvanish.watch(net, optimizer, every=3, to=tmp_path / "r.unvanish") as run:
        for step in range(14):
            x = torch.randn(16, 4)
            loss = F.cross_entropy(net(x), x[:, :3].argmax(1))
            if fault and step > 3:
                loss = loss * ((list(net.parameters())[-1] * 0.0).sum().sqrt() + 1.0)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    found = [(each.code, each.layers) for each in run.findings if each.level == "error"]
    assert found == ([("UV502", ("2",))] if fault else [])
    if fault:
        (message,) = [each.message for each in run.findings if each.level == "error"]
        assert "past these outputs" in message and "sqrt" in message
