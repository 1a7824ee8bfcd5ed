"""Outputs that a loss only compares with one another: alike, they are told of, unless something keeps samples apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded

SEEDS = range(3)
Views = tuple[Tensor, Tensor]


class Twins(nn.Module):
    """Two views through one encoder. ``predictor``: one side is predicted, and the other gives no gradient."""

    def __init__(self, predictor: bool = False) -> None:
        super().__init__()
        self.last = nn.Linear(32, 8)
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), self.last)
        self.predictor = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) if predictor else None

    def forward(self, a: Tensor, b: Tensor) -> Views:
        one, other = self.encoder(a), self.encoder(b)
        return (one, other) if self.predictor is None else (self.predictor(one), other.detach())


def squared(outputs: Views, _: Any = None) -> Tensor:
    return F.mse_loss(*outputs)


def cosine(outputs: Views, _: Any = None) -> Tensor:
    return -F.cosine_similarity(*outputs).mean()


def cosine_from_zero(outputs: Views, _: Any = None) -> Tensor:
    return 1.0 + cosine(outputs)


def stopped(outputs: Views, _: Any = None) -> Tensor:
    return cosine((outputs[0], outputs[1].detach()))


def variance(outputs: Views, _: Any = None) -> Tensor:
    return squared(outputs) + sum((F.relu(1.0 - (z.var(0) + 1e-4).sqrt()).mean() for z in outputs), torch.zeros(()))


def contrast(outputs: Views, _: Any = None) -> Tensor:
    a, b = (F.normalize(z, dim=1) for z in outputs)
    return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))


def triplet(outputs: Views, _: Any = None) -> Tensor:
    return F.triplet_margin_loss(outputs[0], outputs[1], outputs[1].roll(1, 0))


def to_zero(outputs: Views, _: Any = None) -> Tensor:
    return outputs[0].square().mean() + outputs[1].square().mean()


def to_one(outputs: Views, _: Any = None) -> Tensor:
    return sum(((z - 1.0).square().mean() for z in outputs), torch.zeros(()))


def views(seed: int) -> Views:
    with seeded(seed):
        centre = torch.randn(64, 12)
        return centre + 0.3 * torch.randn(64, 12), centre + 0.3 * torch.randn(64, 12)


def twins(seed: int, apart: float = 1.0, offset: float = 1.0, **options: Any) -> Twins:
    """``apart``: a factor of the last weights, which shrinks what tells the outputs apart and leaves their mean."""
    with seeded(seed):
        model = Twins(**options)
        with torch.no_grad():
            model.last.weight.mul_(apart)
            model.last.bias.add_(offset * torch.randn(8))
        return model


def check(model: nn.Module, x: Any, loss: Any) -> unvanish.Report:
    return unvanish.diagnose(model, x, None, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3))


def codes(report: unvanish.Report) -> dict[str, str]:
    return {each.code: each.level for each in report.findings}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [squared, cosine, cosine_from_zero, stopped])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_outputs_that_are_alike_under_a_loss_that_any_constant_satisfies(
    seed: int, loss: Callable[..., Tensor], scale: float
) -> None:
    report = check(twins(seed, apart=1e-2), views(seed), lambda outputs, _: scale * loss(outputs))
    assert report.verdict == "collapsed" and codes(report).get("UV711") == "error"
    assert "UV401" not in codes(report)
    assert report.same is not None and 0.0 < report.same.apart < 1e-2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [squared, cosine, cosine_from_zero, stopped])
def test_the_same_losses_while_outputs_are_apart(seed: int, loss: Callable[..., Tensor]) -> None:
    assert "UV711" not in codes(check(twins(seed), views(seed), loss))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("offset", [1.0, 30.0])
@pytest.mark.parametrize("loss", [variance, contrast, triplet, to_zero, to_one])
def test_losses_that_keep_samples_apart_or_ask_for_one_constant(
    seed: int, offset: float, loss: Callable[..., Tensor]
) -> None:
    assert "UV711" not in codes(check(twins(seed, apart=1e-2, offset=offset), views(seed), loss))


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_far_from_zero_are_not_alike_where_only_differences_count(seed: int) -> None:
    assert "UV711" not in codes(check(twins(seed, offset=30.0), views(seed), squared))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("predictor", [False, True])
def test_training_without_a_stopped_gradient_collapses_and_with_it_does_not(seed: int, predictor: bool) -> None:
    model = twins(seed, predictor=predictor)
    loss, rate = (cosine, 3e-3) if predictor else (squared, 1e-2)
    step = torch.optim.Adam(model.parameters(), rate)
    for turn in range(200):
        step.zero_grad()
        loss(model(*views(100 * seed + turn))).backward()
        step.step()
    outputs = model(*views(seed))[1].detach()
    spread = float((F.normalize(outputs, dim=1) - F.normalize(outputs, dim=1).mean(0)).square().sum(1).mean())
    report = unvanish.diagnose(model, views(seed), None, loss, optimizer=step)
    assert ("UV711" in codes(report)) != predictor, spread


@pytest.mark.parametrize("seed", SEEDS)
def test_an_autoencoder_and_constant_targets_are_left_alone(seed: int) -> None:
    x = views(seed)[0]
    with seeded(seed):
        last = nn.Linear(32, 12)
        model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), last)
        with torch.no_grad():
            last.weight.mul_(1e-2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for targets in (x, torch.ones(64, 12)):
        report = unvanish.diagnose(model, x, targets, F.mse_loss, optimizer=optimizer)
        assert "UV711" not in codes(report)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("alike", "expected"), [(True, False), (False, True)])
def test_directions_are_no_more_alike_than_those_that_such_inputs_have(seed: int, alike: bool, expected: bool) -> None:
    """Inputs far from zero, or of one scene, give directions that are alike in any network."""
    x, y = views(seed)
    x, y = (0.05 * x + 2.0, 0.05 * y + 2.0) if alike else (x, y)
    report = check(twins(seed, apart=1.0 if alike else 1e-2), (x, y), stopped)
    assert ("UV711" in codes(report)) == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reads", [False, True])
def test_targets_that_ask_for_pairs_that_are_alike_on_this_batch(seed: int, reads: bool) -> None:
    """Pairs of one class under a contrastive loss: the next batch asks others to differ. Labels beside it do not."""
    labels = torch.ones(64)

    def contrastive(outputs: Views, labels: Tensor) -> Tensor:
        like, same = F.cosine_similarity(*outputs), labels.float()
        return (same * (1.0 - like) + (1.0 - same) * F.relu(like)).mean() if reads else (1.0 - like).mean()

    model = twins(seed, apart=1e-2)
    for targets in (labels, labels.long(), labels.bool()):
        optimizer = torch.optim.Adam(model.parameters())
        report = unvanish.diagnose(model, views(seed), targets, contrastive, optimizer=optimizer)
        assert ("UV711" in codes(report)) != reads
