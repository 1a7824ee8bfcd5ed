"""Threads beside the training: one that only asks a model is no part of it, and two trainings at once are not mixed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import unvanish


class Waits(nn.Module):
    """Lets ``between`` run in the middle of its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.between: Callable[[], None] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        self.between()
        return self.last(h)


def in_a_thread(act: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    return run


def step(net: Waits, optimizer: torch.optim.Optimizer, between: Callable[[], None]) -> float:
    optimizer.zero_grad()
    net.between = between
    out = net(torch.ones(6, 4))
    net.between = lambda: None
    loss = out.square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def asks(net: Waits) -> Callable[[], None]:
    def ask() -> None:
        between, net.between = net.between, lambda: None
        with torch.no_grad():
            net(torch.ones(50, 4))
        net.between = between

    return in_a_thread(ask)


def network(seed: int = 0) -> tuple[Waits, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = Waits()
    return net, torch.optim.SGD(net.parameters(), 0.1)


@pytest.mark.parametrize("every", [1, 3])
def test_a_thread_that_only_asks_the_model_is_no_part_of_the_step(every: int, tmp_path: Path) -> None:
    found = []
    for name in ("alone", "asked"):
        net, optimizer = network()
        with unvanish.watch(net, optimizer, every=every, to=tmp_path / f"{name}.unvanish") as run:
            losses = [step(net, optimizer, asks(net) if name == "asked" else lambda: None) for _ in range(4)]
        assert run.watcher.failed == ""
        record = unvanish.load_run(run.path)
        assert record.report().setting.batch_size == 6
        found.append((losses, record.by_layer("log10_signal"), record.by_layer("dead_fraction")))
    assert str(found[0]) == str(found[1])  # not a number is not equal to itself


def test_two_trainings_at_once_are_not_mixed_and_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def train(watched: bool) -> list[float]:
        (one, of_one), (other, of_other) = network(0), network(1)
        losses: list[float] = []
        beside = in_a_thread(lambda: losses.append(step(other, of_other, lambda: None)))
        run = unvanish.watch([one, other], [of_one, of_other], every=1, to=tmp_path / "r.unvanish") if watched else None
        for _ in range(3):
            losses.append(step(one, of_one, beside))
        if run is not None:
            assert run.watcher.failed.startswith("two threads train at the same time")
            run.close()
        return losses

    assert train(True) == train(False)
    assert len([each for each in caplog.records if "two threads train" in each.getMessage()]) == 1
    assert not torch.overrides._get_current_function_mode_stack() and not _get_current_dispatch_mode_stack()


def test_trainings_one_after_the_other_in_threads_of_their_own_are_watched(tmp_path: Path) -> None:
    net, optimizer = network()
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(3):
            in_a_thread(lambda: step(net, optimizer, lambda: None))()
    assert run.watcher.failed == ""
    assert unvanish.load_run(run.path).steps == (0, 1, 2)
