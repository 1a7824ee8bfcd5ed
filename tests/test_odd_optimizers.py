"""Optimizers whose settings are no single numbers, that find their own rate, or that measure a step by the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

import unvanish
from unvanish.preserve import seeded
from unvanish.remedies import Refused, get
from unvanish.remedies.draft import Draft
from unvanish.remedies.recipe import Recipe


class Relative(optim.Optimizer):
    """A step is a share of each tensor's own norm (You et al. 2017, LARS); ``lr=None``: a share of its own."""

    def __init__(self, params: Any, lr: float | None = None, eps: tuple[float, float] = (1e-30, 1e-3)) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            share = 0.01 if group["lr"] is None else group["lr"]
            for p in group["params"]:
                if p.grad is not None:
                    length = p.norm().clamp(min=group["eps"][1]) / p.grad.norm().clamp(min=group["eps"][0])
                    p.sub_(p.grad * (share * length))


MADE: dict[str, Callable[[Any], optim.Optimizer]] = {
    "Adafactor": lambda p: optim.Adafactor(p, 1e-2),
    "a rate of its own": Relative,
    "a share of the weights": lambda p: Relative(p, 1e-2),
    "a rate that is a tensor": lambda p: optim.Adam(p, torch.tensor(1e-2)),
    "Muon": lambda p: optim.Muon([each for each in p if each.ndim == 2], 1e-2),
}


def problem(seed: int, make: Callable[[Any], optim.Optimizer], **more: Any) -> Any:
    with seeded(seed):
        x = torch.randn(64, 8)
        y = (x @ torch.randn(8, 4)).argmax(1)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    return unvanish.Problem(model, x, y, F.cross_entropy, make(list(model.parameters())), **more)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MADE)
def test_the_update_is_that_of_a_real_step(name: str, seed: int) -> None:
    each = problem(seed, MADE[name])
    report = unvanish.diagnose(each)
    assert report.healthy and report.verdict == ("left_out" if name == "Muon" else "healthy")  # it holds no vectors
    model = each.model
    before = [p.detach().clone() for p in model.parameters()]
    F.cross_entropy(model(each.inputs), each.targets).backward()
    each.optimizer.step()
    pairs = list(zip(model.parameters(), before, strict=True))
    for layer, own in zip(report.layers, (pairs[:2], pairs[2:]), strict=True):
        moved = math.hypot(*(float((p - b).norm().detach()) for p, b in own))
        size = math.hypot(*(float(b.norm()) for _, b in own))
        assert layer.update_to_weight_ratio == pytest.approx(moved / size, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "expected"), [(None, "healthy"), (30.0, "lr_too_large"), (1e-7, "lr_too_small")])
def test_its_rate_is_judged_as_any(share: float | None, expected: str, seed: int) -> None:
    report = unvanish.diagnose(problem(seed, lambda p: Relative(p, share), steps=1000))
    assert report.verdict == expected and "nan" not in str(report)


def test_a_rate_that_is_not_set_is_not_multiplied() -> None:
    each = problem(0, Relative)
    draft = Draft(each.model, each.loss_fn, Recipe.of(each.optimizer), each.inputs, each.targets)
    for slug in ("lr-10", "lr-0.1", "warmup"):
        with pytest.raises(Refused, match="no learning rate that is set"):
            get(slug).apply(draft)


def test_it_is_trained_and_watched_as_any(tmp_path: Path) -> None:
    each = problem(0, Relative, steps=10)
    assert unvanish.fix(each, budget=60, seeds=1).trials
    model = each.model
    with unvanish.watch(model, each.optimizer, every=1, to=str(tmp_path)) as run:
        for _ in range(3):
            F.cross_entropy(model(each.inputs), each.targets).backward()
            each.optimizer.step()
    assert len(unvanish.load_run(run.path).steps) == 3
