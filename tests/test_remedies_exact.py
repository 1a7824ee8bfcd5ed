"""Remedies that look for the fault they repair: what they see, what they change, and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish import zoo
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Recipe, Refused, get, remedies
from unvanish.report.fix_text import checked_again
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
    count, *rest = outputs
    model = nn.Sequential(nn.Linear(3, math.prod(rest)), nn.Unflatten(1, tuple(rest)) if rest else nn.Flatten(0))
    draft = draft_of(model, random(count, 3), random(*targets), loss_fn)
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
    decoupled = draft.fork()
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
        last = nn.Linear(8, 1)
        nn.init.zeros_(last.weight)  # so that the start is no unlucky draw, which any new draw would better
        nn.init.zeros_(last.bias)
        self.y = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), last)

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


@pytest.mark.parametrize(("own_loss", "metric"), [(True, None), (False, None), (False, numpy_metric)])
def test_a_forward_that_takes_derivatives_is_scored_and_repaired(own_loss: bool, metric: Any) -> None:
    """What is wrong is the learning rate; every trial and every score runs a forward with autograd.grad in it."""

    with seeded(0):
        model = Slope() if own_loss else Energy()
    t = torch.linspace(0, 2, 32)[:, None] if own_loss else random(32, 3)
    given: dict[str, Any] = {"train_batches": [t]}
    if not own_loss:
        given = {"targets": -t, "loss_fn": F.mse_loss, "train_batches": [(t, -t)], "validation": (t, -t)}
        given["metric"] = metric
    problem = Problem(model, t, optimizer=lambda p: torch.optim.Adam(p, 1e-5), steps=2560, **given)
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
        exact = [each.slug for each in applicable(race) if each.only_for]
        assert exact == [first] * bool(first)
        order = list(ordered(applicable(race), (), 0))
        assert not first or order[0] == (first,)
        assert {slug for candidate in order for slug in candidate} >= {r.slug for r in remedies() if not r.only_for}


def _race(problem: Problem) -> Any:
    from unvanish.trials import open_race

    race = open_race(problem, Plan(160, 480, 2), unvanish.diagnose(problem))
    race.copy(AS_IS, 0)
    return race


class Choice(nn.Module):
    """One ``where`` whose branches may overflow, written in one of several ways."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.run = nn.Linear(3, 1), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer(x))


def elu(z: Tensor) -> Tensor:
    return torch.where(z <= 0, torch.exp(z) - 1, z)


def root(z: Tensor) -> Tensor:
    return torch.where(z > 0, 2.0 * torch.sqrt(z) + 1.0, z * 0.0)


def quotient(z: Tensor) -> Tensor:
    return (1.0 / z).where(z.abs() > 1e3, z * 0.0)


@pytest.mark.parametrize(("run", "shift", "known"), [(elu, 200.0, F.elu), (root, 0.0, None), (quotient, 0.0, None)])
def test_what_a_where_does_not_choose_cannot_spoil_the_gradient(run: Any, shift: float, known: Any) -> None:
    """Outputs bit for bit, and the gradient of the chosen branch alone, against float64 of a formula without where."""
    with seeded(0):
        model = Choice(run)
    with torch.no_grad():
        model.layer.weight.mul_(10.0)
        model.layer.bias.fill_(shift)
    x = random(16, 3)
    if not shift:
        x[:4] = 0.0  # a root and a quotient at exactly 0
    draft = draft_of(model, x, torch.zeros(16, 1), lambda o, t: o.sum() if run is elu else o.nan_to_num().sum())
    assert not torch.isfinite(torch.autograd.grad(model(x).sum(), model.layer.weight)[0]).all()
    get("guard-where").apply(draft)
    found = draft.model(x)
    (gradient,) = torch.autograd.grad(found.sum(), draft.model.get_parameter("layer.weight"))
    assert torch.isfinite(gradient).all()
    z = model.layer(x).detach().double()
    if known is elu or known is F.elu:
        slopes = torch.where(z <= 0, z.exp(), torch.ones_like(z))
    elif run is root:
        slopes = torch.where(z > 0, z.clamp(min=1e-9) ** -0.5, torch.zeros_like(z))
    else:
        slopes = torch.zeros_like(z)
    assert torch.allclose(gradient.double(), slopes.T @ x.double(), rtol=1e-4)
    before = model(x)
    assert torch.equal(found[before.isfinite()], before[before.isfinite()])


def test_a_where_that_harms_nothing_is_left_alone() -> None:
    with pytest.raises(Refused, match="finite"):
        get("guard-where").apply(draft_of(Choice(elu), random(16, 3), random(16, 1)))


class Attention(nn.Module):
    """Softmax as a method, a function with a keyword, or a module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.module, self.how = nn.Linear(4, 4), nn.Softmax(-1), how

    def forward(self, x: Tensor, shut: Tensor) -> Tensor:
        scores = self.layer(x).masked_fill(shut, -math.inf)
        if self.how == "method":
            return scores.softmax(-1)
        return F.softmax(scores, dim=-1) if self.how == "function" else self.module(scores)


@pytest.mark.parametrize("how", ["method", "function", "module"])
def test_a_row_that_is_masked_whole_gives_zeros_and_the_others_what_they_gave(how: str) -> None:
    shut = torch.zeros(6, 4, dtype=torch.bool)
    shut[2], shut[4, 1:] = True, True
    model, x = Attention(how), random(6, 4)
    draft = draft_of(model, (x, shut), torch.rand(6, 4))
    get("guard-softmax").apply(draft)
    found, before = draft.model(x, shut), model(x, shut)
    assert before[2].isnan().all() and not found[2].any()
    rest = [row for row in range(6) if row != 2]
    assert torch.equal(found[rest], before[rest])
    (gradient,) = torch.autograd.grad(found.square().sum(), draft.model.get_parameter("layer.weight"))
    (alone,) = torch.autograd.grad(model(x[rest], shut[rest]).square().sum(), model.layer.weight)
    assert torch.allclose(gradient, alone, atol=1e-6)
    with pytest.raises(Refused, match="no softmax of the batch"):
        get("guard-softmax").apply(draft_of(model, (x, torch.zeros_like(shut)), torch.rand(6, 4)))


@pytest.mark.parametrize(
    ("norm", "shape", "one_group", "off"),
    [
        (nn.GroupNorm(4, 4), (8, 4), True, True),
        (nn.GroupNorm(4, 4), (8, 4, 1, 1), True, True),
        (nn.GroupNorm(4, 4), (8, 4, 2, 1), True, True),
        (nn.GroupNorm(2, 4), (8, 4), True, True),
        (nn.GroupNorm(4, 4), (8, 4, 3, 1), False, False),
        (nn.GroupNorm(2, 6), (8, 6), False, False),
        (nn.GroupNorm(1, 1), (8, 1), False, True),
        (nn.LayerNorm(1), (8, 4, 1), False, True),
        (nn.LayerNorm(2), (8, 4, 2), False, True),
        (nn.LayerNorm(3), (8, 4, 3), False, False),
        (nn.LayerNorm(4), (8, 4), False, False),
    ],
)
def test_a_normaliser_of_one_number_or_two(norm: nn.Module, shape: tuple[int, ...], one_group: bool, off: bool) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.ones(())), norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.scale * x)

    x = random(*shape)
    for slug, applies in (("norm-one-group", one_group), ("norm-off", off)):
        draft = draft_of(Head(), x, torch.zeros(shape))
        if not applies:
            with pytest.raises(Refused):
                get(slug).apply(draft)
            continue
        get(slug).apply(draft)
        assert torch.allclose(draft.model(x), x if slug == "norm-off" else F.group_norm(x, 1), atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_the_gate_that_keeps_the_state_is_the_one_that_is_opened(kind: Any) -> None:
    """With the bias so large that the gate is fully open, and no input written, a state stays what it is."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = kind(2, 5)

        def forward(self, x: Tensor) -> Tensor:
            if kind in (nn.LSTM, nn.GRU):
                return self.read(x.mT.reshape(7, 4, 2))[0][-1]
            state = self.read(x[:, 0])
            return state if isinstance(state, Tensor) else state[0]

    for slug, low, high in (("forget-gate-bias", math.log(7), math.log(7)), ("chrono-init", 0.0, math.log(6))):
        draft = draft_of(Reader(), random(4, 7, 2), torch.zeros(4, 5))
        untouched_part = [t[10:].clone() if kind in (nn.LSTM, nn.LSTMCell) else t[:5].clone() for t in biases(draft)]
        get(slug).apply(draft)
        kept = sum(t[5:10] for t in biases(draft))
        assert isinstance(kept, Tensor)
        assert float(kept.min()) >= low - 1e-3 and float(kept.max()) <= high + 1e-3
        if slug == "chrono-init":
            assert float(kept.std()) > 0.1
            if kind in (nn.LSTM, nn.LSTMCell):
                assert torch.equal(biases(draft)[0][:5], -biases(draft)[0][5:10])
        rest = [t[10:] if kind in (nn.LSTM, nn.LSTMCell) else t[:5] for t in biases(draft)]
        assert all(torch.equal(a, b) for a, b in zip(rest, untouched_part, strict=True))
    reader: Any = draft_of(Reader(), random(4, 7, 2), torch.zeros(4, 5)).model
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.zero_()
        reader.read.__getattr__("bias_ih" + "_l0" * (kind in (nn.LSTM, nn.GRU)))[5:10] = 50.0
        state = random(4, 5)
        if kind is nn.LSTM:
            found = reader.read(torch.zeros(1, 4, 2), (state[None], state[None]))[1][1][0]
        elif kind is nn.GRU:
            found = reader.read(torch.zeros(1, 4, 2), state[None])[1][0]
        else:
            found = reader.read(torch.zeros(4, 2), (state, state) if kind is nn.LSTMCell else state)
            found = found[1] if kind is nn.LSTMCell else found
    assert torch.allclose(found, state)


def biases(draft: Draft) -> list[Tensor]:
    """Those of the inputs, then those of the states."""
    named = dict(draft.model.named_parameters())
    return [named[name].detach() for name in sorted(named, reverse=True) if "bias_" in name]


def test_each_gradient_is_cut_to_a_share_of_its_own_tensor() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.zero_()
    draft = draft_of(model, random(4, 2), random(4, 1))
    draft.recipe = Recipe(torch.optim.SGD, {"lr": 0.5})
    get("clip-layers").apply(draft)
    weight, bias = draft.model.parameters()
    weight.grad, bias.grad = torch.tensor([[30.0, 40.0]]), torch.tensor([1e-6])
    draft.recipe.clip_gradients([weight, bias])
    assert float(weight.grad.norm()) == pytest.approx(0.02 * 5.0, rel=1e-4)  # times the rate: 1% of the weight
    assert float(bias.grad) == pytest.approx(1e-6)
    bias.grad = torch.tensor([1.0])
    draft.recipe.clip_gradients([weight, bias])
    assert float(bias.grad) == pytest.approx(0.02 * 1e-3, rel=1e-3)
    assert any("clip_grad_norm_(p, 0.02 * max(" in line for line in draft.recipe.code(draft.model))


def test_weights_of_16_bits_become_float32_and_so_do_inputs_in_any_container() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: dict[str, Tensor], scale: Tensor) -> Tensor:
            return self.layer(x["a"]) * scale

    model = Net().to(torch.bfloat16)
    batch = ({"a": random(4, 3).bfloat16()}, torch.ones(2))
    optimizer = torch.optim.Adam(model.parameters())
    draft = draft_of(model, batch, torch.zeros(4, 2), lambda o, t: F.mse_loss(o.float(), t), optimizer)
    get("float32-weights").apply(draft)
    found = draft.model(*batch)
    assert found.dtype == torch.float32
    assert torch.allclose(found, F.linear(batch[0]["a"].float(), model.layer.weight.float(), model.layer.bias.float()))
    built = draft.recipe.build(draft.model.parameters())
    assert all(p.dtype == torch.float32 for group in built.param_groups for p in group["params"])
    with pytest.raises(Refused, match="no weight"):
        get("float32-weights").apply(draft)


def test_the_answer_says_which_findings_are_gone_and_which_stay() -> None:
    problem = replace(zoo.get("norm-of-one").build(0), steps=160)
    fixes = unvanish.fix(problem, seeds=2)
    assert fixes.best is not None and fixes.after is not None
    assert {"norm-off", "norm-one-group"} & set(fixes.best.edits)
    errors = {finding.code for finding in fixes.before.findings if finding.level == "error"}
    assert errors and not errors & {finding.code for finding in fixes.after.findings}
    assert all(f"{code} is gone" in str(fixes) for code in errors)
    assert not any("stays" in line for line in checked_again(fixes))
    same = replace(fixes, after=fixes.before)
    assert [f"checked again: {code} stays" for code in sorted(errors)] == sorted(checked_again(same))
    worse = replace(fixes, before=fixes.after, after=fixes.before)
    assert list(checked_again(worse)) == [f"checked again: {', '.join(sorted(errors))} is new"]
