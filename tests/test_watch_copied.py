"""A model that is saved or copied while it is watched is the model alone, and the watched one stays watched."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unvanish


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "torch.save": saved,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "an old pickle": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def seen_by_user(module: nn.Module, args: Any) -> None:
    """A hook of the user's own."""


def hooks(model: nn.Module) -> list[Any]:
    return [
        hook
        for each in model.modules()
        for kept in (each._forward_hooks, each._forward_pre_hooks)
        for hook in kept.values()
    ]


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_the_users_hooks_and_none_of_ours(way: str, every: int, tmp_path: Path) -> None:
    net = network()
    net[0].register_forward_pre_hook(seen_by_user)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=every, to=tmp_path / "r.unvanish") as run:
        for step in range(13):
            optimizer.zero_grad()
            net(torch.ones(3, 4)).square().mean().backward()
            if step in (0, 4):
                before = hooks(net)
                assert len(before) > 1
                other = WAYS[way](net)
                assert hooks(net) == before
                assert not (other._forward_hooks or other._forward_pre_hooks)
                assert way == "copy" or hooks(other) == [seen_by_user]  # which shares what is inside
                assert torch.equal(other(torch.ones(3, 4)), net(torch.ones(3, 4)))
            optimizer.step()
    assert run.watcher.failed == ""
    assert unvanish.load_run(run.path).steps == tuple(range(0, 13, every))
    assert "__reduce_ex__" not in nn.Module.__dict__


SCRIPT = """
import torch
from torch import nn
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for step in range(3):
    optimizer.zero_grad()
    net(torch.ones(3, 4)).square().mean().backward()
    optimizer.step()
    torch.save(net, "net.pt")
"""


def test_a_script_may_save_its_whole_model_and_what_it_saved_needs_none_of_us(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    words = [sys.executable, "-m", "unvanish", "run", "-o", "r.unvanish", "train.py"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"unvanish" not in (tmp_path / "net.pt").read_bytes()
