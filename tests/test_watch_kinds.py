"""What a sample asks of many tensors at once, for every kind of them: norms, shares that underflow, what rests."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unvanish.watching.gradients import PLENTY, sizes
from unvanish.watching.norms import norms
from unvanish.watching.resting import AGAIN, Resting
from unvanish.watching.table import Table

SEEDS = [0, 1]


class Marked(Tensor):
    """A kind of tensor of somebody else."""


def _kinds() -> list[Tensor]:
    weight = nn.Parameter(torch.randn(40, 30))
    return [
        weight, torch.randn(7), torch.randn(6, 8)[:, ::2], torch.randn(0), torch.zeros(5), 1e-25 * torch.randn(9),
        1e25 * torch.randn(9), torch.randn(5, dtype=torch.float64), torch.randn(64).half(), torch.randn(64).bfloat16(),
        torch.eye(4).to_sparse(), torch.randn(5, dtype=torch.complex64), torch.randn(8).as_subclass(Marked),
    ]  # fmt: skip


def _exact(tensor: Tensor) -> float:
    plain = tensor.detach()
    plain = plain.to_dense() if plain.is_sparse else plain.as_subclass(Tensor)
    wide = torch.view_as_real(plain) if plain.is_complex() else plain
    return float(torch.linalg.vector_norm(wide.double()))


@pytest.mark.parametrize("seed", SEEDS)
def test_norms_of_every_kind_are_those_of_float64_alone_and_together(seed: int) -> None:
    torch.manual_seed(seed)
    them = _kinds()
    exact = [_exact(each) for each in them]
    assert norms(them) == pytest.approx(exact, rel=1e-5)
    for each, size in zip(them, exact, strict=True):
        assert norms([each]) == pytest.approx([size], rel=1e-5)
    usual = them[:7]  # one call makes all of these
    assert norms(usual) == pytest.approx(exact[:7], rel=1e-5) and norms(tuple(usual)) == norms(usual)
    assert norms([]) == [] and math.isnan(norms([*usual, torch.tensor([math.nan])])[7])
    assert norms([torch.tensor([1.0, -math.inf]), *usual])[0] == math.inf
    assert all(type(each) is float for each in norms(them))


def _lost(dtype: torch.dtype, entries: list[float]) -> float | None:
    layer = nn.Linear(len(entries), 1, bias=False).to(dtype)
    layer.weight.grad = torch.tensor([entries], dtype=torch.float64).to(dtype)
    table = Table()
    table.add("", layer)
    return next(iter(sizes(table)[0].values()))[2]


@pytest.mark.parametrize(
    ("dtype", "entries", "share"),
    [
        (torch.float32, [1e-39, 1e-37, 0.0, 1e-37], 1 / 3),
        (torch.float32, [1e-39, 1e-33, 1e-33, 1e-39], 1 / 2),
        (torch.float32, [1.0, 1e-39, 1e-39, 1e-39], 0.0),  # no share worth counting beside entries that large
        (torch.bfloat16, [1e-39, 1e-37, 1e-37, 1e-37], 1 / 4),
        (torch.float16, [1e-6, 1e-3, 1e-3, 0.0], 1 / 3),  # its smallest normal number is 6e-5
        (torch.float64, [1e-310, 1e-305, 0.0, 0.0], 1 / 2),
        (torch.float32, [0.0, 0.0], None),
        (torch.float32, [math.inf, 1e-39], None),
    ],
)
def test_the_share_below_the_smallest_normal_number(dtype: torch.dtype, entries: list[float], share: Any) -> None:
    assert _lost(dtype, entries) == (share if share is None else pytest.approx(share))


def test_no_share_would_be_counted_of_a_norm_that_is_plenty() -> None:
    """Of 1e18 entries, more than any tensor has, the rule of ``below_normal`` is met, so that it need not be asked."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert PLENTY / math.sqrt(1e18) > 1e6 * torch.finfo(dtype).smallest_normal


def _resting() -> tuple[nn.Sequential, Resting, dict[int, Any]]:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    table, optimizers = Table(), dict[int, Any]()
    table.add("", net)
    return net, Resting(table, optimizers, lambda hook: hook), optimizers


def test_nan_in_what_rests_is_told_once() -> None:
    net, resting, _ = _resting()
    assert resting.look() == {}
    with torch.no_grad():
        net.get_parameter("1.weight")[0, 1] = math.nan
    assert [resting.look() for _ in range(3)] == [{"Sequential": ["1.weight"]}, {}, {}]


def test_what_an_optimizer_has_come_to_move_does_not_rest() -> None:
    net, resting, optimizers = _resting()
    assert resting.look() == {}
    optimizers[0] = torch.optim.SGD(net.parameters(), 0.1)
    with torch.no_grad():
        net.get_parameter("1.weight")[0, 1] = math.nan
    assert not any(resting.look() for _ in range(2 * AGAIN))


def test_what_has_come_since_is_looked_at_in_time() -> None:
    net, resting, _ = _resting()
    assert resting.look() == {}
    net.append(nn.Linear(2, 2))  # no layer of it was sampled: the table does not know
    with torch.no_grad():
        net.get_parameter("2.bias")[1] = math.nan
    found = [resting.look() for _ in range(2 * AGAIN)]
    assert found[AGAIN - 1 :].count({"Sequential": ["2.bias"]}) == 1 and found.count({}) == len(found) - 1
