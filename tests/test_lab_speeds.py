"""Nielsen's networks: the error signals against autograd, and the published norms against bands over seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import lab
from unvanish.lab import speeds
from unvanish.population.designs import Design
from unvanish.records import UnvanishError
from unvanish.zoo import mnist


@pytest.mark.parametrize("hidden", [2, 3, 4])
def test_the_published_figures_are_those_of_the_book(golden, hidden):
    book = golden("nielsen")[f"{hidden}hidden"]
    for epoch, norms in speeds.PUBLISHED[hidden].items():
        assert norms == pytest.approx(book[f"epoch{epoch}"], rel=1e-4)


@pytest.mark.parametrize(("hidden", "seed"), [(1, 5), (2, 0), (3, 1), (4, 7)])
def test_norms_are_those_of_the_bias_gradients_while_torch_trains(hidden, seed):
    """The recursion of the book against autograd, with all 784 pixels, for a few steps with weight decay."""
    images, labels = mnist.load(count=60)
    rate, penalty = 0.7, 9.0
    network = Design(hidden, init="normal").build(784, 10, seed)
    linears: list[Any] = [m for m in network.modules() if isinstance(m, nn.Linear)]
    wanted = F.one_hot(labels, 10).float()
    for norms in speeds.norms(hidden, range(seed, seed + 1), (images, labels), epochs=4, rate=rate, penalty=penalty):
        network.zero_grad()
        (F.binary_cross_entropy_with_logits(network(images), wanted, reduction="sum") / len(images)).backward()
        expected = [float(linear.bias.grad.norm()) for linear in linears[:-1]]
        assert norms[0].tolist() == pytest.approx(expected, rel=2e-4)
        with torch.no_grad():
            for linear in linears:
                linear.weight.mul_(1 - rate * penalty / len(images)).sub_(rate * linear.weight.grad)
                linear.bias.sub_(rate * linear.bias.grad)


def test_networks_side_by_side_do_not_disturb_each_other():
    data = mnist.load(count=40)
    together = torch.stack(list(speeds.norms(3, range(2, 5), data, epochs=3)), dim=1)
    for place, seed in enumerate(range(2, 5)):
        alone = torch.stack(list(speeds.norms(3, range(seed, seed + 1), data, epochs=3)), dim=1)
        assert torch.allclose(together[place], alone[0], rtol=1e-4)


def test_published_norms_lie_in_the_bands_of_fifty_seeds_and_of_the_trained_seeds():
    outcome = lab.run("speeds", seeds=5)
    assert outcome.ok, [check for check in outcome.checks if not check.ok]
    published = [row for row in outcome.rows if row["published"] is not None]
    assert len(published) == 4 * (2 + 3 + 4) and all(row["inside"] for row in published)
    widths = [row["high"] - row["low"] for row in published if row["epoch"] == 0]
    assert max(widths) < 0.6  # decades: a band that would let anything in proves nothing
    assert [drawing.name for drawing in outcome.pictures] == ["speeds"] * 3


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_wrong_figures_would_be_noticed(monkeypatch, factor):
    wrong = {2: {0: tuple(factor * norm for norm in speeds.PUBLISHED[2][0])}}
    monkeypatch.setattr(speeds, "PUBLISHED", wrong)
    outcome = lab.run("speeds", hidden=2, epochs=1, seeds=1)
    assert not outcome.ok
    assert [check.found for check in outcome.checks if "published" in check.what] == ["0 of 2"]


def test_stopping_keeps_what_was_measured():
    def impatient(share: float, what: str) -> None:
        if what.startswith("3 hidden layers, epoch 20"):
            raise lab.Stopped

    outcome = lab.run("speeds", progress=impatient, seeds=1, epochs=30)
    assert {row["hidden"] for row in outcome.rows} == {2, 3}
    assert any("Stopped early" in note for note in outcome.notes)
    assert any("3 hidden layers" in drawing.title for drawing in outcome.pictures)


def test_stopping_at_once_leaves_an_outcome_without_rows():
    def never(share: float, what: str) -> None:
        raise KeyboardInterrupt

    outcome = lab.run("speeds", progress=never, seeds=1, epochs=9, hidden=2)
    assert outcome.rows  # 9 epochs pass before the first report
    longer = lab.run("speeds", progress=never, seeds=1, epochs=30, hidden=2)
    assert {row["epoch"] for row in longer.rows} == {0, 1} and "Stopped early" in longer.notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 90.0, "penalty": 500.0}, "45 times the weights away"),
        ({"epochs": 0}, "from 1 to 5,000"),
        ({"rate": math.nan}, "from 1e-06 to 100"),
        ({"hidden": (1.0,)}, "from 2 to 8"),
        ({"images": 1_001}, "holds 1000"),
        ({"layers": 3}, "no setting 'layers'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UnvanishError, match=message):
        lab.run("speeds", **settings)


def test_other_settings_than_the_books_are_not_compared_with_it():
    outcome = lab.run("speeds", hidden=2, epochs=2, seeds=5, rate=0.2)
    assert all(row["published"] is None and row["inside"] is None for row in outcome.rows)
    assert any("not the book's" in note for note in outcome.notes)
