"""Gates in series and beside a sound trunk, as models of libraries have them; both directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_small_failures_library import CLASSES, SAMPLES, SEEDS, STEPS, adam, codes, verdicts
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem


def scale(size: float) -> nn.Parameter:
    return nn.Parameter(torch.full((16,), size))


class Scaled(nn.Module):
    """A residual block under a small scale, as LayerScale makes them, with its own way inside."""

    def __init__(self, inside: nn.Module, size: float = 1e-5) -> None:
        super().__init__()
        self.norm, self.inside, self.scale = nn.LayerNorm(16), inside, scale(size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inside(self.norm(x))


def mixing() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


class Nested(nn.Module):
    """A trunk of scaled blocks that reaches the head only under one or two scales more."""

    def __init__(self, blocks: int, around: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head, self.token = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.randn(16))
        self.trunk = nn.Sequential(*(Scaled(mixing()) for _ in range(blocks)))
        self.values = nn.ModuleList(nn.Linear(16, 16) for _ in range(around))
        self.scales = nn.ParameterList(scale(1e-5) for _ in range(around))

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(self.embed(x))
        for values, size in zip(self.values, self.scales, strict=True):
            h = self.token + size * values(h)
        return self.head(h)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("blocks", "around"), [(2, 1), (6, 1), (2, 2)])
def test_a_branch_under_scales_that_holds_scaled_blocks_is_gated(blocks: int, around: int, seed: int) -> None:
    report = diagnose(Problem(Nested(blocks, around, seed), SAMPLES, CLASSES, F.cross_entropy, adam))
    found = verdicts(report)
    assert "UV101" not in codes(report) and "vanished" not in found.values()
    assert found["trunk.0.inside.0"] == "gated" and found["embed"] == "gated"
    inner = next(layer for layer in report.layers if layer.name == "trunk.0.inside.0")
    assert "scales.0" in inner.gate and inner.log10_transmission is not None and inner.log10_transmission < -8.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_product_of_many_small_scales_or_matrices_has_vanished(seed: int) -> None:
    torch.manual_seed(seed)

    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale(1e-2)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x + 1.0

    scales = [part for _ in range(8) for part in (nn.Linear(16, 16), Times())]
    matrices = [nn.Linear(16, 16) for _ in range(8)]
    for matrix in matrices:
        nn.init.normal_(matrix.weight, std=1e-3)
    for hidden in (scales, matrices):
        net = nn.Sequential(nn.Linear(8, 16), *hidden, nn.Linear(16, 8))
        report = diagnose(Problem(net, SAMPLES, CLASSES, F.cross_entropy, adam))
        assert "UV101" in codes(report) and report.layers[0].verdict == "vanished"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_queries_of_a_first_attention_at_a_small_start_are_not_vanished(frozen: bool, seed: int) -> None:
    """All weights N(0, 0.02²), as library models start: the first attention is nearly uniform, its values carry."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32).requires_grad_(not frozen)
            self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            mixed = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
            return self.head(self.norm(h + self.out(mixed))).mean(1)

    torch.manual_seed(seed)
    model = Attending()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    report = diagnose(Problem(model, STEPS, CLASSES[:16], F.cross_entropy, adam))
    assert report.healthy and "vanished" not in verdicts(report).values()
    query = next(layer for layer in report.layers if layer.name == "query")
    assert query.log10_transmission is not None and query.log10_transmission < -1.5


class Refusing(tuple):
    """A tuple that has no length, as the representations of an equivariant library."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_a_tuple_without_a_length_among_the_models_attributes_is_no_obstacle() -> None:
    model = nn.Linear(8, 8)
    model.kinds = Refusing((1, 2))  # type: ignore[assignment]
    assert diagnose(Problem(model, SAMPLES, CLASSES, F.cross_entropy, adam)).healthy
