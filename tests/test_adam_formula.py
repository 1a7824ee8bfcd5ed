"""The next update of Adam by its formula, against a real step of the optimizer; and what is compared as memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn, optim

from unvanish.evidence.grams import _inner
from unvanish.flow.adam import applies, is_adam
from unvanish.flow.updates import BY_FORMULA, Updates
from unvanish.preserve.tensors import _same_bits

KINDS: dict[str, Any] = {
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "Adam with decay in the gradient": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.3),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "AdamW with amsgrad": lambda p: optim.AdamW(p, lr=0.01, amsgrad=True, betas=(0.8, 0.9)),
}


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("keep", [False, True])
def test_the_update_is_that_of_a_real_step(kind: str, taken: int, keep: bool) -> None:
    parameters = [nn.Parameter(drawn(7, 3, seed=1)), nn.Parameter(drawn(BY_FORMULA + 5, seed=2))]
    optimizer = KINDS[kind](parameters)
    assert is_adam(optimizer, optimizer.param_groups[0])
    for step in range(taken):
        for k, p in enumerate(parameters):
            p.grad = drawn(*p.shape, seed=10 * step + k)
        optimizer.step()
    assert all(applies(optimizer.param_groups[0], p, optimizer.state.get(p, {})) for p in parameters)
    moments = [t.clone() for s in optimizer.state.values() for t in s.values()]
    gradients = [drawn(*p.shape, seed=90 + k) for k, p in enumerate(parameters)]
    updates = Updates(optimizer, keep=keep)
    for p, g in zip(parameters, gradients, strict=True):
        updates.read(p, g * 8.0, 0.125)
    updates.flush()
    assert not updates.refused
    assert all(map(torch.equal, moments, (t for s in optimizer.state.values() for t in s.values())))
    before = [p.detach().double().clone() for p in parameters]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, b in zip(parameters, before, strict=True):
        change = p.detach().double() - b
        assert updates.found[id(p)] == pytest.approx(
            float(change.norm()), rel=1e-4
        )  # of the real step, what rounding leaves in the weights
        if keep:
            torch.testing.assert_close(updates.changes[id(p)].double(), change, rtol=0.0, atol=1e-6)


def test_where_it_is_not_the_formula() -> None:
    weight = nn.Parameter(torch.ones(3))
    for optimizer in (optim.SGD([weight], 0.1), optim.Adam([weight], maximize=True), optim.NAdam([weight])):
        assert not is_adam(optimizer, optimizer.param_groups[0])
    plain = optim.Adam([weight])
    assert not applies(plain.param_groups[0], nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), {})
    assert not applies(plain.param_groups[0], weight, {"step": torch.tensor(1.0)})


def test_memory_tells_signs_of_zero_and_not_nan_from_itself() -> None:
    one = torch.tensor([1.0, 0.0, torch.nan])
    assert _same_bits(one, one.clone())
    assert not _same_bits(one, torch.tensor([1.0, -0.0, torch.nan]))
    assert not _same_bits(one, one.clone().mul_(2.0))
    turned = drawn(4, 5, seed=0).t()
    assert _same_bits(turned, turned.clone())
    assert not _same_bits(turned, turned + 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_inner_products_in_pieces_are_those_of_the_whole(seed: int) -> None:
    rows = [drawn(40_000, seed=seed + k) for k in range(4)]
    scales = torch.tensor([1.0, 0.5, 0.0, 2.0**-30], dtype=torch.float64)
    whole = torch.stack(rows).double() * scales[:, None]
    torch.testing.assert_close(_inner(rows) * torch.outer(scales, scales), whole @ whole.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_of_a_large_update_is_that_of_a_sample_within_three_percent(kind: str, seed: int) -> None:
    weight = nn.Parameter(drawn(500, 700, seed=seed))
    optimizer = KINDS[kind]([weight])
    gradient = drawn(500, 700, seed=seed + 5) * drawn(500, 1, seed=seed + 6).exp() * drawn(700, seed=seed + 7).exp()
    for step in range(3):
        for turned in (gradient, gradient.t().contiguous().t()):  # as the walk hands a weight's gradient over
            found = []
            for keep in (False, True):
                updates = Updates(optimizer, keep=keep)
                updates.read(weight, turned, 1.0)
                updates.flush()
                found.append(updates.found[id(weight)])
            assert found[0] == pytest.approx(found[1], rel=0.03)
            assert found[0] != found[1]
        weight.grad = gradient * drawn(500, 700, seed=seed + step)
        optimizer.step()


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_a_table_of_which_few_rows_are_in_use_is_stepped_whole(kind: str) -> None:
    weight = nn.Parameter(drawn(3_000, 100, seed=1))
    optimizer = KINDS[kind]([weight]) if kind == "Adam" else optim.SGD([weight], lr=0.1)
    gradient = torch.where((torch.arange(3_000) % 30 == 0).unsqueeze(1), drawn(3_000, 100, seed=2), 0.0)
    updates = Updates(optimizer, keep=False)
    updates.read(weight, gradient, 1.0)
    updates.flush()
    before = weight.detach().clone()
    weight.grad = gradient
    optimizer.step()
    assert updates.found[id(weight)] == pytest.approx(float((weight.detach() - before).norm()), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_one_entry_of_a_large_tensor_that_is_divided_by_nothing_is_seen(eps: float, seed: int) -> None:
    weight = nn.Parameter(drawn(500, 700, seed=seed))
    gradient = drawn(500, 700, seed=seed + 5)
    gradient[7 * seed, 11] = 0.0
    updates = Updates(optim.Adam([weight], eps=eps), keep=False)
    updates.read(weight, gradient, 1.0)
    updates.flush()
    assert math.isfinite(updates.found[id(weight)]) == (eps > 0.0)
