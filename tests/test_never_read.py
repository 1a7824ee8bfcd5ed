"""Layers whose results nothing reads, or only a choice does: no batch and no loss can train them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import gelu

import unvanish

KEPT: list[Any] = []


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.more, self.c = (nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
        self.act, self.flag, self.last = nn.Tanh(), False, None

    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        return self.c(self.more(self.b(h)))

    def note(self, x: Tensor) -> Tensor:
        KEPT.append(x)
        return x


class Misspelt(Base):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        h2 = F.relu(self.more(self.b(h)))  # noqa: F841
        return self.c(h)


class Unassigned(Base):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        self.b(h)
        self.more(h)
        return self.c(h)


class InTwoSteps(Base):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        first = gelu(self.b(h)).contiguous()
        second = self.act(self.more(first))  # noqa: F841
        return self.c(h)


class State(Base):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.GRU(8, 8, batch_first=True)  # type: ignore[assignment]
        self.more = nn.GRU(8, 8, batch_first=True)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))[:, None]
        _, state = self.b(h)
        _, _other = self.more(h, state)
        return self.c(h[:, 0])


class Returned(Misspelt):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        h2 = F.relu(self.more(self.b(h)))
        return self.c(h), h2


class Stored(Misspelt):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        self.last = self.more(self.b(h))
        return self.c(h)


class Appended(Misspelt):
    def forward(self, x: Tensor) -> Any:
        h, found = self.act(self.a(x)), []
        found.append(self.more(self.b(h)))
        return self.c(h)


class HandedOn(Misspelt):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        kept = self.note(self.more(self.b(h)))  # noqa: F841
        return self.c(h)


class Sometimes(Misspelt):
    def forward(self, x: Tensor) -> Any:
        h = self.act(self.a(x))
        h2 = self.more(self.b(h))
        return self.c(h + h2 if self.flag else h)


class Inherited(Returned):
    """What the method that is overridden reads counts where it is called."""

    def forward(self, x: Tensor) -> Any:
        h = self.b(self.act(self.a(x)))
        h2 = self.more(h)  # noqa: F841
        return super().forward(x)


class Hooked(Unassigned):
    def __init__(self) -> None:
        super().__init__()
        for each in (self.b, self.more):
            each.register_forward_hook(lambda module, given, made: KEPT.append(made))


def found(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, rows: int = 32) -> list[Any]:
    x, y = torch.randn(rows, 8), torch.arange(rows) % 4

    def loss_fn(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, targets)

    report = unvanish.diagnose(model, x, y, loss_fn, optimizer=optimizer)
    KEPT.clear()
    return [finding for finding in report.findings if finding.code == "UV602"]


@pytest.mark.parametrize("kind", [Misspelt, Unassigned, InTwoSteps, State])
def test_results_that_nothing_reads_are_an_error(kind: type[Base]) -> None:
    (finding,) = found(kind())
    assert finding.level == "error" and set(finding.layers) == {"b", "more"}
    assert "nothing in the program reads what they return" in finding.message
    assert not found(Base())


@pytest.mark.parametrize("kind", [Returned, Stored, Appended, HandedOn, Sometimes, Inherited, Hooked])
def test_results_that_something_may_read_are_a_note(kind: type[Base]) -> None:
    model = kind()
    assert {finding.level for finding in found(model)} == {"note"}


def test_a_layer_that_the_optimizer_does_not_hold_is_a_note() -> None:
    model = Misspelt()
    held = [*model.a.parameters(), *model.c.parameters()]
    assert {finding.level for finding in found(model, torch.optim.Adam(held))} == {"note"}


class Routed(nn.Module):
    """Four experts, and what chooses among them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.router = nn.Linear(8, 16), nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 4) for _ in range(4))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        scores = self.router(h).softmax(1)
        made = torch.stack([expert(h) for expert in self.experts], 1)
        if self.how == "argmax":
            weights = F.one_hot(scores.argmax(1), 4).to(x.dtype)
        elif self.how == "topk":
            return made.gather(1, scores.topk(2).indices[:, :, None].expand(-1, -1, 4)).mean(1)
        elif self.how == "threshold":
            weights = (scores > 0.2).to(x.dtype)
        elif self.how == "led around":
            weights = F.one_hot(scores.argmax(1), 4) + scores - scores.detach()
        elif self.how == "detached":
            weights = scores.detach()
        else:
            weights = scores
        return (weights[:, :, None] * made).sum(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("how", "by"), [("argmax", "argmax"), ("topk", "topk"), ("threshold", "gt")])
def test_a_layer_that_only_chooses_is_cut_off(how: str, by: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = Routed(how)
    errors = [finding for finding in found(model, rows=256) if finding.level == "error"]
    assert [finding.layers for finding in errors] == [("router",)]
    assert errors[0].cause == f"cut off: {by}" and "cut out of the graph" in errors[0].message
    model.router.requires_grad_(False)
    assert not [finding for finding in found(model, rows=256) if finding.level == "error"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["soft", "led around", "detached"])
def test_a_router_that_is_trained_or_stopped_on_purpose_is_none(how: str, seed: int) -> None:
    torch.manual_seed(seed)
    levels = [finding.level for finding in found(Routed(how), rows=256)]
    assert levels == (["note"] if how == "detached" else [])


class Halting(nn.Module):
    """Steps that end where a threshold says so; from then on nothing is left to multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.halt, self.out = nn.GRUCell(8, 8), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, left, total = torch.zeros(len(x), 8), torch.ones(len(x), 1), torch.zeros(len(x), 4)
        for _ in range(4):
            state = self.cell(x, state)
            ends = (self.halt(state).sigmoid() > 0.0).to(x.dtype)
            total, left = total + left * ends * self.out(state), left * (1.0 - ends)
        return total


def test_a_cut_is_no_factor_of_zero() -> None:
    (finding,) = (f for f in found(Halting()) if "halt" in f.layers)
    assert finding.level == "error" and finding.cause == "cut off: gt" and "zero" not in finding.message
