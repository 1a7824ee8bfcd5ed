"""Watching changes nothing: losses, weights, the optimizer's state and the random state, bit for bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import unvanish
from unvanish.flow import slopes
from unvanish.watching import shut

STEPS = 12
Losses = list[float]


def batches(seed: int = 1, count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 12, generator=generator), torch.randint(0, 3, (16,), generator=generator))
        for _ in range(count)
    ]


def network(dropout: float = 0.2) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(24, 24),
        nn.Tanh(),
        nn.Linear(24, 3),
    )


class Counting(nn.Module):
    """A forward that counts its calls and branches on the count and on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(12, 8), nn.Linear(8, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = torch.relu(self.a(x))
        if self.calls % 3 == 0 or float(x.mean()) > 0.05:
            h = h * 1.5
        return self.b(h)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.reentrant = (
            nn.Linear(12, 24),
            nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Dropout(0.1)),
            nn.Linear(24, 3),
            reentrant,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c(checkpoint(self.b, torch.relu(self.a(x)), use_reentrant=self.reentrant))


def plain(
    make: Callable[[Any], torch.optim.Optimizer], model: Callable[[], nn.Module] = network, cast: Any = None
) -> Any:
    def train(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
        net = model()
        optimizer = make(net.parameters())
        losses: Losses = []
        with watch(net, optimizer):
            for x, y in batches():
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=cast) if cast else nullcontext():
                    loss = F.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return losses, net, optimizer

    return train


def lbfgs(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
    net = network(0.0)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=4)
    losses: Losses = []
    with watch(net, optimizer):
        for x, y in batches():

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
    return losses, net, optimizer


def accumulated(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses: Losses = []
    with watch(net, optimizer):
        for at, (x, y) in enumerate(batches(count=3 * STEPS)):
            loss = F.cross_entropy(net(x), y) / 3
            loss.backward()
            losses.append(loss.item())
            if at % 3 == 2:
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
    return losses, net, optimizer


def scaled(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    losses: Losses = []
    with watch(net, optimizer):
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    return losses, net, optimizer


def gan(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
    made, judge = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12)), network()
    judge[-1] = nn.Linear(24, 1)
    of_made, of_judge = torch.optim.Adam(made.parameters(), 1e-3), torch.optim.Adam(judge.parameters(), 1e-3)
    losses: Losses = []
    with watch({"made": made, "judge": judge}, [of_judge, of_made]):
        for x, _ in batches():
            z = torch.randn(16, 4)
            of_judge.zero_grad()
            loss = F.softplus(-judge(x)).mean() + F.softplus(judge(made(z).detach())).mean()
            loss.backward()
            of_judge.step()
            of_made.zero_grad()
            other = F.softplus(-judge(made(z))).mean()
            other.backward()
            of_made.step()
            losses += [loss.item(), other.item()]
    return losses, nn.ModuleList([made, judge]), of_made


def penalised(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any]:
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses: Losses = []
    with watch(net, optimizer):
        for x, _ in batches():
            x.requires_grad_(True)
            out = net(x)
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            loss = out.mean() + ((slope.norm(dim=1) - 1) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, net, optimizer


WEIGHT = [1.0]  # that a forward reads and writes
CALLS = 0


def warmer() -> float:
    WEIGHT[0] += 0.01
    return WEIGHT[0]


class Moody(nn.Module):
    """A forward that depends on what is outside of it, and changes it."""

    seen = 0

    def __init__(self) -> None:
        global CALLS
        super().__init__()
        self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 3)
        WEIGHT[0], CALLS, Moody.seen = 1.0, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        Moody.seen += 2
        h = torch.relu(self.a(x)) * (1.0 if warmer() > 1.05 else 1.5)
        return self.b(h * (1.0 + 0.1 * (CALLS % 7 == 3) + 0.1 * (Moody.seen % 5 == 2)))


CASES: dict[str, Any] = {
    "outer state": plain(lambda p: torch.optim.Adam(p, 1e-2), Moody),
    "sgd": plain(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "adam": plain(lambda p: torch.optim.Adam(p, 1e-2)),
    "adamw-fused": plain(lambda p: torch.optim.AdamW(p, 1e-2, fused=True)),
    "adamw-foreach": plain(lambda p: torch.optim.AdamW(p, 1e-2, foreach=True)),
    "autocast": plain(lambda p: torch.optim.Adam(p, 1e-2), cast=torch.bfloat16),
    "counting": plain(lambda p: torch.optim.Adam(p, 1e-2), Counting),
    "checkpoint": plain(lambda p: torch.optim.Adam(p, 1e-2), lambda: Checkpointed(False)),
    "checkpoint-reentrant": plain(lambda p: torch.optim.Adam(p, 1e-2), lambda: Checkpointed(True)),
    "lbfgs": lbfgs,
    "accumulated": accumulated,
    "scaled": scaled,
    "gan": gan,
    "penalised": penalised,
}


def same(one: Any, other: Any) -> bool:
    """Bit for bit, whatever holds the tensors."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(("every", "check_every"), [(1, None), (5, None), (3, 2)])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # by LBFGS of torch 2.8
def test_a_watched_training_is_the_training(name: str, every: int, check_every: int | None, tmp_path: Path) -> None:
    """With ``check_every`` steps are run again in between, as they are where a number is not finite."""
    shut._known.clear()
    slopes._known.clear()  # the first look at an activation tries it, wherever that is: in a checkpoint, too

    def run(watch: Callable[[Any, Any], Any]) -> tuple[Losses, Any, Any, Tensor]:
        torch.manual_seed(3)
        return *CASES[name](watch), torch.get_rng_state()

    plain_losses, plain_net, plain_optimizer, plain_random = run(lambda model, optimizer: nullcontext())
    watched: list[Any] = []

    def watch(model: Any, optimizer: Any) -> Any:
        path = tmp_path / "run.unvanish"
        watched.append(unvanish.watch(model, optimizer, every=every, check_every=check_every, to=path))
        return watched[0]

    losses, net, optimizer, random = run(watch)
    assert watched[0].watcher.failed == ""
    assert losses == plain_losses
    assert torch.equal(random, plain_random)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain_net.state_dict().values(), strict=True)
    )
    assert same(optimizer.state_dict(), plain_optimizer.state_dict())
    assert not same(optimizer.state_dict(), {}) and same({"a": [random]}, {"a": [random.clone()]})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    run_read = unvanish.load_run(tmp_path / "run.unvanish")
    assert len(run_read.steps) >= {1: 8, 3: 3, 5: 2}[every]
    assert (run_read.full_report() is not None) == (check_every is not None)
    assert run_read.facts["failed"] == ""
    assert not any(hasattr(each, "__wrapped__") for each in (Tensor.backward, torch.autograd.backward))


def test_calls_that_lead_to_no_step_keep_no_graph(tmp_path: Path) -> None:
    """A validation without no_grad: of each batch only its inputs are held, and of few batches."""
    made: list[weakref.ref[Any]] = []

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            hidden = super().forward(x).square()
            made.append(weakref.ref(hidden))
            return hidden.exp()

    net = Net(3, 8192)
    with unvanish.watch(net, torch.optim.SGD(net.parameters(), 0.1), to=tmp_path):
        for _ in range(3):
            net(torch.randn(4, 3))
        assert [each() for each in made] == [None] * 3
