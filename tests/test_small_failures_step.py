"""What the optimizer's own step does to the weights: not finite, too far, rounded away, against decay, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose, look
from unvanish.problem import Problem
from unvanish.records import NextStep
from unvanish.report import Report

SEEDS = range(3)


def signs(seed: int, make: Callable[[nn.Module], Any], dtype: torch.dtype = torch.float32) -> Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)
    inputs = torch.randn(64, 4)
    targets = (inputs.sum(1) > 0.5).long()  # not as many of the one as of the other
    return Problem(model, inputs.to(dtype), targets, wide, make(model))


def wide(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.float(), targets)


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def evidence(report: Report) -> set[str]:
    return {each.name for finding in report.findings if finding.code == "UV406" for each in finding.evidence}


def step_of(problem: Problem) -> NextStep:
    update = look(problem).next_step
    assert update is not None
    return update


def stepped(problem: Problem) -> tuple[list[Tensor], list[Tensor]]:
    """The weights before and after a step of torch's own."""
    model, optimizer = problem.build()
    assert optimizer is not None
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    problem.loss(problem.outputs(model)).backward()
    optimizer.step()
    return before, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("eps", [1e-8, 1e-4])
def test_the_share_that_is_not_finite_is_that_of_a_real_step(seed: int, kind: Any, eps: float) -> None:
    def problem() -> Problem:
        given = signs(seed, lambda m: kind(m.parameters(), 1e-3, eps=eps), torch.float16)
        assert isinstance(given.inputs, Tensor)
        given.inputs[:, 0] = 0.0  # the weights of an input that is always 0 get a gradient of exactly 0
        return given

    step = step_of(problem())
    _, after = stepped(problem())
    bad, entries = sum(int((~torch.isfinite(p)).sum()) for p in after), sum(p.numel() for p in after)
    assert step.nonfinite_share == pytest.approx(bad / entries, abs=0.0)
    assert (bad > 0) == (eps == 1e-8)
    report = diagnose(problem())
    assert ("UV505" in codes(report)) == (eps == 1e-8)
    if eps == 1e-8:
        assert (
            report.verdict == "nonfinite"
            and step.reason == "eps"
            and "exactly 0 in float16" in report.findings[0].message
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lr", [1e6, 1e10, 1e20, 1e30])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_rate_is_too_large_however_large_it_is(seed: int, lr: float, kind: Any) -> None:
    raised = codes(diagnose(signs(seed, lambda m: kind(m.parameters(), lr))))
    assert raised.get("UV704") == "error" or raised.get("UV505") == "error"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lr", [1e-6, 1e-5, 1e-2])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_share_that_moves_is_that_of_a_real_step(seed: int, lr: float, decay: float) -> None:
    def problem() -> Problem:
        return signs(seed, lambda m: torch.optim.AdamW(m.parameters(), lr, weight_decay=decay), torch.bfloat16)

    step = step_of(problem())
    before, after = stepped(problem())
    moved = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True)) / sum(p.numel() for p in after)
    assert step.moved == pytest.approx(moved, abs=0.02)  # the share is of the entries whose gradient is not 0
    assert codes(diagnose(problem())).get("UV506") == ("error" if lr < 1e-4 else None)


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_of_32_bits_lose_no_update(seed: int) -> None:
    problem = signs(seed, lambda m: torch.optim.AdamW(m.parameters(), 1e-6))
    assert step_of(problem).moved is None and "UV506" not in codes(diagnose(problem))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("decay", "steps"), [(0.3, 1000), (1.0, 300)])  # the second shrinks the weights to 10^-14
def test_decay_that_balances_the_gradient_is_named(seed: int, decay: float, steps: int) -> None:
    problem = signs(seed, lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=decay))
    fresh = step_of(problem)
    model, optimizer = problem.build()
    gradients = torch.autograd.grad(problem.loss(problem.outputs(model)), list(model.parameters()))
    without = torch.cat([g.flatten() for g in gradients]).double()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    share = (without + decay * weights).norm() / without.norm()
    assert fresh.decay_balance == pytest.approx(float(share), rel=1e-4)
    assert "|g + λw| / |g|" not in evidence(diagnose(problem))  # only that the decay is fast is known so far
    assert optimizer is not None
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    report = diagnose(problem)
    assert "|g + λw| / |g|" in evidence(report) and report.verdict == "decay"
    assert not {"UV705", "UV603", "UV101"} & codes(report).keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_that_no_optimizer_holds_are_named(seed: int) -> None:
    report = diagnose(signs(seed, lambda m: torch.optim.Adam(m.get_submodule("2").parameters(), 1e-3)))
    assert codes(report) == {"UV605": "note"} and report.findings[0].layers == ("0",) and report.healthy
    assert not codes(diagnose(signs(seed, lambda m: torch.optim.Adam(m.parameters(), 1e-3))))


def test_a_frozen_layer_is_not_left_out() -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(model, nn.Sequential)
        model[0].requires_grad_(False)
        return torch.optim.Adam(model[2].parameters(), 1e-3)

    assert "UV605" not in codes(diagnose(signs(0, make)))


@pytest.mark.parametrize("seed", SEEDS)
def test_looking_at_the_step_leaves_optimizer_and_weights_alone(seed: int) -> None:
    problem = signs(seed, lambda m: torch.optim.AdamW(m.parameters(), 1e-3), torch.bfloat16)
    stepped(problem)
    model, optimizer = problem.build()
    assert optimizer is not None
    kept = [p.detach().clone() for p in model.parameters()]
    states = [{k: v.clone() for k, v in s.items()} for s in optimizer.state.values()]
    diagnose(problem)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
    for before, after in zip(states, optimizer.state.values(), strict=True):
        assert all(torch.equal(before[k], after[k]) for k in before)
