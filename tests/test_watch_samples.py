"""Of how many samples the numbers of a step are: those whose gradients the optimizer reads, each once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish


def network(inputs: int = 4, end: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, end))


def adversaries(watch: Callable[..., Any]) -> None:
    """The second optimizer's gradients are of one batch of 8, and not of the two that the first one saw as well."""
    made, judge = network(3, 4), network()
    of_judge, of_made = (torch.optim.SGD(each.parameters(), 0.1) for each in (judge, made))
    with watch({"made": made, "judge": judge}, [of_judge, of_made]):
        fake = made(torch.randn(8, 3))
        F.softplus(-judge(torch.randn(8, 4))).mean().add(F.softplus(judge(fake.detach())).mean()).backward()
        of_judge.step()
        of_made.zero_grad()
        F.softplus(-judge(fake)).mean().backward()
        of_made.step()


def closure(watch: Callable[..., Any]) -> None:
    net, x = network(), torch.randn(8, 4)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=5)

    def again() -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) - x[:, :1]).square().mean()
        loss.backward()
        return loss

    with watch(net, optimizer):
        optimizer.step(again)


def rollout(watch: Callable[..., Any]) -> None:
    """One state at a time, without a dimension of samples; more calls than are held."""
    net = network(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with watch(net, optimizer):
        torch.stack([net(torch.randn(4)).log_softmax(-1)[0] for _ in range(20)]).sum().backward()
        optimizer.step()


class Scalars(nn.Module):
    """Takes a vector of scalars, each a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1, 2)

    def forward(self, t: Tensor) -> Tensor:
        return self.net(t[:, None])


def scalars(watch: Callable[..., Any]) -> None:
    net = Scalars()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with watch(net, optimizer):
        net(torch.randn(12)).square().mean().backward()
        optimizer.step()


def micro_batches(watch: Callable[..., Any]) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with watch(net, optimizer):
        for _ in range(11):  # more than are held
            (net(torch.randn(4, 4)).square().mean() / 11).backward()
        optimizer.step()


def twice_backward(watch: Callable[..., Any]) -> None:
    """Two optimizers read what came of one forward pass, each after a backward of its own."""
    net = network()
    optimizers = [torch.optim.SGD(net[at].parameters(), 0.1) for at in (0, 2)]
    with watch(net, optimizers):
        out = net(torch.randn(6, 4))
        grads = [out.square().mean(), out.mean()]
        grads[0].backward(retain_graph=True)
        grads[1].backward()
        for each in optimizers:
            each.step()


CASES: dict[str, tuple[Callable[..., None], dict[str, int]]] = {
    "two adversaries": (adversaries, {"judge.0": 16, "judge.2": 16, "made.0": 8, "made.2": 8}),
    "a closure that runs five times": (closure, {"0": 8, "2": 8}),
    "single vectors": (rollout, {"0": 20, "2": 20}),
    "a vector of scalars": (scalars, {"net.0": 12, "net.2": 12}),
    "micro-batches": (micro_batches, {"0": 44, "2": 44}),
    "two backward passes of one forward": (twice_backward, {"0": 6, "2": 6}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_sample_counts_once(name: str, tmp_path: Path) -> None:
    """The signal of a layer is the root of that many times the norm of what came back to its outputs."""
    torch.manual_seed(0)
    run, wanted = CASES[name]
    watched: list[Any] = []
    found: dict[str, int] = {}
    norms: dict[str, float] = {}

    def watch(model: Any, optimizer: Any) -> Any:
        watched.append(unvanish.watch(model, optimizer, every=1, to=tmp_path / "r.unvanish"))
        watcher = watched[0].watcher
        enter = type(watcher.now).enter

        def seen(now: Any, sizes: Any, signals: Any, shares: Any, samples: int, places: Any) -> None:
            for at in sizes:
                found[watcher.columns[at].name] = samples
                norms[watcher.columns[at].name] = signals[at] - 0.5 * math.log10(samples)
            enter(now, sizes, signals, shares, samples, places)

        watcher.now.enter = seen.__get__(watcher.now)
        return watched[0]

    run(watch)
    assert watched[0].watcher.failed == ""
    assert found == wanted
    record = unvanish.load_run(tmp_path / "r.unvanish")
    assert record.report().setting.batch_size == max(wanted.values())
    for layer, norm in norms.items():
        signal = record.by_layer("log10_signal")[layer][0]
        assert signal == pytest.approx(norm + 0.5 * math.log10(wanted[layer]), abs=1e-5)


@pytest.mark.parametrize("sizes", [(4, 16, 8), (8, 4)])
def test_the_report_has_the_samples_of_its_own_step(sizes: tuple[int, ...], tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish"):
        for size in sizes:
            optimizer.zero_grad()
            net(torch.randn(size, 4)).square().mean().backward()
            optimizer.step()
    assert unvanish.load_run(tmp_path / "r.unvanish").report().setting.batch_size == sizes[-1]


def test_where_no_call_is_seen_the_number_is_not_known_and_not_one(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish"):
        for each in net.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()
    report = unvanish.load_run(tmp_path / "r.unvanish").report()
    assert report.setting.batch_size == 0
    assert "an unknown number of samples" in str(report)
    assert report.healthy and "No layer could be judged: of none of them an error signal was seen" in str(report)
