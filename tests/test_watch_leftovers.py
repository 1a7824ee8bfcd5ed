"""What lies beside the samples: turns of several optimizers, two softmaxes in one, buffers, norms beyond float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding
from unvanish.watching.carried import LOOK
from unvanish.watching.norms import norm, norms
from unvanish.watching.resting import odd_buffers
from unvanish.watching.step import is_sampled


@pytest.mark.parametrize("every", [1, 2, 3, 10, 64])
def test_each_stretch_has_one_sample_and_no_cycle_hides_from_them(every: int) -> None:
    steps = [step for step in range(500 * every) if is_sampled(step, every, True)]
    assert [step // every for step in steps] == [*range(500)]
    assert [step for step in range(100) if is_sampled(step, every, False)] == [*range(0, 100, every)]
    for cycle in range(2, 13):
        assert {step % cycle for step in steps} == {*range(cycle)}


@pytest.mark.parametrize("turns", [2, 5])
@pytest.mark.parametrize("saturated", [True, False])
def test_a_generator_behind_several_steps_of_its_critic_is_sampled(turns: int, saturated: bool, tmp_path: Path) -> None:
    """With five steps of the critic, and one of it, an even stride of ten would never meet the generator."""
    torch.manual_seed(turns)
    act, depth = (nn.Sigmoid, 14) if saturated else (nn.Tanh, 2)
    made = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(6, 6), act())], nn.Linear(6, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    first, second = torch.optim.Adam(critic.parameters(), 1e-4), torch.optim.Adam(made.parameters(), 1e-4)
    with unvanish.watch({"made": made, "critic": critic}, [first, second], to=tmp_path / "r.unvanish") as run:
        for _ in range(180 // (turns + 1)):
            for _ in range(turns):
                first.zero_grad()
                (critic(made(torch.randn(16, 6)).detach()) - critic(torch.randn(16, 2))).mean().backward()
                first.step()
            second.zero_grad()
            (-critic(made(torch.randn(16, 6)))).mean().backward()
            second.step()
    report = unvanish.load_run(run.path).report()
    assert {layer.name for layer in report.layers if layer.name.startswith("made")}
    assert any(each.verdict == "vanished" and "made.0" in each.layers for each in report.findings) == saturated
    assert not any("took no part in the loss" in note for note in report.notes)


class Shaped(nn.Module):
    """Logits of any shape, with or without a softmax along their classes."""

    def __init__(self, soft: bool, along: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.soft, self.along, self.shape = nn.Linear(6, math.prod(shape)), soft, along, shape

    def forward(self, x: Any) -> Any:
        out = self.layer(x).unflatten(1, self.shape)
        return out.softmax(self.along) if self.soft else out


def trained(model: nn.Module, loss_of: Any, path: Path, classes: int, shape: tuple[int, ...] = ()) -> list[Finding]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unvanish.watch(model, optimizer, every=2, to=path) as run:
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(model(torch.randn(8, 6)), torch.randint(classes, (8, *shape))).backward()
            optimizer.step()
    return [each for each in run.findings if each.code == "UV706"]


@pytest.mark.parametrize(("along", "shape"), [(1, (5,)), (-1, (5,)), (1, (3, 4)), (-2, (3, 4))])
def test_a_softmax_before_a_cross_entropy_is_named_once_with_the_lowest_loss(
    along: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    (found,) = trained(Shaped(True, along, shape), F.cross_entropy, tmp_path / "r.unvanish", shape[0], shape[1:])
    # no input of the second softmax between 0 and 1 does better than an exact 1 at the right place
    best = F.cross_entropy(torch.eye(shape[0]), torch.arange(shape[0])).item()
    assert found.level == "error" and found.evidence[0].value == pytest.approx(best / math.log(shape[0]), rel=1e-5)
    assert not unvanish.load_run(tmp_path / "r.unvanish").report().healthy
    assert not trained(Shaped(False, along, shape), F.cross_entropy, tmp_path / "q.unvanish", shape[0], shape[1:])


QUIET = {
    "the logarithm of the softmax": (True, lambda p, y: F.nll_loss(p.log(), y)),
    "a log_softmax": (False, lambda z, y: F.nll_loss(F.log_softmax(z, 1), y)),
    "a scale between the two": (True, lambda p, y: F.cross_entropy(30.0 * p, y)),
    "other targets": (True, lambda p, y: F.cross_entropy(p, F.one_hot(y, 5).float())),
    "another loss": (True, lambda p, y: F.mse_loss(p, F.one_hot(y, 5).float())),
    "along another dimension": (True, lambda p, y: F.cross_entropy(p.T, torch.arange(5))),
}


@pytest.mark.parametrize("name", QUIET)
def test_one_softmax_or_a_factor_between_two_is_left_alone(name: str, tmp_path: Path) -> None:
    soft, loss_of = QUIET[name]
    assert not trained(Shaped(soft, 1, (5,)), loss_of, tmp_path / "r.unvanish", 5)


@pytest.mark.parametrize("spoiled", [True, False])
def test_nan_in_running_statistics_alone_is_told(spoiled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    net.register_buffer("mask", torch.full((3,), -math.inf))  # that is meant
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        for step in range(6):
            if spoiled and step == 3:
                with torch.no_grad():
                    net(torch.full((4, 6), math.nan))
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(8, 6)), torch.randint(3, (8,))).backward()
            optimizer.step()
    assert odd_buffers({"": net}) == (["1.running_mean", "1.running_var"] if spoiled else [])
    told = [each for each in run.findings if each.verdict == "nonfinite"]
    assert [each.level for each in told] == ["note", "error"] * spoiled
    words = "the inputs hold nan", "1.running_mean"
    assert all(said in each.message for each, said in zip(told, words, strict=False))
    assert unvanish.load_run(run.path).report().healthy != spoiled


@pytest.mark.parametrize("scale", [1e160, 1e-200, 1e300])
def test_norms_in_float64_whose_squares_leave_it_are_right(scale: float) -> None:
    tensor = scale * torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    assert norm(tensor) == pytest.approx(5.0 * scale) and norms([tensor]) == pytest.approx([5.0 * scale])
    broken = torch.tensor([scale, math.inf], dtype=torch.float64)
    assert norms([0.0 * tensor, tensor[:0], broken])[:2] == [0.0, 0.0] and norms([broken]) == [math.inf]
    assert math.isnan(norms([broken - broken])[0])


def test_a_large_loss_in_float64_is_no_gradient_that_is_not_finite(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        for _ in range(6):
            optimizer.zero_grad()
            (1e160 * net(torch.randn(16, 4).double()).square().mean()).backward()
            optimizer.step()
    assert not [each for each in run.findings if each.level == "error"]


@pytest.mark.parametrize("thrown", [True, False])
def test_layers_that_die_long_after_steps_that_were_too_large_are_told_with_them(thrown: bool, tmp_path: Path) -> None:
    """The first step throws the weights far away; what dies samples later is found beside norms that hardly move."""
    torch.manual_seed(0)
    first = nn.Linear(8, 16)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(net.parameters(), 100.0 if thrown else 1e-3)
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    with unvanish.watch(net, optimizer, every=5, to=tmp_path / "r.unvanish") as run:
        for step in range(80):
            if step == 41:
                with torch.no_grad():
                    first.weight.zero_()
                    first.bias.fill_(-(float(first.bias.norm()) + 1.0) if thrown else -1.0)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    report = unvanish.load_run(run.path).report()
    dead = [each for each in (*run.findings, *report.findings) if each.code == "UV301"]
    assert len(dead) == 2 and all((LOOK in each.message) == thrown for each in dead), dead
    assert all(("lr-0.1" in each.remedies) == thrown for each in dead)
