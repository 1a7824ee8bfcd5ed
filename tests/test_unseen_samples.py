"""A rise of the sensitivity is excused where samples not seen by the steps are learned, not by the loss of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import zoo
from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.report import Report

SEEDS = range(3)


def level(report: Report) -> str | None:
    return next((f.level for f in report.findings if f.code == "UV201"), None)


def trained(problem: Problem, steps: int) -> tuple[float, float]:
    """The loss after steps on every other sample, of these and of the rest."""
    model, optimizer = problem.build()
    assert optimizer is not None and isinstance(problem.inputs, torch.Tensor) and problem.loss_fn is not None
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss_fn(model(problem.inputs[::2]), problem.targets[::2]).backward()
        optimizer.step()
    with torch.no_grad():
        seen, rest = (problem.loss_fn(model(problem.inputs[k::2]), problem.targets[k::2]) for k in (0, 1))
    return float(seen), float(rest)


def chaotic(seed: int, gain: float) -> Problem:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width in (4, *[32] * 11):
        layer = nn.Linear(width, 32)
        nn.init.normal_(layer.weight, std=gain / width**0.5)
        layers += [layer, nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(32, 1))
    inputs = torch.randn(64, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return Problem(model, inputs, torch.sin(inputs.sum(1, keepdim=True)), F.mse_loss, optimizer)


@pytest.mark.parametrize("seed", SEEDS)
def test_sines_that_learn_what_lies_between_are_noted_and_those_that_do_not_are_an_error(seed: int) -> None:
    slow, fast, made_for_them = (zoo.get(f"sine-{name}").build(seed) for name in ("slow", "fast", "siren"))
    assert level(diagnose(slow)) == "note" and level(diagnose(made_for_them)) is None
    report = diagnose(fast)
    assert level(report) == "error" and report.step is not None and report.loss is not None
    assert report.step.unseen is not None and report.step.unseen > (report.loss.best_constant or 0.0)
    assert "on every other sample" in report.findings[0].message
    seen, rest = trained(zoo.get("sine-fast").build(seed), 300)
    assert seen < 0.1 and rest > 0.25  # 0.30 is that of the best constant; 0.001 to 0.05 by the processor
    seen, rest = trained(zoo.get("sine-slow").build(seed), 300)
    assert seen < 0.01 and rest < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chaotic_network_that_fits_its_batch_is_still_an_error(seed: int) -> None:
    assert level(diagnose(chaotic(seed, 4.0))) == "error"
    seen, rest = trained(chaotic(seed, 4.0), 200)
    assert seen < 0.1 and rest > 0.4
    report = diagnose(chaotic(seed, 1.0))
    assert level(report) is None and report.step is not None and report.step.unseen is None


def test_the_loss_of_the_rest_is_that_of_a_training_on_every_other_sample() -> None:
    step = diagnose(zoo.get("sine-slow").build(0)).step
    assert step is not None and step.unseen_after == 10
    assert step.unseen == pytest.approx(trained(zoo.get("sine-slow").build(0), 10)[1], rel=0.05)
