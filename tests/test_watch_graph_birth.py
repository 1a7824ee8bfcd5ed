"""A forward pass that cannot be run again: the graph it has left tells which call made the first bad number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import unvanish
from unvanish.watching.graph_birth import born_in, broke_in

INF = math.inf
Fault = Callable[[Tensor], Tensor]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def told(fault: Fault) -> str:
    model = net()
    first, act, *rest = model
    h = fault(act(first(torch.randn(8, 6))))
    for each in rest:
        h = each(h)
    return born_in(F.cross_entropy(h, torch.zeros(8, dtype=torch.long)).grad_fn, [model])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda h: h.sqrt(), "sqrt"),
        (lambda h: h.log(), "log"),
        (lambda h: (h - 2.0) ** 0.5, "pow"),
        (lambda h: torch.acos(5.0 * h), "acos"),
        (lambda h: h / torch.zeros_like(h), "div"),
        (lambda h: h + torch.full_like(h, INF), "add"),
        (lambda h: h.masked_fill(h < 5.0, -INF).softmax(-1), "softmax"),
        (lambda h: F.gelu(h.sqrt()), "sqrt"),
        (lambda h: F.layer_norm(h * 1e38 * 10.0, (16,)), "mul"),
        (lambda h: torch.rsqrt(h * 0.0), "one of mul, rsqrt"),  # what is between was not kept
    ],
)
def test_the_call_between_the_last_finite_and_the_first_bad_number(fault: Fault, words: str) -> None:
    assert told(fault) == f"{words}, after layer 0"


@pytest.mark.parametrize("fault", [lambda h: h, lambda h: h.masked_fill(h < 0.0, -INF).softmax(-1), torch.relu])
def test_nothing_is_said_of_what_is_finite_or_masked(fault: Fault) -> None:
    assert told(fault) == ""


def test_a_layer_whose_own_product_overflows_is_the_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    assert born_in(model(torch.full((3, 4), 3e38)).sum().grad_fn, [model]) == "addmm of layer 0"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_numbers_that_cannot_be_asked_say_nothing(device: str) -> None:
    x = torch.randn(4, 4, device=device, requires_grad=True)
    made = (x.to_sparse() * x.to_sparse()).coalesce().values() if device == "cpu" else (x * x).sqrt()
    assert born_in(made.sum().grad_fn, []) == ""


def test_what_a_checkpoint_has_put_away_is_not_asked_for() -> None:
    calls: list[int] = []

    def part(x: Tensor) -> Tensor:
        calls.append(1)
        return x.tanh().sqrt().exp()

    first, last = nn.Linear(6, 4), nn.Linear(4, 3)
    loss = last(checkpoint(part, first(torch.randn(8, 6)), use_reentrant=False)).sum()
    assert born_in(loss.grad_fn, [first, last]) == "one of addmm, sqrt, exp"  # seen is what came out of them
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2 and first.weight.grad is not None


class Counts(nn.Module):
    """Its outputs differ at each call, so that no step of it can be run again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        h = self.inner(x).tanh()
        return self.head((torch.sqrt(h) if self.count == 8 else h) * (1 + self.count))


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_forward_that_counts_its_calls(tmp_path: Path, every: int, parts: int) -> None:
    torch.manual_seed(0)
    model = Counts()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unvanish.watch(model, optimizer, every=every, to=tmp_path) as run:
        for _ in range(8 // parts):
            optimizer.zero_grad()
            for _ in range(parts):
                F.cross_entropy(model(torch.randn(8, 6)), torch.zeros(8, dtype=torch.long)).backward()
            optimizer.step()
    (found,) = run.findings
    assert (found.code, found.cause) == ("UV501", "forward")
    assert found.message.startswith(f"at step {8 // parts - 1}: a number was born")
    assert "sqrt, after layer inner" in found.message and "a state of its own" in found.message
    assert model.count == 8  # what a second run counts is put back


def broke(fault: Fault, loss_of: Callable[[Tensor], Tensor] = lambda h: h.square().mean()) -> tuple[str, str]:
    model = net()
    first, act, *rest = model
    h = fault(act(first(torch.randn(8, 6))))
    for each in rest:
        h = each(h)
    loss = loss_of(h)
    root = loss.grad_fn
    loss.backward()
    return broke_in(root, [model])


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0] * math.nan


def _hooked(h: Tensor) -> Tensor:
    h.register_hook(lambda g: g * INF)
    return h


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda h: h + (h * 0.0).sqrt(), "sqrt, whose slope can be infinite, between layer 0 and layer 2"),
        (lambda h: (h * 0.0).pow(0.5), "pow, whose slope can be infinite, between layer 0 and layer 2"),
        (lambda h: h.relu() + (h * 0.0).sqrt(), "sqrt, whose slope can be infinite, between layer 0 and layer 2"),
    ],
)
def test_the_call_in_whose_backward_it_broke_is_between_layers(fault: Fault, words: str) -> None:
    assert broke(fault)[0] == words


@pytest.mark.parametrize("fault", [Backwards.apply, _hooked])
def test_where_no_slope_is_infinite_only_the_place_is_told(fault: Fault) -> None:
    call, where = broke(fault)
    assert call == "" and "between layer 0 and layer 2 (tanh, " in where and "or a hook" in where


def test_what_broke_in_the_loss_is_behind_the_last_layer() -> None:
    words = "sqrt, whose slope can be infinite, between layer 4 and the loss"
    assert broke(lambda h: h, lambda h: (h * 0.0).square().sum().sqrt())[0] == words


def test_finite_gradients_broke_nowhere() -> None:
    assert broke(lambda h: h.exp().sqrt(), lambda h: F.cross_entropy(h, torch.zeros(8, dtype=torch.long))) == ("", "")
