"""Programs that train on from a network: which parameters the optimizer holds, and what frozen layers still do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.report import Report
from unvanish.report.sentences import called, headline

SEEDS = range(2)


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body: Any = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.fc: Any = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 3e-3)


def look(model: nn.Module, optimizer: torch.optim.Optimizer) -> Report:
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    return diagnose(Problem(model, x, torch.arange(64) % 4, F.cross_entropy, optimizer, steps=400))


def said(report: Report, code: str) -> list[tuple[str, str]]:
    return [(f.level, f.message) for f in report.findings if f.code == code]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_optimizer_made_before_the_head_was_replaced(seed: int, frozen: bool) -> None:
    model = Net(seed)
    model.body.requires_grad_(not frozen)
    before = adam(model.parameters())
    model.fc = nn.Linear(32, 4)  # other classes: 10 × 32 + 10 numbers are held in vain
    ((level, message),) = said(look(model, before), "UV605")
    assert level == "error" and "fc is trainable" in message
    assert frozen or "holds 330 parameters of such shapes that the model has no more" in message
    assert not said(look(model, adam(model.parameters())), "UV605")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_single_parameter_replaced_or_left_out(seed: int) -> None:
    model = Net(seed)
    before = adam(model.parameters())
    assert not said(look(model, before), "UV605")
    model.fc.weight = nn.Parameter(0.1 * torch.randn(4, 32))
    model.fc.bias.data = torch.zeros(4)  # new values in the same parameter are no new parameter
    ((level, message),) = said(look(model, before), "UV605")
    assert level == "error" and "fc.weight is trainable" in message and "holds 320 parameters" in message
    without = adam([p for name, p in model.named_parameters() if not name.endswith("bias")])
    ((level, message),) = said(look(model, without), "UV605")
    assert level == "note" and "body.0.bias, body.1.bias, body.3.bias and 1 more are trainable" in message


@pytest.mark.parametrize("seed", SEEDS)
def test_parameters_of_something_else_are_in_nobodys_place(seed: int) -> None:
    """The optimizer also holds a weight of the loss; the body may have been left out on purpose."""
    model = Net(seed)
    for strange in (nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(7, 8))):
        ((level, message),) = said(look(model, adam([*model.fc.parameters(), strange])), "UV605")
        assert level == "note" and "no more" not in message


@pytest.mark.parametrize("seed", SEEDS)
def test_left_out_layers_come_before_a_count_of_steps(seed: int) -> None:
    class Plain(Net):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.hidden = [nn.Linear(10, 32), nn.Linear(32, 32)]
            self.body = None

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.hidden:
                x = F.relu(layer(x))
            return self.fc(x)

    model = Plain(seed)
    assert [f.code for f in look(model, adam(model.parameters())).findings] == ["UV605"]


@pytest.mark.parametrize("seed", SEEDS)
def test_frozen_statistics_that_still_move(seed: int) -> None:
    model = Net(seed)
    model.body.requires_grad_(False)
    optimizer = adam(model.fc.parameters())
    ((level, message),) = said(look(model, optimizer), "UV601")
    assert level == "note" and "body.1 is in train mode still" in message
    before = model.body[1].running_mean.clone()
    model(torch.randn(8, 10))
    assert not torch.equal(before, model.body[1].running_mean)  # what it says
    model.body.eval()
    ((_, message),) = said(look(model, optimizer), "UV601")
    assert "train mode" not in message


def test_a_new_head_under_another_name() -> None:
    model = Net(0)
    model.requires_grad_(False)
    model.classifier = nn.Linear(32, 4)
    with pytest.raises(UnvanishError, match=r"all layers that the forward pass called are frozen.*classifier\.weight"):
        look(model, adam(model.classifier.parameters()))
    model.requires_grad_(True)
    with torch.no_grad(), pytest.raises(UnvanishError, match=r"torch\.no_grad"):
        model.forward = torch.no_grad()(model.forward)  # type: ignore[method-assign]
        look(model, adam(model.parameters()))


class Run(nn.Module):
    """A body that runs without gradients under a head that is trained."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = Net(seed)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.net.body(x)
        return self.net.fc(features)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_headline_of_a_body_without_gradients_that_no_optimizer_holds_is_healthy(seed: int) -> None:
    model = Run(seed)
    meant = look(model, adam(model.net.fc.parameters()))
    assert called(meant) == "Healthy" and "(3 unused)" in headline(meant)
    assert [f.level for f in meant.findings if f.code == "UV602"] == ["note"]
    cut = look(model, adam(model.parameters()))
    assert not cut.healthy and called(cut) == "Unused"
