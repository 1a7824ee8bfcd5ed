"""Twenty numbers that stop being finite at a known step: the step and the call are named, also between samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import PLANTED, PLANTS, train

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
