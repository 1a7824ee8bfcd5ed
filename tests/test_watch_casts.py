"""Weights that a forward pass uses as they were in an earlier step: one autocast around several steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding

SEEDS = [0, 1, 2]
Way = Callable[[], AbstractContextManager[Any]]


def cast(**given: Any) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, **given)


def network(seed: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)


def watched(
    net: nn.Module, path: Path, around: Way, each: Way, every: int = 1, rate: float = 0.1, inside: bool = False
) -> list[Finding]:
    """``around``: all steps; ``each``: the forward pass of one, and where ``inside`` its step, too."""
    x = torch.randn(64, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    optimizer = torch.optim.SGD(net.parameters(), rate)

    def step() -> Tensor:
        optimizer.zero_grad()
        with each():
            loss = F.cross_entropy(net(x.to(next(net.parameters()).dtype)), y)
            if inside:
                loss.backward()
                optimizer.step()
        if not inside:
            loss.backward()
            optimizer.step()
        return loss.detach()

    with unvanish.watch(net, optimizer, every=every, to=path / "r.unvanish") as run, around():
        losses = [float(step()) for _ in range(40)]
    assert run.watcher.failed == ""
    found = [finding for finding in run.findings if finding.code == "UV812"]
    # The truth, by the losses: of a network that goes by its first weights every step's is the same.
    assert (len(set(losses)) == 1) == bool(found) or rate == 0.0
    return found


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("each", [nullcontext, cast])
def test_one_autocast_around_the_loop_is_told_at_the_next_sample(
    each: Way, seed: int, every: int, tmp_path: Path
) -> None:
    (found,) = watched(network(seed), tmp_path, cast, each, every)
    assert found.level == "error" and found.cause == "autocast around the loop"
    assert [evidence.value for evidence in found.evidence] == [0.0, every]
    assert "the bfloat16 copy of layer 0" in found.message and "cache_enabled=False" in found.message


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_around_each_pass_or_step_is_no_fault(seed: int, inside: bool, tmp_path: Path) -> None:
    assert watched(network(seed), tmp_path, nullcontext, cast, inside=inside) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_without_its_cache_or_a_copy_it_may_stand_around_all(seed: int, tmp_path: Path) -> None:
    assert watched(network(seed), tmp_path / "1", lambda: cast(cache_enabled=False), nullcontext) == []
    assert watched(network(seed, torch.bfloat16), tmp_path / "2", cast, nullcontext) == []


def test_weights_that_stand_still_are_not_used_as_they_were(tmp_path: Path) -> None:
    assert watched(network(0), tmp_path, cast, nullcontext, rate=0.0) == []


def test_a_loop_within_each_epoch_is_told_too(tmp_path: Path) -> None:
    """The copies of an epoch are let go of at its end; within it they are as old as the epoch."""
    net = network(0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(3):
            with cast():
                for _ in range(5):
                    optimizer.zero_grad()
                    F.cross_entropy(net(torch.randn(64, 16)), torch.arange(64) % 4).backward()
                    optimizer.step()
    assert "UV812" in {finding.code for finding in run.findings}
