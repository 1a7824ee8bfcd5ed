"""T_rel of moved weights by torch's own backward, against a recorded pass and an exact walk; and what steps cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, diagnose
from unvanish.evidence import moved
from unvanish.evidence.price import DEAR
from unvanish.flow.look import looking
from unvanish.flow.measure import transmissions
from unvanish.zoo.transformers import post_norm

CLASSES = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(0))
INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


class Branched(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.branches = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.last(x)


def exact(problem: Problem, model: nn.Module) -> dict[str, float]:
    with looking(problem, model) as look:
        return transmissions(look.capture, look.layers, 0)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_a_recorded_pass(seed: int) -> None:
    model = Branched(seed)
    problem = Problem(model, INPUTS, CLASSES, F.cross_entropy)
    with looking(problem, model) as look:
        pass
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + 0.3 * torch.rand(parameter.shape))
    assert moved.moved(look)[1] == pytest.approx(exact(problem, model), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-20, 0.0])
def test_gradients_near_the_end_of_their_type_are_walked_exactly(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(8, 8), nn.Tanh())), nn.Linear(8, 3))
    problem = Problem(model, INPUTS, CLASSES, F.cross_entropy)
    with looking(problem, model) as look:
        pass
    with torch.no_grad():
        for layer in (model[2], model[4], model[6]):
            layer.weight.mul_(scale)  # type: ignore[operator]
    walked: list[Any] = []
    record = moved.looking
    monkeypatch.setattr(moved, "looking", lambda *a, **k: walked.append(1) or record(*a, **k))
    assert moved.moved(look)[1] == pytest.approx(exact(problem, model), abs=1e-4)
    assert walked


def test_a_report_says_what_many_steps_were_taken_for() -> None:
    torch.manual_seed(0)
    report = diagnose(post_norm(18, gain=1.0, lr=1e-2))
    (note,) = (note for note in report.notes if "steps of the optimizer" in note)
    steps = sum(trial.steps for trial in report.flow.rates)
    assert steps >= DEAR and note.startswith(f"{steps} steps") and "survives the first steps" in note
    plain = nn.Linear(8, 3)
    few = diagnose(Problem(plain, INPUTS, CLASSES, F.cross_entropy, torch.optim.Adam(plain.parameters(), 1e-2)))
    assert not any("steps of the optimizer" in note for note in few.notes)
