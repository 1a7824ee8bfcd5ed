"""Losses that a model computes by hand: outputs that meet every target are seen there, too, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.evidence import inside
from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


class Own(nn.Module):
    """Computes ``loss(self, outputs, x, y)``; gives the loss, or a mapping of the loss and its outputs."""

    def __init__(self, loss: Callable[..., Tensor], outputs: int, mapping: bool) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, outputs))
        self.loss, self.mapping = loss, mapping
        self.centres = nn.Parameter(torch.randn(5, outputs), requires_grad=loss is nearest_centre)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        outputs = self.f(x)
        loss = self.loss(self, outputs, x, y)
        return {"loss": loss, "outputs": outputs} if self.mapping else loss


def squares(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y) ** 2).mean()


def targets_first(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (y - outputs).abs().mean()


def log_cosh(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.sub(outputs, y).cosh().log().mean()


def nearest_centre(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Every output meets every centre, on purpose."""
    return (outputs[:, None] - model.centres[None]).square().sum(-1).amin(1).mean()


def matching_moments(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Every output meets every target in a kernel, on purpose: the outputs are to be distributed as the targets are."""
    across = outputs[:, None] - y[None]
    within = outputs[:, None] - outputs[None]
    return 1.0 - 2.0 * (-across.square().sum(-1)).exp().mean() + (-within.square().sum(-1)).exp().mean()


def expanded(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    return (outputs.expand(n, n) - y.reshape(n, 1).expand(n, n).T).square().mean()


def expanded_and_recognised(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    return F.binary_cross_entropy_with_logits(outputs.expand(n, n), (y > 0).float().reshape(1, n).expand(n, n))


def repeated(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    return (outputs.repeat(1, n) - y.reshape(1, n).tile(n, 1)).square().mean()


def repeated_and_recognised(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    answers = (y > 0).float().reshape(1, n).repeat_interleave(n, 0)
    return F.binary_cross_entropy_with_logits(outputs.repeat(1, n), answers)


def repeated_for_several(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (outputs.repeat(1, 3) - torch.stack([y, y + 1.0, y - 1.0], 1).reshape(-1, 3)).square().mean()


def repeated_batch(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Twice the same samples, each beside its own answer."""
    return (outputs.repeat(2, 1) - y.reshape(-1, 1).repeat(2, 1)).square().mean()


def several_each(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """One output for the three answers that each sample has."""
    return (outputs.expand(-1, 3) - torch.stack([y, y + 1.0, y - 1.0], 1).reshape(-1, 3)).square().mean()


def several_each_and_recognised(model: Own, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.expand(-1, 3), (y > 0).float().reshape(-1, 1).expand(-1, 3))


def report_of(loss: Any, targets: Any, seed: int, mapping: bool = False, loss_fn: Any = None) -> Report:
    torch.manual_seed(seed)
    x = torch.randn(48, 6)
    model = Own(loss, 1, mapping)
    y = targets(x)
    return diagnose(Problem(model, (x, y), loss_fn=loss_fn, optimizer=torch.optim.Adam(model.parameters(), 3e-3)))


def flat(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1]


def column(x: Tensor) -> Tensor:
    return (x[:, 0] * x[:, 1])[:, None]


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings if finding.level == "error"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("loss", [squares, targets_first, log_cosh])
def test_outputs_that_meet_every_target_are_said(loss: Any, mapping: bool, seed: int) -> None:
    report = report_of(loss, flat, seed, mapping)
    assert codes(report) == {"UV708"}
    assert "(48, 1)" in str(report) and "(48,)" in str(report) and "test_pairs_inside.py" in str(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_constant_of_squares_is_the_variance_of_the_targets(seed: int) -> None:
    report = report_of(squares, flat, seed)
    torch.manual_seed(seed)
    assert report.loss is not None
    assert report.loss.best_constant == pytest.approx(float(flat(torch.randn(48, 6)).var(unbiased=False)), rel=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("loss", [squares, targets_first, log_cosh, nearest_centre, matching_moments])
def test_outputs_with_a_target_of_their_own_are_not(loss: Any, mapping: bool, seed: int) -> None:
    assert not codes(report_of(loss, column, seed, mapping))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("loss", [expanded, expanded_and_recognised, repeated, repeated_and_recognised])
def test_shapes_stretched_by_hand_before_they_meet_are_said_as_they_were(loss: Any, mapping: bool, seed: int) -> None:
    for targets in (flat, column):
        report = report_of(loss, targets, seed, mapping)
        assert codes(report) == {"UV708"}
        assert "outputs of shape (48, 1) meet targets of shape (1, 48)" in " ".join(str(report).split())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("loss", [several_each, several_each_and_recognised, repeated_for_several, repeated_batch])
def test_one_side_stretched_to_the_other_is_not(loss: Any, mapping: bool, seed: int) -> None:
    assert not codes(report_of(loss, flat, seed, mapping))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [expanded_and_recognised, repeated_and_recognised])
def test_the_free_outputs_of_a_stretched_one_are_as_many_as_there_were(loss: Any, seed: int) -> None:
    report = report_of(loss, flat, seed)
    torch.manual_seed(seed)
    share = (flat(torch.randn(48, 6)) > 0).double().mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    assert report.loss is not None
    assert report.loss.best_free == pytest.approx(float(entropy), rel=1e-5)


@pytest.mark.parametrize("targets", [flat, column])
def test_a_loss_fn_that_hands_on_the_loss_of_the_model_is_none(targets: Any) -> None:
    def handed_on(outputs: Any, _: Any) -> Tensor:
        return outputs["loss"]

    with_it, without = (report_of(squares, targets, 0, True, loss_fn) for loss_fn in (handed_on, None))
    assert with_it.to_json() == without.to_json()
    assert ("UV708" in codes(with_it)) == (targets is flat)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stretch", [lambda o: o.repeat(1, 48), lambda o: o.expand(48, 48)])
def test_outputs_that_the_model_stretches_itself_have_the_constant_of_what_it_stretched(
    stretch: Any, seed: int
) -> None:
    class Stretches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return stretch(self.f(x))

    torch.manual_seed(seed)
    model, x = Stretches(), torch.randn(48, 6)
    y = flat(x)
    report = diagnose(model, x, y, lambda o, t: (o - t).square().mean())
    assert "UV708" in codes(report) and report.pairs is not None
    assert report.pairs.constant == pytest.approx(float(y.var(unbiased=False)), rel=1e-4)


class Towers(nn.Module):
    """Two networks whose outputs are matched with each other, both ways, by a loss inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        alike = 5.0 * F.normalize(self.one(x), dim=-1) @ F.normalize(self.other(y), dim=-1).T
        own = torch.arange(len(x))
        return 0.5 * (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own))


@pytest.mark.parametrize("seed", SEEDS)
def test_few_passes_tell_that_a_loss_inside_the_model_pairs_what_it_compares(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, once = list[int](), inside._run
    monkeypatch.setattr(inside, "_run", lambda *given: passes.append(1) or once(*given))
    torch.manual_seed(seed)
    report = diagnose(Problem(Towers(), (torch.randn(16, 6), torch.randn(16, 6))))
    assert 0 < len(passes) <= 5
    assert report.flow.pairs is None and report.loss is not None and report.loss.reacts
