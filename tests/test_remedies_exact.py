"""Remedies that look for the fault they repair: what they see, what they change, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Recipe, Refused, get, remedies
from unvanish.trials import applicable, ordered
from unvanish.trials.plan import Plan
from unvanish.trials.train import AS_IS


def draft_of(
    model: nn.Module, inputs: Any, targets: Any = None, loss_fn: Any = F.mse_loss, optimizer: Any = None
) -> Draft:
    return Draft.of(Problem(model, inputs, targets, loss_fn), model, optimizer)


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dtype", "eps", "sees"),
    [
        (torch.float16, 1e-8, True),
        (torch.float16, 1e-4, False),
        (torch.float16, 0.0, False),
        (torch.bfloat16, 1e-8, False),
        (torch.float32, 1e-8, False),
    ],
)
def test_an_eps_is_raised_only_where_the_type_rounds_it_to_zero(dtype: torch.dtype, eps: float, sees: bool) -> None:
    model = nn.Linear(3, 1).to(dtype)
    groups = [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}]
    draft = draft_of(model, random(4, 3).to(dtype), optimizer=torch.optim.Adam(groups, 0.1, eps=eps))
    if not sees:
        with pytest.raises(Refused, match="not rounded to zero"):
            get("optimizer-eps").apply(draft)
        return
    assert "0 in float16" in get("optimizer-eps").apply(draft).sentence
    built = draft.recipe.build(draft.model.parameters())
    assert [(group["lr"], group["eps"]) for group in built.param_groups] == [(0.5, 1e-4), (0.1, 1e-4)]


@pytest.mark.parametrize(
    ("outputs", "targets", "loss_fn", "sees"),
    [
        ((8, 1), (8,), square, True),
        ((8, 1), (8,), lambda o, t: (o[:, 0] - t).square().mean(), False),
        ((8, 1), (8,), lambda o, t: square(o.reshape(-1), t.reshape(-1)), False),
        ((8, 1), (8, 1), square, False),
        ((4, 2), (8,), lambda o, t: square(o.reshape(-1), t), False),
        ((8,), (8, 1), square, True),
        ((4, 1, 3), (4, 3), square, True),
    ],
)
def test_shapes_that_are_compared_each_with_each(
    outputs: tuple[int, ...], targets: tuple[int, ...], loss_fn: Any, sees: bool
) -> None:
    size = int(torch.tensor(outputs[1:]).prod()) if len(outputs) > 1 else 1
    model = nn.Sequential(nn.Linear(3, size), nn.Unflatten(1, outputs[1:]) if len(outputs) > 1 else nn.Flatten(0))
    draft = draft_of(model, random(outputs[0], 3), random(*targets), loss_fn)
    if not sees:
        with pytest.raises(Refused):
            get("match-shapes").apply(draft)
        return
    get("match-shapes").apply(draft)
    assert draft.loss_fn is not None
    found = draft.loss_fn(draft.model(draft.inputs), draft.targets)
    assert torch.allclose(found, F.mse_loss(model(draft.inputs).reshape(targets), draft.targets))


def test_decay_goes_from_every_group_and_nothing_else_does() -> None:
    model = nn.Linear(3, 1)
    groups = [{"params": [model.weight], "weight_decay": 0.5}, {"params": [model.bias], "weight_decay": 0.0}]
    draft = draft_of(model, random(4, 3), optimizer=torch.optim.Adam(groups, 0.1, betas=(0.5, 0.9)))
    decoupled = draft.another()
    assert "instead of 0.5" in get("no-weight-decay").apply(draft).sentence
    built = draft.recipe.build(draft.model.parameters())
    assert [(g["weight_decay"], g["lr"], g["betas"]) for g in built.param_groups] == [(0.0, 0.1, (0.5, 0.9))] * 2
    get("decoupled-decay").apply(decoupled)
    built = decoupled.recipe.build(decoupled.model.parameters())
    assert type(built) is torch.optim.AdamW
    assert [(g["weight_decay"], g["lr"], g["betas"]) for g in built.param_groups] == [
        (0.5, 0.1, (0.5, 0.9)), (0.0, 0.1, (0.5, 0.9)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "slug", "words"),
    [
        (Recipe(torch.optim.SGD, {"lr": 0.1}), "no-weight-decay", "has no weight decay"),
        (Recipe(torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}), "decoupled-decay", "no form"),
        (Recipe(torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}), "decoupled-decay", "no form"),
        (Recipe(torch.optim.SGD, {"lr": 0.1}), "optimizer-eps", "has no eps"),
    ],
)
def test_an_optimizer_without_the_setting_is_left_alone(recipe: Recipe, slug: str, words: str) -> None:
    draft = draft_of(nn.Linear(3, 1), random(4, 3))
    draft.recipe = recipe
    with pytest.raises(Refused, match=words):
        get(slug).apply(draft)
    assert draft.recipe is recipe


class Slope(nn.Module):
    """Returns the loss of y' = −y, y(0) = 1; the slope by automatic differentiation."""

    def __init__(self) -> None:
        super().__init__()
        self.y = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, t: Tensor) -> Tensor:
        t = t.detach().requires_grad_()
        y = self.y(t)
        (slope,) = torch.autograd.grad(y.sum(), t, create_graph=True)
        return (slope + y).square().mean() + (self.y(torch.zeros(1, 1)) - 1).square().mean()


class Energy(nn.Module):
    """Outputs are the derivative of a scalar by the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


def numpy_metric(outputs: Tensor, targets: Tensor) -> float:
    return -float(((outputs.numpy() - targets.numpy()) ** 2).mean())


@pytest.mark.parametrize("metric", [None, numpy_metric])
@pytest.mark.parametrize("own_loss", [True, False])
def test_a_forward_that_takes_derivatives_is_scored_and_repaired(own_loss: bool, metric: Any) -> None:
    """What is wrong is the learning rate; every trial and every score runs a forward with autograd.grad in it."""

    def build() -> nn.Module:
        return Slope() if own_loss else Energy()

    t = torch.linspace(0, 2, 32)[:, None] if own_loss else random(32, 3)
    given: dict[str, Any] = {"train_batches": [t]}
    if not own_loss:
        given = {"targets": -t, "loss_fn": F.mse_loss, "train_batches": [(t, -t)], "validation": (t, -t)}
        given["metric"] = metric
    problem = Problem(build, t, optimizer=lambda p: torch.optim.Adam(p, 1e-5), steps=160, **given)
    fixes = unvanish.fix(problem)
    assert fixes.verdict == "repaired", fixes
    assert fixes.best is not None and {"optimizer", "rate"} & {get(edit).kind for edit in fixes.best.edits}


def test_exact_remedies_come_first_where_they_apply_and_not_at_all_elsewhere() -> None:
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    x = random(64, 6)
    for targets, first in ((x[:, 0], "match-shapes"), (x[:, :1], "")):
        problem = Problem(model, x, targets, square, lambda p: torch.optim.Adam(p, 1e-3), steps=160)
        race = _race(problem)
        exact = [each.slug for each in applicable(race) if each.exact]
        assert exact == [first] * bool(first)
        order = list(ordered(applicable(race), (), 0))
        assert not first or order[0] == (first,)
        assert {slug for candidate in order for slug in candidate} >= {r.slug for r in remedies() if not r.exact}


def _race(problem: Problem) -> Any:
    from unvanish.trials import open_race

    race = open_race(problem, Plan(160, 480, 2), unvanish.diagnose(problem))
    race.copy(AS_IS, 0)
    return race
