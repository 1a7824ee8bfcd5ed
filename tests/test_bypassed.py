"""Cuts beside which the signal goes on, of sums and of choices, and what looks like them and is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.records import Finding

SEEDS = range(2)
Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.first, self.inner, self.block = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.codes, self.last, self.run = nn.Embedding(12, 16), nn.Linear(16, 8), forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)

    def part(self, h: Tensor) -> Tensor:
        made: Tensor = self.block(torch.relu(self.inner(h)))
        return made

    def nearest(self, z: Tensor) -> Tensor:
        chosen: Tensor = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return chosen


def loss(outputs: Any, targets: Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return F.mse_loss(outputs, targets)
    made, z, q = outputs
    return F.mse_loss(made, targets) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())


def said(forward: Forward, seed: int) -> list[Finding]:
    with seeded(seed):
        model, x = Net(forward), torch.randn(64, 8)
    report = unvanish.diagnose(model, x, x, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    return [each for each in report.findings if each.cause == "a part cut off"]


def skip_cut(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.last(h.detach() + m.part(h))


def skip_cut_and_scaled(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    with torch.no_grad():
        kept = 0.5 * h
    return m.last(m.part(h) + kept)


def skip(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.last(h + m.part(h))


def straight_through(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.last(h + (h.round() - h).detach() + m.part(h))


def off_its_mean(m: Any, x: Tensor) -> Tensor:
    h = m.part(m.first(x))
    return m.last(h - h.mean(1, keepdim=True).detach())


def refined(m: Any, x: Tensor) -> Tensor:
    h, now = m.first(x), torch.zeros(len(x), 16)
    for _ in range(3):
        now = now.detach()
        now = now + m.part(h + now)
    return m.last(now)


def recycled(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    with torch.no_grad():
        before = m.part(h)
    return m.last(m.part(h + before))


def masked(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.last((h > 0).float() + m.part(h))


def coded(m: Any, x: Tensor) -> Any:
    z = m.part(m.first(x))
    q = m.nearest(z)
    return m.last(q), z, q


def coded_without_gradient(m: Any, x: Tensor) -> Any:
    z = m.part(m.first(x))
    with torch.no_grad():
        places = torch.cdist(z, m.codes.weight).argmin(1)
    q = F.one_hot(places, 12).float() @ m.codes.weight
    return m.last(q), z, q


def coded_straight_through(m: Any, x: Tensor) -> Any:
    z = m.part(m.first(x))
    q = m.nearest(z)
    return m.last(z + (q - z).detach()), z, q


def sent_to_one_expert(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    shares = m.codes.weight[:2].softmax(1)[0][:2] * h[:, :2].softmax(1)
    place = shares.argmax(1)
    experts = torch.stack([m.inner(h), m.block(h)], 1)
    return m.last(experts[torch.arange(len(x)), place] * shares.gather(1, place[:, None]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("forward", [skip_cut, skip_cut_and_scaled])
def test_a_summand_that_is_cut_is_noted(forward: Forward, seed: int) -> None:
    (finding,) = said(forward, seed)
    assert (finding.code, finding.level, finding.layers) == ("UV602", "note", ("first",))
    assert finding.message.startswith("In the sum at ") and "test_bypassed.py" in finding.message
    assert finding.message.endswith("first gets the signal through the other summand alone, not past it.")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("forward", [coded, coded_without_gradient])
def test_layers_that_only_choose_are_noted(forward: Forward, seed: int) -> None:
    (finding,) = said(forward, seed)
    assert (finding.code, finding.level, finding.layers) == ("UV602", "note", ("first", "inner", "block"))
    assert "only chosen by argmin at " in finding.message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "forward",
    [
        skip, straight_through, off_its_mean, refined, recycled, masked, coded_straight_through, sent_to_one_expert,
    ],
)  # fmt: skip
def test_cuts_that_are_meant_are_quiet(forward: Forward, seed: int) -> None:
    assert said(forward, seed) == []


def test_what_is_cut_has_the_gradient_that_is_told() -> None:
    """The gradient of the first layer is that of the other summand alone, by hand."""
    with seeded(0):
        model, x = Net(skip_cut), torch.randn(64, 8)
    F.mse_loss(model(x), x).backward()
    told = model.first.weight.grad
    h = model.first(x)
    part = model.part(h)
    residual = 2.0 * (model.last(h + part) - x) / x.numel()
    (by_hand,) = torch.autograd.grad(part, model.first.weight, (residual @ model.last.weight).detach())
    assert told is not None and torch.allclose(told, by_hand, rtol=1e-4, atol=1e-7)
