"""Layers that run inside torch.func's transforms are as deep as the same layers in a loop."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded

MEMBERS = 3


class Ensemble(nn.Module):
    """Several small networks at once: by vmap over their stacked weights, or one after the other."""

    def __init__(self, depth: int, act: Callable[[Tensor], Tensor], mapped: bool) -> None:
        super().__init__()
        sizes = [8] + [16] * depth
        pairs = itertools.pairwise(sizes)
        self.inner = nn.ParameterList(nn.Parameter(0.25 * torch.randn(MEMBERS, b, a)) for a, b in pairs)
        self.last = nn.Parameter(0.25 * torch.randn(MEMBERS, 16, 4))
        self.act, self.mapped = act, mapped

    def forward(self, x: Tensor) -> Tensor:
        def one(last: Tensor, *weights: Tensor) -> Tensor:
            h = x
            for weight in weights:
                h = self.act(h @ weight.T)
            return h @ last

        if self.mapped:
            return torch.vmap(one)(self.last, *self.inner).mean(0)
        return sum(one(self.last[k], *(w[k] for w in self.inner)) for k in range(MEMBERS)) / MEMBERS  # type: ignore[return-value]


class Functional(nn.Module):
    """The members of torch's own example: functional_call of a skeleton under vmap."""

    skeleton: nn.Module

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.__dict__["skeleton"] = copy.deepcopy(members[0]).to("meta")
        stacked, _ = torch.func.stack_module_state(members)
        self.names = list(stacked)
        self.stacked = nn.ParameterList(nn.Parameter(stacked[name].detach()) for name in self.names)

    def forward(self, x: Tensor) -> Tensor:
        def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, weights, (x,))

        weights = dict(zip(self.names, self.stacked, strict=True))
        return torch.vmap(one, in_dims=(0, None))(weights, x).mean(0)


def chain(depth: int, act: type[nn.Module]) -> nn.Module:
    inner = [each for _ in range(depth) for each in (act(), nn.Linear(16, 16))]
    return nn.Sequential(nn.Linear(8, 16), *inner, act(), nn.Linear(16, 4))


def check(model: nn.Module, x: Tensor) -> unvanish.Report:
    y = x[:, :4].argmax(1)
    return unvanish.diagnose(model, x, y, F.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("depth", "act", "vanishes"), [(10, torch.sigmoid, True), (3, torch.tanh, False)])
def test_transmission_under_vmap_is_that_of_a_loop(depth: int, act: Callable, vanishes: bool, seed: int) -> None:
    with seeded(seed):
        mapped, x = Ensemble(depth, act, mapped=True), torch.randn(64, 8)
    looped = copy.deepcopy(mapped)
    looped.mapped = False
    one, other = check(mapped, x), check(looped, x)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.name == b.name and a.log10_transmission is not None
        assert a.log10_transmission == pytest.approx(b.log10_transmission, abs=0.02)
        assert a.log10_grad_norm == pytest.approx(b.log10_grad_norm, abs=1e-3)
    assert (one.verdict == "vanished") == (other.verdict == "vanished") == vanishes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("depth", "act", "vanishes"), [(10, nn.Sigmoid, True), (2, nn.ReLU, False)])
def test_a_mapped_functional_call_is_as_deep_as_it_is(
    depth: int, act: type[nn.Module], vanishes: bool, seed: int
) -> None:
    with seeded(seed):
        model, x = Functional([chain(depth, act) for _ in range(MEMBERS)]), torch.randn(64, 8)
    report = check(model, x)
    assert (report.verdict == "vanished") == vanishes
    assert report.layers[0].log10_transmission != 0.0
