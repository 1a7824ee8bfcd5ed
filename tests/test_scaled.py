"""Arithmetic with a power of two beside each tensor: both backends against numbers worked by hand and each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from architectures import chain, problem
from torch import Tensor

from unvanish.problem import Problem
from unvanish.trace import exact
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.trace.scaled import LOG_ZERO, Device, Host, Scaled, is_finite, norm_of, shift
from unvanish.trace.tape import Tape, norm_together

BOTH = [Host, Device]


def log2_of(value: Any, math_: Any) -> float:
    """log2 of the norm that mantissa and exponent stand for, computed apart from what ``settle`` noted."""
    settled = math_.settle(value.mantissa, value.exponent)
    return math_.read([settled.log2])[0]


@pytest.mark.parametrize("math_", BOTH)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-10, 1.0, 3e20, 1e38])
def test_settling_keeps_the_number_and_centres_the_mantissa(math_: Any, size: float) -> None:
    tensor = torch.tensor([0.6, -0.8, 0.0, 0.0]) * size
    settled = math_.settle(tensor, 7)
    mantissa, exponent = settled.mantissa.double(), float(settled.exponent)
    assert torch.allclose(mantissa * 2.0 ** (exponent - 7), tensor.double(), rtol=1e-6)
    assert math_.read([settled.log2])[0] == pytest.approx(math.log2(size) + 7, abs=1e-6)
    assert 2.0**-21 <= float(mantissa.norm() / 2.0) <= 2.0**21


@pytest.mark.parametrize("math_", BOTH)
def test_zero_has_the_logarithm_minus_infinity_and_adds_nothing(math_: Any) -> None:
    zero, three = math_.settle(torch.zeros(2), 40), math_.settle(torch.tensor([0.0, 3.0]), -9000)
    assert math_.read([zero.log2]) == [LOG_ZERO]
    for total in (math_.add(zero, three), math_.add(three, zero)):
        assert log2_of(total, math_) == pytest.approx(math.log2(3.0) - 9000, abs=1e-6)


@pytest.mark.parametrize("math_", BOTH)
def test_adding_at_different_exponents(math_: Any) -> None:
    """3·2^-500 + 5·2^-501 = 5.5·2^-500, and 1 + 2^-300 = 1."""
    a, b = math_.settle(torch.tensor([3.0]), -500), math_.settle(torch.tensor([5.0]), -501)
    assert log2_of(math_.add(a, b), math_) == pytest.approx(math.log2(5.5) - 500, abs=1e-6)
    one, tiny = math_.settle(torch.ones(1), 0), math_.settle(torch.ones(1), -300)
    assert log2_of(math_.add(tiny, one), math_) == 0.0
    assert log2_of(math_.add(a, math_.settle(torch.tensor([-3.0]), -500)), math_) == LOG_ZERO


@pytest.mark.parametrize("math_", BOTH)
def test_aligned_parts_share_the_largest_exponent(math_: Any) -> None:
    parts = [math_.settle(torch.tensor([float(v)]), e) for v, e in ((1.0, 5), (1.0, 3), (0.0, 900), (1.0, -4000))]
    mantissas, top = math_.align(parts)
    assert [float(m) * 2.0 ** float(top) for m in mantissas] == [32.0, 8.0, 0.0, 0.0]


@pytest.mark.parametrize("math_", BOTH)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_stays_so(math_: Any, bad: float) -> None:
    (log2,) = math_.read([math_.settle(torch.tensor([1.0, bad]), 3).log2])
    assert math.isnan(log2) if math.isnan(bad) else log2 == math.inf


@pytest.mark.parametrize("math_", BOTH)
def test_complex_and_sparse_tensors(math_: Any) -> None:
    complex_ = math_.settle(torch.tensor([3.0e-30 + 4.0e-30j]), 0)
    assert math_.read([complex_.log2])[0] == pytest.approx(math.log2(5e-30), abs=1e-6)
    entries = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    rows = torch.sparse_coo_tensor(torch.tensor([[1, 1, 3]]), entries, (5, 2), check_invariants=True)
    settled = math_.settle(rows, -100)
    assert math_.read([settled.log2])[0] == pytest.approx(math.log2(5.0) - 100, abs=1e-6)  # rows (1 + 2, 0), (0, 4)
    dense = math_.settle(torch.ones(5, 2), -100)
    for total in (math_.add(settled, dense), math_.add(dense, settled)):
        expected = math.sqrt(8 * 1.0 + 16.0 + 25.0)
        assert log2_of(total, math_) == pytest.approx(math.log2(expected) - 100, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shifting_by_more_than_one_step_of_the_type(dtype: torch.dtype) -> None:
    span = 20 if dtype is torch.float16 else 200 if dtype is torch.float64 else 125
    assert torch.equal(shift(torch.tensor([2.0**-10], dtype=dtype), 10 + 4), torch.tensor([16.0], dtype=dtype))
    small = torch.tensor([2.0 ** (-span // 2)], dtype=dtype)
    assert torch.equal(shift(small, span), torch.tensor([2.0 ** (span + -span // 2)], dtype=dtype))
    assert not shift(torch.ones(2, dtype=dtype), -5000).any()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e-25, torch.float32),
        (1e-40, torch.float32),
        (1e30, torch.float32),
        (1e-300, torch.float64),
        (1e300, torch.float64),
    ],
)
def test_a_norm_neither_underflows_nor_overflows(size: float, dtype: torch.dtype) -> None:
    """4,096 equal entries have 64 times the norm of one; torch's own norm gives 0 or inf here."""
    tensor = torch.full((4096,), size, dtype=dtype)
    assert float(torch.linalg.vector_norm(tensor)) in (0.0, math.inf)
    assert norm_of(tensor) == pytest.approx(64.0 * float(tensor[0]), rel=1e-6)


def test_norms_of_nothing_and_of_half_precision() -> None:
    assert norm_of(torch.zeros(3)) == 0.0 and norm_of(torch.zeros(0, 4)) == 0.0
    assert norm_of(torch.full((4096,), 6e-8, dtype=torch.float16)) == pytest.approx(64 * 5.9604645e-08, rel=1e-4)
    assert norm_of(torch.full((4096,), 6e4, dtype=torch.float16)) == pytest.approx(64 * 6e4, rel=1e-3)


def test_norms_put_together() -> None:
    assert norm_together([math.log10(3.0) - 400, math.log10(4.0) - 400]) == pytest.approx(math.log10(5.0) - 400)
    assert norm_together([LOG_ZERO, -7.0]) == -7.0
    assert norm_together([]) == norm_together([LOG_ZERO, LOG_ZERO]) == LOG_ZERO
    assert math.isnan(norm_together([1.0, math.nan]))


def tapes(given: Problem, math_: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Tape, dict[int, Scaled]]:
    """A walk on CPU tensors with the backend of choice in place of the host's."""
    with monkeypatch.context() as patch:
        patch.setattr(exact, "Host", math_)
        torch.manual_seed(9)
        capture = record(given, given.model)  # type: ignore[arg-type]
        root = capture.loss_root
        assert root is not None
        leaves: dict[int, Scaled] = {}
        (tape,) = walk(
            capture, [[(root, torch.ones(root.shape, dtype=root.dtype))]], lambda p, _, g: leaves.update({id(p): g})
        )
    return tape, leaves


def value(gradient: Scaled) -> Tensor:
    whole = gradient.mantissa.to_dense() if gradient.mantissa.is_sparse else gradient.mantissa
    return whole * 2.0 ** float(gradient.exponent)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "name", ["cnn_batchnorm", "transformer_encoder", "lstm_cells", "sparse_embeddings", "unet", "complex_numbers"]
)
def test_the_accelerators_arithmetic_gives_what_the_hosts_does(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(name, 2, dtype)
    host, left = tapes(given, Host, monkeypatch)
    device, right = tapes(given, Device, monkeypatch)
    for field in ("signals", "edges", "leaves"):
        ours, theirs = getattr(host, field), getattr(device, field)
        assert ours.keys() == theirs.keys()
        top = max(ours.values())
        for key in ours:
            if ours[key] > top - 6.0:  # below that, what a norm layer cancels is rounding
                assert theirs[key] == pytest.approx(ours[key], abs=1e-6 if dtype is torch.float64 else 1e-5)
    for key, gradient in left.items():
        norm = max(float(value(gradient).norm()), 1e-3)
        assert float((value(right[key]) - value(gradient)).abs().max()) < 1e-6 * norm


def test_the_accelerators_arithmetic_on_two_hundred_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(200)
    given = Problem(model, torch.tensor(1.0))
    host, _ = tapes(given, Host, monkeypatch)
    device, leaves = tapes(given, Device, monkeypatch)
    assert device.leaves.keys() == host.leaves.keys()
    for key in host.leaves:
        assert device.leaves[key] == pytest.approx(host.leaves[key], abs=1e-6)
    assert device.leaves[id(model.w[0])] == pytest.approx(-273.72607138, abs=1e-5)
    assert isinstance(leaves[id(model.w[0])].exponent, Tensor), "the walk was not run with the accelerator's arithmetic"
    assert [host.signals[k] for k in sorted(host.signals)] == pytest.approx(
        [device.signals[k] for k in sorted(device.signals)], abs=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_finite_is_what_has_only_finite_entries(dtype: torch.dtype, bad: float) -> None:
    sound = torch.ones(3, 4, dtype=dtype)
    assert is_finite(sound) and is_finite(sound[:0])
    assert is_finite(torch.full((30,), torch.finfo(dtype).max, dtype=dtype))  # its squares are not
    sound[1, 2] = bad
    assert not is_finite(sound)
