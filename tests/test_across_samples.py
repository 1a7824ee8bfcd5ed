"""A softmax or a normalisation over the batch is named; samples against samples, pooling and ranking are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.records import AcrossFacts

SEEDS = range(2)
SAMPLES, STEPS = 16, 5
Run = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Samples (16, 5, 6) or (16, 6), through ``run`` to four numbers each."""

    def __init__(self, run: Run, norm: bool = False) -> None:
        super().__init__()
        self.run, self.embed, self.score = run, nn.Linear(6, 8), nn.Linear(8, 1)
        self.head, self.gate = nn.Linear(8, 4), nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def problem(run: Run, seed: int, loss: Any = F.mse_loss, steps: bool = False, norm: bool = False) -> Problem:
    torch.manual_seed(seed)
    model = Net(run, norm)
    inputs = torch.randn(SAMPLES, *([STEPS] * steps), 6)
    with torch.no_grad():
        size = model(inputs).shape[0]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return Problem(model, inputs, torch.rand(size, 4), loss, optimizer)


def found(given: Problem) -> tuple[AcrossFacts, ...]:
    report = diagnose(given)
    assert bool(report.across) == any(f.code == "UV709" for f in report.findings)
    return report.across


def hidden(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.norm(m.embed(x)))


def pooled(axis: int | None) -> Run:
    def run(m: Any, x: Tensor) -> Tensor:
        h = hidden(m, x)
        return m.head((F.softmax(m.score(h), axis) * h).sum(1))

    return run


def gated(axis: int) -> Run:
    return lambda m, x: m.head(hidden(m, x)) * m.gate(x).softmax(axis)


def last(function: Callable[[Tensor], Tensor]) -> Run:
    return lambda m, x: function(m.head(hidden(m, x)))


def against_each_other(m: Any, x: Tensor) -> Tensor:
    h = hidden(m, x)
    return m.head((h @ h.T).softmax(1) @ h)


def slots(axis: int) -> Run:
    """Means over all samples, weighed, and given back to each: attention to a few places in between."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = hidden(m, x)
        places = (m.gate(x).softmax(axis) if axis == 0 else m.gate(x).T.softmax(axis).T).T @ h
        return m.head(h + m.gate(x).softmax(1) @ places)

    return run


def bag(m: Any, x: Tensor) -> Tensor:
    h = hidden(m, x)
    return m.head((m.score(h).softmax(0) * h).sum(0, keepdim=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("run", "steps", "shape"),
    [
        (pooled(0), True, (SAMPLES, STEPS, 1)),
        pytest.param(
            pooled(None), True, (SAMPLES, STEPS, 1), marks=pytest.mark.filterwarnings("ignore:Implicit dimension")
        ),
        (gated(0), False, (SAMPLES, 4)),
        (last(lambda z: F.normalize(z, dim=0)), False, (SAMPLES, 4)),
        (last(lambda z: z.softmax(0)), False, (SAMPLES, 4)),
        (last(lambda z: F.log_softmax(z, dim=-2)), False, (SAMPLES, 4)),
    ],
)
def test_a_normalisation_over_the_samples_is_named(run: Run, steps: bool, shape: tuple[int, ...], seed: int) -> None:
    (facts,) = found(problem(run, seed, steps=steps))
    assert (facts.axis, facts.shape) == (0, shape)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_seen_behind_a_batch_normalisation_whose_mode_and_numbers_stay(seed: int) -> None:
    given = problem(gated(0), seed, norm=True)
    assert isinstance(given.model, Net)
    before = {k: v.clone() for k, v in given.model.state_dict().items()}
    assert found(given) and not found(problem(gated(1), seed, norm=True))
    assert all(torch.equal(v, before[k]) for k, v in given.model.state_dict().items())
    assert all(module.training for module in given.model.modules())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("run", "steps"),
    [
        (pooled(1), True),
        (gated(1), False),
        (last(lambda z: z.softmax(1)), False),
        (last(lambda z: F.normalize(z)), False),
        (against_each_other, False),
        (slots(0), False),
        (slots(1), False),
        (bag, False),
        (last(lambda z: (z - z.mean(0)) / z.std(0)), False),
    ],
)
def test_what_treats_samples_apart_or_means_to_mix_them_is_quiet(run: Run, steps: bool, seed: int) -> None:
    assert not found(problem(run, seed, steps=steps))


def density(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        weights = F.log_softmax(outputs[:, :2], axis)
        return -torch.logsumexp(weights - (targets[:, :1] - outputs[:, 2:]).square(), 1).mean()

    return loss


def pairs(outputs: Tensor, targets: Tensor) -> Tensor:
    a, b = F.normalize(outputs, dim=1), F.normalize(targets, dim=1)
    scores = 5.0 * a @ b.T
    return -(scores.log_softmax(0).diagonal() + scores.log_softmax(1).diagonal()).mean()


def ranked(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(targets[:, 0].softmax(0) * F.log_softmax(outputs[:, 0], 0)).sum()


def correlated(outputs: Tensor, targets: Tensor) -> Tensor:
    return (F.normalize(outputs, dim=0).T @ F.normalize(targets, dim=0) - torch.eye(4)).square().sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_weights_of_a_mixture_are_normalised_within_each_sample(seed: int) -> None:
    run = last(lambda z: z)
    report = diagnose(problem(run, seed, density(0)))
    finding = next(f for f in report.findings if f.code == "UV709")
    assert finding.level == "note" and finding.cause == "log_softmax" and "test_across_samples.py" in finding.message
    for loss in (density(1), pairs, ranked, correlated):
        assert not found(problem(run, seed, loss))


@pytest.mark.parametrize(("place", "level"), [(last(lambda z: z.softmax(0)), "error"), (gated(0), "note")])
def test_it_is_an_error_where_the_outputs_themselves_are_it(place: Run, level: str) -> None:
    report = diagnose(problem(place, 0))
    assert next(f.level for f in report.findings if f.code == "UV709") == level


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("axis", "code"), [(0, "UV709"), (1, "")])
def test_log_probabilities_that_are_shares_of_the_batch_are_put_down_to_the_axis(
    axis: int, code: str, seed: int
) -> None:
    """And not to a missing log_softmax: along the axis of the classes they would be what nll_loss takes."""
    torch.manual_seed(seed)
    ends = {0: lambda z: torch.log(torch.softmax(z, 0)), 1: lambda z: torch.log(torch.softmax(z, 1))}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x: Tensor) -> Tensor:
            return ends[axis](self.f(x))

    report = diagnose(Problem(Net(), torch.randn(32, 6), torch.arange(32) % 4, F.nll_loss))
    errors = [f.code for f in report.findings if f.level == "error"]
    assert errors == ([code] if code else [])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("log", [False, True])
def test_shares_of_a_whole_list_are_within_reach(log: bool, seed: int) -> None:
    """One score a sample, of which a softmax over the batch makes shares: a ranked list, or weights of a portfolio."""
    torch.manual_seed(seed)

    class List(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            scores = self.score(x).squeeze(1)
            return scores.log_softmax(0) if log else scores.softmax(0)

    def listed(outputs: Tensor, targets: Tensor) -> Tensor:
        return -(targets * (outputs if log else (outputs + 1e-9).log())).sum()

    inputs = torch.randn(32, 6)
    report = diagnose(Problem(List(), inputs, (3.0 * inputs[:, 0]).softmax(0), listed))
    assert [(f.code, f.level) for f in report.findings] == [("UV709", "note")]
