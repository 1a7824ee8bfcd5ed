"""What makes a step, and which calls are held: optimizers in turns, models that are called whole or in parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish


def pair() -> tuple[nn.Module, nn.Module, Any, Any]:
    torch.manual_seed(0)
    made, judge = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    judge.append(nn.Linear(8, 1))
    return made, judge, torch.optim.SGD(made.parameters(), 0.01), torch.optim.SGD(judge.parameters(), 0.01)


def judged(judge: Any, made: Any, optimizer: Any) -> float:
    optimizer.zero_grad()
    loss = F.softplus(judge(made(torch.randn(16, 3)).detach())).mean() + F.softplus(-judge(torch.randn(16, 4))).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def forged(judge: Any, made: Any, optimizer: Any) -> float:
    optimizer.zero_grad()
    loss = F.softplus(-judge(made(torch.randn(16, 3)))).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def signals(run: unvanish.Run, layer: str) -> list[bool]:
    return [math.isfinite(each) for each in run.by_layer("log10_signal")[layer]]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_optimizers_that_take_turns_make_a_step_together_and_one_that_comes_again_steps_of_its_own(
    times: int, tmp_path: Path
) -> None:
    made, judge, of_made, of_judge = pair()
    losses: list[float] = []
    models = {"made": made, "judge": judge}
    with unvanish.watch(models, [of_judge, of_made], every=1, to=tmp_path / "r.unvanish") as watched:
        for _ in range(4):
            for _ in range(times):
                losses.append(judged(judge, made, of_judge))
            losses.append(forged(judge, made, of_made))
    run = unvanish.load_run(tmp_path / "r.unvanish")
    assert run.facts["failed"] == ""
    count = 4 if times == 1 else 4 * (times + 1)
    assert len(run.steps) == watched.step == count
    of_the_made = [4 * [True] if times == 1 else (times * [False] + [True]) * 4][0]
    assert signals(run, "made.0") == of_the_made
    if times == 1:
        assert signals(run, "judge.0") == 4 * [True]
        assert run.whole("loss") == pytest.approx(losses[1::2])  # the one whose gradient the last optimizer saw
    else:
        assert run.whole("loss") == pytest.approx(losses)
        seen = signals(run, "judge.0")
        assert seen[2:] == [not each for each in of_the_made[2:]]  # from the second on, which told that they part


def test_a_second_optimizer_that_takes_over_is_sampled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    both = [torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(net.parameters(), 1e-3)]
    with unvanish.watch(net, both, every=1, to=tmp_path / "r.unvanish"):
        for step in range(10):
            optimizer = both[step >= 5]
            optimizer.zero_grad()
            net(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    run = unvanish.load_run(tmp_path / "r.unvanish")
    assert len(run.steps) == 10
    assert all(signals(run, "0")[2:])
    assert run.whole("learning_rate")[2:] == pytest.approx([0.1] * 3 + [1e-3] * 5)


class Root(nn.Module):
    """A part of a model that breaks where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.breaks = nn.Linear(4, 4), False

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return torch.sqrt(-1.0 - x.abs()) if self.breaks else x


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = Root(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(x)))


@pytest.mark.parametrize("parts", [False, True])
def test_a_model_that_is_called_in_parts_is_run_again_in_parts(parts: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Whole()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=100, to=tmp_path / "r.unvanish") as run:
        for step in range(6):
            net.inner.breaks = step == 4
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            out = net.head(torch.relu(net.inner(x))) if parts else net(x)
            out.square().mean().backward()
            optimizer.step()
            if step == 2:  # nothing is sampled: the children of a model that is called whole carry no hook
                assert bool(net.inner._forward_pre_hooks) == parts
    found = [each for each in run.findings if each.verdict == "nonfinite"]
    assert len(found) == 1 and "at step 4" in found[0].message and "sqrt" in found[0].message, run.findings


def test_a_model_that_is_called_whole_and_later_in_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Whole()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=100, to=tmp_path / "r.unvanish") as run:
        for step in range(8):
            net.inner.breaks = step == 6
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            out = net.head(torch.relu(net.inner(x))) if step > 3 else net(x)
            out.square().mean().backward()
            optimizer.step()
    found = [each for each in run.findings if each.verdict == "nonfinite"]
    assert len(found) == 1 and "at step 6" in found[0].message and "sqrt" in found[0].message, run.findings
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_check_that_comes_too_late_in_its_step_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(6, 8), nn.Linear(8, 1)
    net = nn.Sequential(body, nn.Tanh(), head)
    first, second = torch.optim.SGD(body.parameters(), 0.1), torch.optim.Adam(head.parameters())
    with unvanish.watch(net, [first, second], every=2, check_every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(4):
            net.zero_grad()
            net(torch.randn(16, 6)).square().mean().backward()
            first.step()
            second.step()
    refused = [each.getMessage() for each in caplog.records if "no full check" in each.getMessage()]
    assert len(refused) == 1 and "another optimizer has already moved weights of the model" in refused[0]
    assert run.report().layers
