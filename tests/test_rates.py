"""Does the signal survive the first steps: which networks are tried, what is found, and that all is put back."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from unvanish import zoo
from unvanish.backward import walk
from unvanish.capture import record
from unvanish.decide import VANISHED
from unvanish.evidence.rates import MANY, STEPS, normalised_sums, rate_trials
from unvanish.evidence.updates import TOGETHER, Updates
from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem
from unvanish.records import LossFacts, RateTrial
from unvanish.rules import judge
from unvanish.scaled import shift
from unvanish.zoo.transformers import post_norm, pre_norm


def built(make: Any, *args: Any, seed: int = 0, **more: Any) -> Problem:
    torch.manual_seed(seed)
    return make(*args, **more)


@pytest.mark.parametrize(("make", "depth", "expected"), [(post_norm, 5, 10), (post_norm, 2, 4), (pre_norm, 5, 1)])
def test_normalisers_that_follow_an_addition_are_counted(make: Any, depth: int, expected: int) -> None:
    """A pre-norm network has one of them on its stream, before the head."""
    assert normalised_sums(look(built(make, depth, 16), "quick").calls) == expected


@pytest.mark.parametrize("name", ["batchnorm-relu-20", "residual-50", "preln-transformer-6", "small-gpt", "unet-small"])
def test_other_networks_are_not_tried(name: str) -> None:
    flow = look(zoo.get(name).build(0))
    assert normalised_sums(flow.calls) < MANY
    assert flow.rates == ()


def test_steps_too_small_to_matter_are_not_tried() -> None:
    assert look(built(post_norm, 5, 16, 1.0, 1e-6)).rates == ()


def test_the_trials_are_what_training_does_and_leave_no_trace() -> None:
    problem = built(post_norm, 5, 16, 1.0, 3e-3)
    model: Any = problem.model
    before = copy.deepcopy(model.state_dict())
    flow = look(problem)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not problem.optimizer.state  # type: ignore[union-attr]
    (trial,) = flow.rates
    assert (trial.scale, trial.steps) == (3.0, STEPS)
    assert trial.lr == pytest.approx(9e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=9e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    assert trial.loss == pytest.approx(float(problem.loss(problem.outputs(model)).detach()), rel=1e-4)
    after = [a.log10_transmission for a in look(problem, "quick").layers]
    assert trial.log10_transmission == pytest.approx(min(t for t in after if t is not None), abs=0.01)


def test_the_rates_are_tried_from_the_largest_until_the_signal_survives() -> None:
    problem = built(post_norm, 5, 16, 1.0, 1e-2)
    model: Any = problem.model
    layers = diagnose(problem, effort="quick").layers
    found = iter([-9.0, -4.0, -1.0])

    def fake() -> list[Any]:
        left = next(found)
        return [a.replace(log10_transmission=left) for a in layers]

    trials = rate_trials(problem, model, problem.optimizer, layers, fake, 0)  # type: ignore[arg-type]
    assert [t.scale for t in trials] == pytest.approx([3.0, 1.0, 1.0 / 3.0])
    assert [t.log10_transmission for t in trials] == [-9.0, -4.0, -1.0]


@pytest.mark.parametrize("seed", range(3))
def test_an_error_is_a_network_that_does_not_train_at_its_rate(seed: int) -> None:
    problem = built(post_norm, 16, 16, 1.0, 3e-2, seed=seed)
    (finding,) = [f for f in diagnose(problem, seed=seed).findings if f.code == "UV704"]
    assert finding.level == "error"
    kept = finding.evidence[-1]
    assert kept.relation == ">=" and kept.value is not None and kept.value > VANISHED
    model, optimizer = problem.build(0)
    assert optimizer is not None
    for _ in range(25):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    left = [a.log10_transmission for a in look(problem, "quick").layers if a.log10_transmission is not None]
    assert min(left) < VANISHED


def trials(*left: float | None) -> tuple[RateTrial, ...]:
    scales = (3.0, 1.0, 1.0 / 3.0, 0.1)
    return tuple(
        RateTrial(scale=s, lr=1e-3 * s, steps=STEPS, loss=2.3, log10_transmission=t)
        for s, t in zip(scales, left, strict=False)
    )


@pytest.mark.parametrize(
    ("left", "constant", "expected"),
    [
        ((-1.0,), 2.3, None),
        ((-4.0, -1.0), 2.3, "note"),
        ((-6.0, -4.0, -1.0), 2.3, "error"),
        ((-6.0, -4.0, -1.0), 2.5, None),  # it is lost, and yet the loss has fallen below that of a constant
        ((-9.0, -6.0, -4.0, -3.0), 2.3, None),  # no rate was found at which it survives
        ((None, -1.0), 2.3, None),  # the largest rate gives no finite numbers: nothing is known about the signal there
    ],
)
def test_what_the_trials_mean(left: tuple[float | None, ...], constant: float, expected: str | None) -> None:
    flow = look(zoo.get("relu-he-20").build(0))
    loss = LossFacts(value=2.6, reference=2.6, relative_gap=1.0, best_constant=constant, best_free=0.0, reacts=True)
    step = flow.step
    assert step is not None
    flow = flow.replace(loss=loss, step=step.replace(loss=2.6, ladder=((1.0, 2.5),)), rates=trials(*left))
    levels = [f.level for f in judge(flow) if f.code == "UV704"]
    assert levels == ([] if expected is None else [expected])


def test_updates_taken_together_are_those_of_a_real_step() -> None:
    torch.manual_seed(0)
    sizes = [40, 300, 300, 300, 5]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    early, late = [*model[0].parameters(), *model[1].parameters()], [*model[2].parameters(), *model[3].parameters()]
    optimizer = torch.optim.AdamW([{"params": early, "lr": 1e-2}, {"params": late, "weight_decay": 0.0}], lr=1e-3)
    problem = Problem(model, torch.randn(16, 40), torch.randn(16, 5), nn.functional.mse_loss, optimizer)

    def real_step() -> None:
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()

    for _ in range(2):
        real_step()
    updates, capture = Updates(optimizer, keep=True), record(problem, model)
    assert sum(p.numel() for p in model.parameters()) > 0.5 * TOGETHER
    root: Any = capture.loss_root
    walk(capture, [[(root, torch.ones(()))]], lambda p, _, g: updates.read(p, shift(g.mantissa, g.exponent)))
    updates.flush()
    assert not updates.refused
    before = [p.detach().clone() for p in model.parameters()]
    real_step()
    for parameter, start in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(updates.changes[id(parameter)], parameter.detach() - start, rtol=1e-3, atol=1e-7)
        assert updates.found[id(parameter)] == pytest.approx(float((parameter.detach() - start).norm()), rel=1e-4)
