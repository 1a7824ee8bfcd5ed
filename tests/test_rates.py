"""Does the signal survive the first steps: which networks are tried, what is found, and that all is put back."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from unvanish import zoo
from unvanish.decide.limits import VANISHED
from unvanish.evidence import moved as moved_module
from unvanish.evidence.moved import moved
from unvanish.evidence.rates import LARGER, MANY, SMALLER, normalised_sums, rate_trials
from unvanish.evidence.step import REAL_STEPS, First
from unvanish.flow.look import looking
from unvanish.flow.measure import transmissions
from unvanish.flow.updates import TOGETHER, Updates
from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem
from unvanish.records import LossFacts, RateTrial
from unvanish.report import Report
from unvanish.rules import judge
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.trace.scaled import shift
from unvanish.zoo.transformers import post_norm, pre_norm


def built(make: Any, *args: Any, seed: int = 0, **more: Any) -> Problem:
    torch.manual_seed(seed)
    return make(*args, **more)


@pytest.mark.parametrize(("make", "depth", "expected"), [(post_norm, 5, 10), (post_norm, 2, 4), (pre_norm, 5, 1)])
def test_normalisers_that_follow_an_addition_are_counted(make: Any, depth: int, expected: int) -> None:
    """A pre-norm network has one of them on its stream, before the head."""
    assert normalised_sums(look(built(make, depth), "quick").calls) == expected


@pytest.mark.parametrize("name", ["batchnorm-relu-20", "residual-50", "preln-transformer-6", "small-gpt", "unet-small"])
def test_other_networks_are_not_tried(name: str) -> None:
    flow = look(zoo.get(name).build(0))
    assert normalised_sums(flow.calls) < MANY
    assert flow.rates == ()


def test_steps_too_small_to_matter_are_not_tried() -> None:
    assert look(built(post_norm, 5, 1.0, 1e-6)).rates == ()


def test_the_trials_are_what_training_does_and_leave_no_trace() -> None:
    problem = built(post_norm, 5, 1.0, 3e-3)
    model: Any = problem.model
    before = copy.deepcopy(model.state_dict())
    flow = look(problem)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not problem.optimizer.state  # type: ignore[union-attr]
    assert [trial.scale for trial in flow.rates] == [1.0, 3.0]
    for trial in flow.rates:
        model.load_state_dict(before)
        assert (trial.steps, trial.lr) == (REAL_STEPS, pytest.approx(trial.scale * 3e-3))
        optimizer = torch.optim.Adam(model.parameters(), lr=trial.lr)
        for _ in range(REAL_STEPS):
            optimizer.zero_grad()
            problem.loss(problem.outputs(model)).backward()
            optimizer.step()
        assert trial.loss == pytest.approx(float(problem.loss(problem.outputs(model)).detach()), rel=1e-4)
        after = [a.log10_transmission for a in look(problem, "quick").layers]
        assert trial.log10_transmission == pytest.approx(min(t for t in after if t is not None), abs=0.01)


@pytest.mark.parametrize(
    ("left", "scales"),
    [((-1.0, -9.0), (1.0, LARGER)), ((-9.0, -1.0), (1.0, SMALLER)), ((math.nan,), (1.0,)), ((-math.inf,), (1.0,))],
)
def test_a_larger_rate_is_tried_where_the_signal_survives_and_a_smaller_one_where_it_is_lost(
    left: tuple[float, ...], scales: tuple[float, ...]
) -> None:
    problem = built(post_norm, 5, 1.0, 1e-2)
    model: Any = problem.model
    layers = diagnose(problem, effort="quick").layers
    found = iter(left)

    def fake() -> tuple[float, dict[str, float]]:
        now = next(found)
        return 0.5, {a.name: now for a in layers}

    with looking(problem, model) as look:
        tried = rate_trials(look, problem.optimizer, layers, fake)  # type: ignore[arg-type]
    assert tuple(t.scale for t in tried) == scales
    assert [t.log10_transmission for t in tried] == [x if math.isfinite(x) else None for x in left]


def test_walks_from_the_same_weights_share_their_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two walks of six steps, each with a pass that measures its end, take thirteen passes, and the numbers stay."""
    passes: list[int] = []

    def trials() -> tuple[RateTrial, ...]:
        problem = built(post_norm, 5, 1.0, 3e-3)
        layers = diagnose(problem, effort="quick").layers
        model: Any = problem.model
        with looking(problem, model) as look:
            watching = model.register_forward_hook(lambda *_: passes.append(1))
            found = rate_trials(look, problem.optimizer, layers, lambda: moved(look))  # type: ignore[arg-type]
            watching.remove()
        return found

    shared, count = trials(), len(passes)
    assert count == 2 * (REAL_STEPS + 1) - 1
    monkeypatch.setattr(First, "of", lambda self, pull: pull())
    assert trials() == shared
    assert len(passes) == count + 2 * (REAL_STEPS + 1)


def test_the_report_carries_the_trials() -> None:
    report = diagnose(built(post_norm, 5, 1.0, 1e-2))
    assert len(report.rates) == 2
    assert Report.from_json(report.to_json()).rates == report.rates
    (finding,) = [f for f in report.findings if f.code == "UV704"]
    assert [e.value for e in finding.evidence] == [t.log10_transmission for t in report.rates]


def test_steps_taken_at_the_present_rate_are_not_taken_again() -> None:
    """The first step of Adam at 1 raises the loss: the steps that this asks for are those of the first trial."""
    flow = look(built(post_norm, 5, 1.0, 1.0))
    assert flow.step is not None and flow.step.walked is not None
    assert flow.step.walked == flow.rates[0].loss


@pytest.mark.parametrize("seed", range(3))
def test_an_error_is_a_network_that_does_not_train_at_its_rate(seed: int) -> None:
    problem = built(post_norm, 16, 1.0, 3e-2, seed=seed)
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


def test_where_no_rate_keeps_the_signal_it_is_said() -> None:
    report = diagnose(built(post_norm, 5, 1.0, 1.0))
    assert all(t.log10_transmission is not None and t.log10_transmission < VANISHED for t in report.rates)
    assert any("at every rate that was tried" in note for note in report.notes)
    kept = diagnose(built(post_norm, 5, 1.0, 1e-2))
    assert not any("at every rate" in note for note in kept.notes)


def trial(scale: float, left: float | None) -> RateTrial:
    return RateTrial(scale=scale, lr=1e-3 * scale, steps=REAL_STEPS, loss=2.3, log10_transmission=left)


@pytest.mark.parametrize(
    ("left", "constant", "expected"),
    [
        ({1.0: -1.0, LARGER: -1.2}, 2.3, None),
        ({1.0: -1.0, LARGER: -4.0}, 2.3, "note"),
        ({1.0: -4.0, SMALLER: -1.0}, 2.3, "error"),
        ({1.0: -4.0, SMALLER: -1.0}, 2.5, None),  # it is lost, and yet the loss has fallen below that of a constant
        ({1.0: -6.0, SMALLER: -3.0}, 2.3, None),  # no rate was found at which it survives
        ({1.0: -1.0, LARGER: None}, 2.3, None),  # three times the rate gives no finite numbers: nothing is known there
        ({1.0: None}, 2.3, None),
        ({}, 2.3, None),
    ],
)
def test_what_the_trials_mean(left: dict[float, float | None], constant: float, expected: str | None) -> None:
    flow = look(zoo.get("relu-he-20").build(0))
    loss = LossFacts(value=2.6, reference=2.6, relative_gap=1.0, best_constant=constant, best_free=0.0, reacts=True)
    step = flow.step
    assert step is not None
    flow = flow.replace(
        loss=loss, step=step.replace(loss=2.6, ladder=((1.0, 2.5),)), rates=tuple(trial(*each) for each in left.items())
    )
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


class WithLoss(nn.Module):
    """A network that gives its own loss, beside its outputs or alone."""

    def __init__(self, problem: Problem, alone: bool) -> None:
        super().__init__()
        self.inner, self.problem, self.alone = problem.model, [problem], alone

    def forward(self, x: torch.Tensor) -> Any:
        outputs = self.inner(x)  # type: ignore[operator]
        loss = self.problem[0].loss(outputs)
        return loss if self.alone else {"loss": loss, "logits": outputs}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("alone", [False, True])
def test_the_signal_of_a_model_with_its_own_loss_starts_at_its_outputs(alone: bool, seed: int) -> None:
    """As the exact walk finds it; of a loss alone torch's own backward does not know where to start."""
    inner = built(post_norm, 4, seed=seed)
    problem = Problem(WithLoss(inner, alone), inner.inputs)
    with looking(problem, problem.model) as this:  # type: ignore[arg-type]
        quick = moved_module._by_autograd(this)  # pyright: ignore[reportPrivateUsage]
        right = transmissions(this.capture, this.layers, 0)
        loss = this.capture.loss
    assert (quick is None) is alone
    if quick is not None:
        assert quick[0] == pytest.approx(loss, rel=1e-5)
        assert quick[1] == pytest.approx(right, abs=0.05)
        with looking(inner, inner.model) as plain:  # type: ignore[arg-type]
            apart = moved(plain)[1]
        assert list(quick[1].values()) == pytest.approx(list(apart.values()), abs=1e-5)
