"""Outputs of a fixed size, and cosines, before a loss that asks for others: named where the loss shows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded

SEEDS = range(2)


class Run(nn.Module):
    """A function of what the network before it computes, with directions of its own."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], classes: int = 10) -> None:
        super().__init__()
        self.run, self.ways = run, nn.Parameter(torch.randn(classes, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.ways, x)


def by_hand(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def network(last: Callable[[], nn.Module], width: int, seed: int) -> tuple[nn.Module, Tensor]:
    with seeded(seed):
        model, x = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, width), last()), torch.randn(128, 10)
    return model, x


def found(model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> tuple[list[str], str]:
    report = diagnose(model, x, y, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-2))
    errors = [f for f in report.findings if f.level == "error"]
    return [f.code for f in errors], errors[0].message if errors else ""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda w, z: F.normalize(z) @ F.normalize(w).T, True),
        (lambda w, z: F.linear(by_hand(z), by_hand(w)), True),
        (lambda w, z: F.cosine_similarity(z[:, None], w[None], dim=-1), True),
        (lambda w, z: F.normalize(z[:, :10]), True),
        (lambda w, z: by_hand(z[:, :10]), True),
        (lambda w, z: 20.0 * F.normalize(z) @ F.normalize(w).T, False),
        (lambda w, z: F.normalize(z) @ F.normalize(w).T / 0.07, False),
        (lambda w, z: 20.0 * by_hand(z[:, :10]), False),
        (lambda w, z: F.normalize(z) @ F.normalize(w).T * w.mean().exp(), False),  # a factor that is learned
        (lambda w, z: F.normalize(z) @ w.T, False),
        (lambda w, z: z @ F.normalize(w).T, False),
        (lambda w, z: F.layer_norm(z[:, :10], (10,)), False),  # of length √10: enough for ten classes
    ],
)
def test_logits_of_a_fixed_size(run: Callable[[Any, Tensor], Tensor], named: bool, seed: int) -> None:
    model, x = network(lambda: Run(run), 16, seed)
    codes, message = found(model, x, torch.arange(128) % 10, F.cross_entropy)
    assert codes == ["UV706"] * named
    assert not named or ("cross_entropy" in message and "unbounded" in message)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "last",
    [
        lambda: nn.BatchNorm1d(3, affine=False),
        lambda: nn.LayerNorm(3, elementwise_affine=False),
        lambda: Run(lambda w, z: F.normalize(z)),
        lambda: nn.BatchNorm1d(3),
        lambda: nn.BatchNorm1d(3, affine=False).eval(),
    ],
    ids=["batch", "layer", "length", "with weights", "by stored statistics"],
)
def test_quantities_of_another_size(last: Callable[[], nn.Module], seed: int, request: Any) -> None:
    """Targets that the same last call has made can be reached, others far from them cannot unless weights go there."""
    name = request.node.callspec.id
    model, x = network(last, 3, seed)
    other, _ = network(last, 3, seed + 10)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with torch.no_grad():
        reached = other(x)
    assert found(model, x, reached, F.mse_loss)[0] == []
    assert found(model, x, 3.0 + 10.0 * reached, F.mse_loss)[0] == (
        [] if "weights" in name or "stored" in name else ["UV706"]
    )
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bounded_activation_behind_a_normaliser_is_what_limits(seed: int) -> None:
    model, x = network(lambda: nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Sigmoid()), 1, seed)
    assert found(model, x, x[:, :1].sigmoid(), F.mse_loss)[0] == []
    assert found(model, x, 5.0 + x[:, :1], F.mse_loss)[0] == ["UV701"]


def test_an_angle_between_outputs_and_targets_has_a_least_loss() -> None:
    """Of free outputs it has none: longer ones give less and less."""
    model, x = network(lambda: Run(lambda w, z: F.normalize(z)), 3, 0)
    report = diagnose(model, x, F.normalize(x[:, :3]), lambda o, t: (1.0 - (o * t).sum(1)).mean())
    assert report.loss is not None and report.loss.relative_gap == pytest.approx(1.0, abs=0.1) and not report.undecided


class Towers(nn.Module):
    """Two views of each sample, embedded."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.last = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16)), last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.last(self.net(x)), self.last(self.net(x + 0.1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_embeddings_of_length_1_can_reach_is_what_counts(temperature: float, seed: int) -> None:
    """Each like its partner, and all others as far off as the corners of a simplex: in closed form."""

    def loss(o: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(o[0] @ o[1].T / temperature, y)

    samples, places = 12, torch.arange(12)
    least = math.log1p((samples - 1) * math.exp(-(1 + 1 / (samples - 1)) / temperature))
    with seeded(seed):
        x = torch.randn(samples, 10)
        sized, by_hands, free = Towers(F.normalize), Towers(by_hand), Towers(lambda z: z)
    for model in (sized, by_hands):
        facts = diagnose(model, x, places, loss).flow.loss
        assert facts is not None and facts.best_free == pytest.approx(least, rel=2e-3)
        assert facts.best_constant == pytest.approx(math.log(samples), rel=1e-4)
    facts = diagnose(free, x, places, loss).flow.loss
    assert facts is not None and facts.best_free is not None and facts.best_free < 0.1 * least


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_below_zero_has_the_scale_of_its_twin_above(seed: int) -> None:
    """The mean cosine of two towers, and the same less its lowest value: one constant is the best answer of both."""
    with seeded(seed):
        model, x = Towers(F.normalize), torch.randn(32, 10)
    for least in (-1.0, 0.0):
        facts = diagnose(model, x, torch.zeros(32), lambda o, y, a=least: a + 1 - (o[0] * o[1]).sum(1).mean()).flow.loss
        assert facts is not None and facts.best_free == pytest.approx(least, abs=1e-4)
        assert facts.reference is not None and facts.relative_gap == pytest.approx(1.0, abs=1e-2)


def spread(z: Tensor) -> Tensor:
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-5)


def of_batch(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / (z.std(0, unbiased=False) + 1e-5)


def ends(z: Tensor) -> Tensor:
    low, high = z.aminmax(dim=1, keepdim=True)
    return (z - low) / (high - low)


def largest(z: Tensor) -> Tensor:
    return z / z.abs().amax(1, keepdim=True)


def part(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("last", [spread, of_batch, ends, largest, part])
def test_a_normaliser_written_by_hand_fits_targets_of_its_own_kind(last: Callable[[Tensor], Tensor], seed: int) -> None:
    model, x = network(lambda: Run(lambda w, z: last(z[:, :5])), 16, seed)
    way = torch.linspace(-1.0, 2.0, 50).view(10, 5).sin()
    codes, message = found(model, x, 30.0 * (x @ way) + 20.0, F.mse_loss)
    assert codes == ["UV706"] and "div" in message
    assert found(model, x, last(x @ way), F.mse_loss)[0] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_softmax_written_by_hand_is_one(seed: int) -> None:
    model, x = network(lambda: Run(lambda w, z: part(z[:, :5])), 16, seed)
    y = x[:, :5].argmax(1)
    assert found(model, x, y, F.cross_entropy)[0] == ["UV706"]
    assert found(model, x, y, lambda o, t: F.nll_loss(o.log(), t))[0] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_divisor_that_is_learned_or_differs_gives_no_fixed_size(seed: int) -> None:
    for last in (lambda w, z: z[:, :5] / w[:1, :5], lambda w, z: z[:, :5] / (1.0 + z[:, :1].square())):
        model, x = network(lambda last=last: Run(last), 16, seed)
        assert "UV706" not in found(model, x, 30.0 * x[:, :5], F.mse_loss)[0]
