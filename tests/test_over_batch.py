"""Recurrent layers and attention that go along the samples of a batch, and the many that rightly do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from unvanish import diagnose
from unvanish.preserve import seeded

SEEDS = range(3)


class Reader(nn.Module):
    """A layer that reads sequences, what is done to them before, and what is taken of its result."""

    def __init__(self, read: nn.Module, width: int, before: Callable[[Tensor], Any], after: Callable[[Tensor], Tensor]):
        super().__init__()
        self.read, self.out, self.before, self.after = read, nn.Linear(width, 1), before, after

    def forward(self, x: Tensor) -> Tensor:
        given = self.before(x)
        made = self.read(given, given, given) if isinstance(self.read, nn.MultiheadAttention) else self.read(given)
        return self.out(self.after(made[0] if isinstance(made, tuple) else made))


def as_is(x: Tensor) -> Tensor:
    return x


def last_step(h: Tensor) -> Tensor:
    return h[:, -1]


def told(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    report = diagnose(model, x, y, F.mse_loss, effort="quick")
    return [f.message for f in report.findings if f.code == "UV709"]


def checked(
    make: Callable[[], nn.Module], width: int, before: Any, after: Any, shape: Any, target: Any, seed: int
) -> Any:
    with seeded(seed):
        x = torch.randn(*shape)
        return told(Reader(make(), width, before, after), x, torch.randn(*target))


LAYERS = [
    (lambda first: nn.LSTM(4, 8, batch_first=first), 8),
    (lambda first: nn.GRU(4, 8, num_layers=2, bidirectional=True, batch_first=first), 16),
    (lambda first: nn.RNN(4, 8, batch_first=first), 8),
    (lambda first: nn.MultiheadAttention(4, 2, batch_first=first), 4),
    (lambda first: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=first), 2, None, False), 4),
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "width"), LAYERS)
@pytest.mark.parametrize("first", [False, True])
def test_samples_that_are_taken_for_steps(make: Any, width: int, first: bool, seed: int) -> None:
    found = checked(lambda: make(first), width, as_is, last_step, (12, 7, 4), (12, 1), seed)
    assert len(found) == (not first)
    assert all("goes along axis 0 of (12, 7, 4), the 12 samples of the batch" in message for message in found)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("make", "width"), LAYERS[:1] + LAYERS[-1:])
def test_outputs_without_an_axis_of_their_own(make: Any, width: int, first: bool, seed: int) -> None:
    class Flat(Reader):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze(-1)

    with seeded(seed):
        found = told(Flat(make(first), width, as_is, last_step), torch.randn(12, 7, 4), torch.randn(12))
    assert len(found) == (not first)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wrong", [True, False])
def test_a_view_where_a_transpose_was_meant(wrong: bool, seed: int) -> None:
    def turned(x: Tensor) -> Tensor:
        return x.reshape(7, 12, 4) if wrong else x.transpose(0, 1)

    found = checked(lambda: nn.GRU(4, 8), 8, turned, lambda h: h[-1], (12, 7, 4), (12, 1), seed)
    assert len(found) == wrong
    assert all(
        "samples in pieces" in message and "a transpose keeps each sample together" in message for message in found
    )


def sentences(x: Tensor) -> Tensor:
    """Samples of three sentences each, whose words are read one sentence at a time."""
    return x.reshape(36, 5, 4)


def of_samples(h: Tensor) -> Tensor:
    return h[:, -1].reshape(12, 3, 8).mean(1)


def mixed_first(x: Tensor) -> Tensor:
    """Each row averaged with its neighbour: nodes of a graph that are each a sample."""
    return (x + x.roll(1, 0)) / 2


def packed(x: Tensor) -> Any:
    return pack_padded_sequence(x, [7, 6, 6, 5, 5, 5, 4, 4, 3, 3, 2, 2], batch_first=True)


LSTM = lambda first=False: nn.LSTM(4, 8, batch_first=first)  # noqa: E731
RIGHT = {
    "a text whose steps come first, a target for each": (LSTM, as_is, as_is, (12, 7, 4), (12, 7, 1)),
    "as many steps as texts, a target for each": (LSTM, as_is, as_is, (7, 7, 4), (7, 7, 1)),
    "steps first, a target for each text": (LSTM, as_is, lambda h: h[-1], (12, 7, 4), (7, 1)),
    "as many steps as texts, steps first": (LSTM, as_is, lambda h: h[-1], (12, 12, 4), (12, 1)),
    "one series, a target for each step": (LSTM, as_is, as_is, (12, 4), (12, 1)),
    "one series as a batch of one": (LSTM, lambda x: x[:, None], lambda h: h[:, 0], (12, 4), (12, 1)),
    "sentences of a sample": (lambda: LSTM(True), sentences, of_samples, (12, 15, 4), (12, 1)),
    "nodes that see their neighbours": (lambda: LSTM(True), mixed_first, last_step, (12, 7, 4), (12, 1)),
    "one step each": (LSTM, lambda x: x[None], lambda h: h[0], (12, 4), (12, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_steps_first_where_that_is_meant(name: str) -> None:
    make, before, after, shape, target = RIGHT[name]
    assert checked(make, 8, before, after, shape, target, 0) == []


def test_a_packed_sequence_has_no_axis_of_steps() -> None:
    with seeded(0):
        model, x = Reader(LSTM(True), 8, packed, lambda h: h.data[:12]), torch.randn(12, 7, 4)
        assert told(model, x, torch.randn(12, 1)) == []


def test_samples_that_are_all_alike_cannot_be_replaced() -> None:
    with seeded(0):
        model = Reader(LSTM(), 8, as_is, last_step)
        assert told(model, torch.ones(12, 7, 4), torch.randn(12, 1)) == []
