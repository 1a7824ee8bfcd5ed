"""Averages of the weights that nothing told of: a dict of tensors, a model that was copied before the watch began."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unvanish

Averages = dict[str, torch.Tensor]


def as_dict(model: nn.Module) -> tuple[Any, Averages]:
    kept = {name: each.detach().clone() for name, each in model.named_parameters()}
    return kept, kept


def as_module(model: nn.Module) -> tuple[Any, Averages]:
    kept = copy.deepcopy(model).requires_grad_(False)
    return kept, dict(kept.named_parameters())


@pytest.mark.parametrize("made", [as_dict, as_module])
@pytest.mark.parametrize("bad", [False, True])
def test_nan_in_an_average_is_told_when_the_run_ends(
    made: Callable[[nn.Module], tuple[Any, Averages]], bad: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    holder, average = made(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unvanish.watch(model, optimizer, every=2, to=tmp_path) as run:
        for step in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(8, 5)), torch.zeros(8, dtype=torch.long)).backward()
            optimizer.step()
            rate = math.nan if bad and step == 4 else 0.1
            for name, each in model.named_parameters():
                average[name].lerp_(each.detach(), rate)
    assert run.watcher.failed == "" and holder is not None
    said = [each for each in run.findings if each.cause == "copy"]
    assert len(said) == bad
    assert all(each.level == "note" and "0.weight" in each.message and "no gradient" in each.message for each in said)


def test_another_model_that_was_trained_to_nan_is_none(tmp_path: Path) -> None:
    def trained(rate: float) -> Any:
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with unvanish.watch(model, optimizer, every=2, to=tmp_path / f"{rate}.unvanish") as run:
            for _ in range(3):
                optimizer.zero_grad()
                (model(torch.randn(8, 5)) - 1.0).square().sum().backward()
                optimizer.step()
        return model, run

    torch.manual_seed(0)
    broken, _ = trained(1e30)
    assert any(bool(each.isnan().any()) for each in broken.parameters())
    _, run = trained(1e-3)
    assert not [each for each in run.findings if each.cause == "copy"]
