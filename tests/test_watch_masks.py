"""Masked rows, zeros and means of nothing: which call is named, and what is no fault at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import PLANTED, Plant, train
from torch import Tensor
from torch.nn import functional as F

import unvanish

INF = float("inf")


def shut(h: Tensor, on: Tensor) -> Tensor:
    """The whole row of one sample is masked in the step of the fault."""
    return h.masked_fill(on > 0, -INF)


def lse(h: Tensor, on: Tensor) -> Tensor:
    return torch.logsumexp(shut(h, on), -1, keepdim=True)


def mean(h: Tensor, on: Tensor) -> Tensor:
    return (h * (1 - on)).sum(-1, keepdim=True) / (16 * (1 - on))


def watched(plant: Plant, path: Path) -> tuple[list[Any], bool]:
    """The findings about numbers that are not finite, and whether the weights came to harm."""
    runs: list[Any] = []

    def watch(model: Any, optimizer: Any) -> Any:
        runs.append(unvanish.watch(model, optimizer, every=10, to=path / "run.unvanish"))
        return runs[0]

    torch.manual_seed(0)
    net = train(plant, watch)
    assert runs[0].watcher.failed == ""
    harmed = not all(bool(torch.isfinite(p).all()) for p in net.parameters())
    return [each for each in runs[0].findings if each.verdict == "nonfinite"], harmed


Fault = Callable[[Tensor, Tensor], Tensor]
NAMED: dict[str, tuple[Fault, str]] = {
    "logsumexp of a shut row, added": (lambda h, on: h + lse(h, on), "logsumexp"),
    "logsumexp of a shut row, times": (lambda h, on: h + lse(h, on) * (1 - on), "logsumexp"),
    "logsumexp of a shut row, taken off": (lambda h, on: shut(h, on) - lse(h, on), "logsumexp"),
    "logsumexp of a shut row, normalised": (
        lambda h, on: F.layer_norm(torch.cat([h, lse(h, on)], -1), (17,))[:, :16], "logsumexp"
    ),
    "log_softmax of a shut row": (lambda h, on: F.log_softmax(shut(h, on), -1), "log_softmax"),
    "softmax of a shut row": (lambda h, on: torch.softmax(shut(h, on), -1), "softmax"),
    "masked mean of nothing": (lambda h, on: h + mean(h, on), "div"),
    "masked mean of nothing, replaced": (lambda h, on: h + torch.where(on > 0, 0.0, mean(h, on)), "div"),
    "root at zero": (lambda h, on: torch.sqrt((h + 1.001) * (1 - on)), "sqrt"),
    "power at zero": (lambda h, on: torch.pow((h + 1.001) * (1 - on), 0.5), "pow"),
    "over its own norm": (lambda h, on: (h * (1 - on)) / (h * (1 - on)).norm(dim=-1, keepdim=True), "div"),
    "root behind a guard": (lambda h, on: torch.where(on > 0, 0.0, torch.sqrt((h + 1.001) * (1 - on))), "sqrt"),
    "log behind a guard": (lambda h, on: torch.where(on > 0, 0.0, torch.log((h + 1.001) * (1 - on))), "log"),
    "quotient behind a guard": (lambda h, on: torch.where(on > 0, 0.0, h / (1 - on)), "div"),
    "exponential behind a guard": (lambda h, on: torch.where(h > 0.5, h, torch.exp(h + 200 * on) - 1), "exp"),
}  # fmt: skip
HARMLESS: dict[str, Fault] = {
    "logsumexp of a shut row, exponentiated": lambda h, on: h + lse(h, on).exp(),
    "logsumexp of a shut row, clamped": lambda h, on: h + lse(h, on).clamp_min(-5.0),
    "norm at zero": lambda h, on: h * (1 + torch.linalg.vector_norm(h * (1 - on), dim=-1, keepdim=True)),
    "spread of nothing": lambda h, on: h * (1 + (h * (1 - on)).std(-1, keepdim=True)),
    "angle of nothing": lambda h, on: h + torch.atan2(h * (1 - on), (h + 0.5) * (1 - on)),
}
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str]] = {
    "logsumexp": (lambda out, y, on: torch.logsumexp(shut(out, on), -1).mean(), "logsumexp, of a row"),
    "logsumexp, times": (lambda out, y, on: (torch.logsumexp(shut(out, on), -1) * (1 - on[:, 0])).mean(), "logsumexp"),
    "divergence": (
        lambda out, y, on: F.kl_div(F.log_softmax(shut(out, on), -1), out.detach().softmax(-1), reduction="sum"),
        "log_softmax",
    ),
    "no target": (
        lambda out, y, on: F.cross_entropy(out, torch.full_like(y, -100) if bool(on.any()) else y),
        "nll_loss, a mean of nothing",
    ),
    "masked mean": (
        lambda out, y, on: (F.cross_entropy(out, y, reduction="none") * (1 - on.max())).sum() / (1 - on.max()), "at div"
    ),
    "root of a square": (lambda out, y, on: (out * (1 - on)).pow(2).sum(-1).sqrt().mean(), "them sqrt can have"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_the_call_is_named(name: str, tmp_path: Path) -> None:
    fault, call = NAMED[name]
    found, harmed = watched(Plant("", "", fault), tmp_path)
    assert harmed and len(found) == 1
    assert f"at step {PLANTED}:" in found[0].message and f" from {call} at " in found[0].message, found[0].message
    assert ("is masked" in found[0].message) == ("shut row" in name)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_no_finding(name: str, tmp_path: Path) -> None:
    assert watched(Plant("", "", HARMLESS[name]), tmp_path) == ([], False)


@pytest.mark.parametrize("name", LOSSES)
def test_the_call_of_the_loss_is_named(name: str, tmp_path: Path) -> None:
    loss, words = LOSSES[name]
    found, _ = watched(Plant("", "", loss=loss), tmp_path)
    assert len(found) == 1 and f"at step {PLANTED}:" in found[0].message
    assert words in found[0].message, found[0].message


class Exits(torch.nn.Module):
    """Samples that have left at the first exit are -inf at the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.first(x)
        return early, self.second(x).masked_fill(early.softmax(-1).amax(-1, True) > 0.5, -INF)


@pytest.mark.parametrize("fault", ["", "factor", "target", "data"])
def test_outputs_that_are_masked_are_no_fault_and_no_fault_is_laid_on_them(fault: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Exits()
    optimizer = torch.optim.Adam(model.parameters())
    with unvanish.watch(model, optimizer, every=5, check_every=5, to=tmp_path) as run:
        for step in range(12):
            x = torch.randn(32, 6)
            y, last = (x[:, 0] > 0.0).long(), step == 11
            if fault == "data" and last:
                x[3] = math.nan
            early, late = model(x)
            left = late.isinf().any(-1)
            if fault == "target" and last:
                left = torch.zeros(32, dtype=torch.bool)
            loss = F.cross_entropy(early, y) + F.cross_entropy(late[~left], y[~left])
            if fault == "factor" and last:
                loss = loss * torch.tensor(math.nan)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert run.watcher.failed == ""
    told = [each for each in run.findings if each.level == "error"]
    words = {
        "factor": "mul, which was given",
        "target": "log_softmax, between the outputs of the model, which are finite, or -inf as a mask leaves it",
        "data": "the batch holds",
    }
    assert len(told) == bool(fault), told
    assert all(each.message.startswith("at step 11: ") and words[fault] in each.message for each in told), told


def test_the_loss_of_a_target_that_is_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.Adam(model.parameters())
    masked = torch.tensor([False, False, False, True, True])

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).masked_fill(masked, -INF)

    net = Masked()
    with unvanish.watch(net, optimizer, to=tmp_path) as run:
        for step in range(4):
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(8, 6)), torch.full((8,), 4 if step == 3 else 0)).backward()
            optimizer.step()
    (found,) = [each for each in run.findings if each.level == "error"]
    assert "at step 3: the loss is inf: the outputs of the model hold -inf, as a mask leaves it" in found.message
