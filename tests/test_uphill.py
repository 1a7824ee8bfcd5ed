"""Steps that raise the loss whatever their size: along the gradient, or against one that is not the loss's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.zoo.steps import Ascent, Turned

SEEDS = range(3)
Make = Callable[[Any], torch.optim.Optimizer]

UP: dict[str, Make] = {
    "Ascent": lambda p: Ascent(p, 0.1),
    "Ascent, tiny": lambda p: Ascent(p, 1e-3),
    "SGD told to": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, maximize=True),
    "AdamW told to": lambda p: torch.optim.AdamW(p, 1e-3, maximize=True),
}
DOWN: dict[str, Make] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.3, momentum=0.97),
    "Adam": lambda p: torch.optim.Adam(p, 3e-2),
    "decay alone": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=100.0),
    "coupled decay": lambda p: torch.optim.SGD(p, 0.1, weight_decay=1.0),
    "too far": lambda p: torch.optim.SGD(p, 100.0),
    "Rprop": torch.optim.Rprop,
}


def small(seed: int, *last: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    with seeded(seed):
        x = torch.randn(64, 6)
        y = (x @ torch.randn(6, 3)).argmax(1)
        return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3), *last), x, y


def found(report: unvanish.Report) -> list[Any]:
    return [finding for finding in report.findings if finding.code == "UV710"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", UP)
def test_a_step_along_the_gradient_is_named(name: str, seed: int) -> None:
    model, x, y = small(seed)
    optimizer = UP[name](model.parameters())
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer)
    (finding,) = found(report)
    assert finding.level == ("note" if "told" in name else "error")
    assert finding.evidence[0].value > 0.0 and "UV704" not in [f.code for f in report.findings]
    before = float(F.cross_entropy(model(x), y).detach())
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float(F.cross_entropy(model(x), y).detach()) > before


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DOWN)
def test_no_moment_of_a_training_downhill_is(name: str, seed: int) -> None:
    model, x, y = small(seed)
    optimizer = DOWN[name](model.parameters())
    for _ in range(6):
        assert not found(unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer))
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("turned", [True, False])
def test_a_backward_of_the_wrong_sign_is_a_gradient_of_another_loss(turned: bool, seed: int) -> None:
    model, x, y = small(seed, *([Turned()] if turned else []))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    report = unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=optimizer)
    assert len(found(report)) == turned and report.healthy
    if turned:
        assert found(report)[0].cause == "the gradient" and found(report)[0].evidence[0].value < 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_bottom_every_step_climbs_and_none_is_at_fault(seed: int) -> None:
    with seeded(seed):
        x = torch.randn(64, 6)
        y = x @ torch.randn(6, 2) + 0.3 * torch.randn(64, 2)
    model = nn.Linear(6, 2)
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(64, 1)], 1), y).solution
    with torch.no_grad():
        model.weight.copy_(best[:-1].T)
        model.bias.copy_(best[-1])
    for make in (lambda p: torch.optim.Adam(p, 1e-3), lambda p: torch.optim.SGD(p, 0.1)):
        assert not found(unvanish.diagnose(model, x, y, F.mse_loss, optimizer=make(model.parameters())))


@pytest.mark.parametrize("hooked", [True, False])
def test_hooks_on_the_gradients_of_parameters_are_told(hooked: bool) -> None:
    model, x, y = small(0)
    if hooked:
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: 0.0 * gradient)
    report = unvanish.diagnose(model, x, y, F.cross_entropy)
    assert any("hook is set on the gradient of 0.weight and 3 more" in note for note in report.notes) == hooked
