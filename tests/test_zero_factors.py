"""Zero weights that wait for each other: all but the last are drawn, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, fix
from unvanish.pipeline import diagnose
from unvanish.records import Finding
from unvanish.remedies import Draft, Refused, get
from unvanish.remedies.recipe import Recipe

SEEDS = range(3)


class Adapter(nn.Module):
    """A frozen layer beside the product of two factors."""

    def __init__(self, width: int, made: int, zero: tuple[bool, bool]) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, made).requires_grad_(False)
        nn.init.orthogonal_(self.frozen.weight)  # not as torch draws it, which a search would want trained
        down, up = torch.randn(4, width) / width**0.5, torch.randn(made, 4) / 2
        self.down = nn.Parameter(torch.zeros_like(down) if zero[0] else down)
        self.up = nn.Parameter(torch.zeros_like(up) if zero[1] else up)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.down.T @ self.up.T


def adapted(seed: int, zero: tuple[bool, bool]) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(Adapter(8, 16, zero), nn.ReLU(), Adapter(16, 3, zero))


def data(seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed + 50))
    return x, x[:, :3].argmax(1)


def draft_of(model: nn.Module, seed: int, pretrained: bool = False) -> Draft:
    x, y = data(seed)
    recipe = Recipe(torch.optim.Adam, {"lr": 1e-2})
    return Draft(model, F.cross_entropy, recipe, x, y, findings=(), pretrained=pretrained)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_factor_of_each_product_is_drawn_and_the_outputs_stay(seed: int, pretrained: bool) -> None:
    model = adapted(seed, (True, True))
    draft, before = draft_of(model, seed, pretrained), {n: p.detach().clone() for n, p in model.named_parameters()}
    outputs = model(data(seed)[0])
    change = get("zero-factors").apply(draft)
    assert change.edits == ("0.down", "2.down")
    assert torch.equal(draft.model(data(seed)[0]), outputs)
    for name, parameter in draft.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in change.edits)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())  # the user's own
    loss = F.cross_entropy(draft.model(data(seed)[0]), data(seed)[1])
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, [draft.model.get_parameter(f"{k}.up") for k in (0, 2)]))


@pytest.mark.parametrize("zero", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_zero_factor_learns_by_itself(seed: int, zero: tuple[bool, bool]) -> None:
    with pytest.raises(Refused, match="kept at zero by others"):
        get("zero-factors").apply(draft_of(adapted(seed, zero), seed))


def test_a_zero_head_behind_units_that_are_off_waits_for_no_weights() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(-100.0)
        model.get_parameter("2.weight").zero_()
    with pytest.raises(Refused, match="kept at zero by others"):
        get("zero-factors").apply(draft_of(model, 0))


def test_of_three_in_a_row_two_are_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, made, bias=False) for width, made in ((8, 6), (6, 6), (6, 3))))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert get("zero-factors").apply(draft_of(model, 0)).edits == ("0.weight", "1.weight")


def saddle(problem: Problem) -> list[Finding]:
    return [finding for finding in diagnose(problem).findings if finding.code == "UV403"]


def test_a_search_repairs_adapters_whose_factors_are_both_zero() -> None:
    x, y = data(0, 320)
    batches = [(a, b) for a, b in zip(x[:256].split(32), y[:256].split(32), strict=True)]

    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    problem = Problem(
        lambda: adapted(int(torch.initial_seed()) % 1000, (True, True)),
        x[:32], y[:32], F.cross_entropy, lambda p: torch.optim.Adam([q for q in p if q.requires_grad], 1e-2),
        train_batches=batches, validation=(x[256:], y[256:]), metric=accuracy, steps=120,
    )  # fmt: skip
    (finding,) = saddle(problem)
    assert finding.remedies[0] == "zero-factors"
    fixes = fix(problem, seeds=2)
    assert fixes.best is not None and "zero-factors" in fixes.best.edits
    assert all(f.code != "UV403" for f in (fixes.after.findings if fixes.after else ()))
