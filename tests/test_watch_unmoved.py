"""Trainings whose steps move nothing, as their loss is far too small; and those whose rate has fallen to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding

SEEDS = [0, 1, 2]
Made = Callable[[Any], torch.optim.Optimizer]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-3)


def trained(
    seed: int,
    path: Path,
    make: Made,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    steps: int = 200,
    after: Callable[[torch.optim.Optimizer], Callable[[int, float], Any]] | None = None,
    converged: int = 0,
) -> tuple[dict[str, Finding], float]:
    """A finding of each code, an error if there is one, and how far the weights went. ``after``: each step."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    x = torch.randn(512, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    before = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(converged):
        before.zero_grad()
        F.cross_entropy(net(x), y).backward()
        before.step()
    optimizer = make(net.parameters())
    then = after(optimizer) if after is not None else None
    start = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    with unvanish.watch(net, optimizer, to=path / "r.unvanish") as run:
        for step in range(steps):
            rows = torch.randint(0, 512, (64,))
            optimizer.zero_grad()
            loss = loss_of(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if then is not None:
                then(step, float(loss.detach()))
    assert run.watcher.failed == ""
    moved = (nn.utils.parameters_to_vector(net.parameters()).detach() - start).norm() / start.norm()
    return {each.code: each for each in sorted(run.findings, key=lambda each: each.level, reverse=True)}, float(moved)


def times(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, targets: factor * F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "factor"), [(sgd, 1e-8), (sgd, 1e-30), (adam, 1e-12), (adam, 1e-30)])
def test_a_loss_far_too_small_is_an_error(make: Made, factor: float, seed: int, tmp_path: Path) -> None:
    found, moved = trained(seed, tmp_path, make, times(factor))
    assert moved < 1e-5
    told = found["UV813"]
    assert told.level == "error" and told.cause == "size of the loss"
    assert ("below eps" in told.message) == (make is adam)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "factor"), [(sgd, 1.0), (sgd, 1e-3), (adam, 1.0), (adam, 1e-8)])
def test_a_small_loss_whose_steps_move_the_weights_is_none(
    make: Made, factor: float, seed: int, tmp_path: Path
) -> None:
    found, moved = trained(seed, tmp_path, make, times(factor))
    assert moved > 1e-4 and "UV813" not in found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_has_converged_moves_little_and_is_no_error(seed: int, tmp_path: Path) -> None:
    found, _ = trained(seed, tmp_path, sgd, times(1e-8), converged=600)
    assert all(each.level == "note" for each in found.values() if each.code == "UV813")


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_loss_of_ordinary_size_the_rate_is_what_is_too_small(seed: int, tmp_path: Path) -> None:
    """A rate far below a millionth, and a millionth: the loss of 1.4 is not blamed, nor is anything sure."""
    for place, rate in enumerate((1e-9, 1e-6)):
        found, _ = trained(seed, tmp_path / str(place), lambda p, rate=rate: torch.optim.SGD(p, rate), times(1.0))
        told = found["UV813"]
        assert told.level == "note" and told.cause == "learning rate"
        assert "Multiply" not in told.message and "else the rate is too small" in told.message


def test_of_a_loss_of_ones_own_it_is_not_known_whether_anything_is_left(tmp_path: Path) -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e-20 * (outputs.exp().sum(1).log() - outputs.gather(1, targets[:, None])[:, 0]).mean()

    found, _ = trained(0, tmp_path, sgd, own)
    assert found["UV813"].level == "note" and "is not known of a loss of one's own" in found["UV813"].message


def test_a_warm_up_from_nothing_is_no_fault(tmp_path: Path) -> None:
    def rises(optimizer: torch.optim.Optimizer) -> Callable[[int, float], Any]:
        optimizer.param_groups[0]["lr"] = 1e-12
        return lambda step, loss: optimizer.param_groups[0].update(lr=1e-12 + 1e-3 * step)

    assert "UV813" not in trained(0, tmp_path, sgd, times(1.0), after=rises)[0]


def halved(optimizer: torch.optim.Optimizer) -> Callable[[int, float], Any]:
    return lambda step, loss: [g.update(lr=g["lr"] * (0.5 if step > 20 else 1.0)) for g in optimizer.param_groups]


def halved_tensor(optimizer: torch.optim.Optimizer) -> Callable[[int, float], Any]:
    return lambda step, loss: optimizer.param_groups[0]["lr"].mul_(0.5 if step > 20 else 1.0)


def impatient(optimizer: torch.optim.Optimizer) -> Callable[[int, float], Any]:
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return lambda step, loss: schedule.step(loss)


def cosine(optimizer: torch.optim.Optimizer) -> Callable[[int, float], Any]:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    return lambda step, loss: schedule.step()


def of_a_tensor(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, torch.tensor(0.01))


def slow(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.01)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "after"), [(slow, halved), (of_a_tensor, halved_tensor), (slow, impatient)])
def test_a_rate_that_falls_to_nothing_before_anything_is_learned_is_an_error(
    make: Made, after: Any, seed: int, tmp_path: Path
) -> None:
    found, _ = trained(seed, tmp_path, make, times(1.0), after=after)
    assert found["UV807"].level == "error" and "the schedule is over too soon" in found["UV807"].message


@pytest.mark.parametrize("seed", SEEDS)
def test_a_regression_at_its_noise_has_learned_what_there_is(seed: int, tmp_path: Path) -> None:
    """The least loss is 4, the constant's 4.16: all was learned before the rate came to nothing."""
    torch.manual_seed(seed)
    net, x = nn.Linear(16, 1), torch.randn(4096, 16)
    y = 0.1 * x.sum(1, keepdim=True) + 2.0 * torch.randn(4096, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        for step in range(500):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.9 ** min(step, 250)
            rows = torch.randint(0, 4096, (64,))
            optimizer.zero_grad()
            F.mse_loss(net(x[rows]), y[rows]).backward()
            optimizer.step()
    assert {each.code: each.level for each in run.findings}["UV807"] == "note"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "norm", "level"), [(sgd, 1e-6, "error"), (sgd, 1.0, ""), (adam, 1e-6, "")])
def test_a_gradient_clipped_to_nothing_is_told_as_that(
    make: Made, norm: float, level: str, seed: int, tmp_path: Path
) -> None:
    """Adam divides the clipping out, as long as it is above eps."""
    torch.manual_seed(seed)
    net, x = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(512, 16)
    y, optimizer = (x @ torch.randn(16, 4)).argmax(1), make(net.parameters())
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        for _ in range(120):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), norm)
            optimizer.step()
    told = [each for each in run.findings if each.code == "UV813"]
    assert [(each.level, each.cause) for each in told] == ([(level, "clipping")] if level else [])
    assert all("Clip at a larger norm" in each.message for each in told)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_schedule_that_ends_with_the_training_is_none(seed: int, tmp_path: Path) -> None:
    found, _ = trained(seed, tmp_path, sgd, times(1.0), after=cosine)
    assert "UV807" not in found or found["UV807"].level == "note"
