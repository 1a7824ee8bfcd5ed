"""Rows that become alike: what counts as a mean over rows, its numbers against dense references, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.trace.capture import record
from unvanish.trace.mixing import spread, stable_rank

NODES, WIDTH, DEPTH = 64, 32, 12
Layer = Callable[..., Tensor]


def graph(seed: int, nodes: int = NODES, share: float = 0.1) -> Tensor:
    edges = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < share).float()
    edges = ((edges + edges.T + torch.eye(nodes)) > 0).float()
    root = edges.sum(1).rsqrt()
    return root[:, None] * edges * root


class Stack(nn.Module):
    """An embedding, layers that are given the features and whatever else the problem holds, and a head."""

    def __init__(self, layer: Layer, depth: int, batchnorm: bool = False) -> None:
        super().__init__()
        self.embed, self.head, self.layer = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 2), layer
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(WIDTH, WIDTH) * math.sqrt(2 / WIDTH)) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) if batchnorm else nn.Identity() for _ in range(depth))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        h = self.first = torch.relu(self.embed(x))
        for weight, norm in zip(self.weights, self.norms, strict=True):
            h = self.layer(self, h, weight, norm, *more)
        return self.head(h)


def dense(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.relu(norm(means @ h @ weight))


def einsum(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.relu(torch.einsum("ij,jd->id", means, h @ weight))


def sparse(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.relu(torch.sparse.mm(means.to_sparse(), h @ weight))


def tanh_of_means(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.tanh((means / means.sum(1, keepdim=True)) @ (h @ weight.T))


def by_edges(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    source, target = means.nonzero().T
    sent = means[source, target][:, None] * (h @ weight)[source]
    return torch.relu(torch.zeros_like(h).index_add(0, target, sent))


def by_scatter(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    source, target = means.nonzero().T
    sent = means[source, target][:, None] * (h @ weight)[source]
    return torch.relu(torch.zeros_like(h).scatter_add(0, target[:, None].expand_as(sent), sent))


def attends(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    z = h @ weight
    return torch.relu((z @ z.T / 6.0).masked_fill(means == 0.0, -1e9).softmax(-1) @ z)


def skips(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return h + torch.relu(means @ h @ weight) / math.sqrt(DEPTH)


def first_again(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.relu((0.8 * (means @ h) + 0.2 * net.first) @ weight)


def pair_norm(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    h = means @ h @ weight
    h = h - h.mean(0)
    return torch.relu(h / (1e-6 + h.square().sum(1).mean() / WIDTH).sqrt())


def alone(net: Any, h: Tensor, weight: Tensor, norm: nn.Module, means: Tensor) -> Tensor:
    return torch.sigmoid(h @ weight)


def problem(layer: Layer, seed: int, depth: int = DEPTH, batchnorm: bool = False, constant: bool = False) -> Problem:
    with seeded(seed):
        x, model = torch.randn(NODES, 8), Stack(layer, depth, batchnorm)
    targets = torch.zeros(NODES, dtype=torch.long) if constant else (x[:, 0] > 0).long()
    return Problem(model, (x, graph(seed)), targets, F.cross_entropy, lambda p: torch.optim.Adam(p, 3e-3))


def found(problem: Problem) -> dict[str, Any]:
    return {f.code: f for f in diagnose(problem).findings}


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_is_one_less_the_mean_cosine_of_all_pairs(seed: int) -> None:
    with seeded(seed):
        rows = torch.randn(1, 3, 6, 5, dtype=torch.float64)[0]
    pairs = F.cosine_similarity(rows[:, :, None], rows[:, None, :], dim=-1).mean()
    assert spread(rows) == pytest.approx(1.0 - float(pairs), rel=1e-12)
    assert spread(torch.ones(1, 6, 5, dtype=torch.float64) * torch.arange(1.0, 7.0)[:, None]) == pytest.approx(
        0, abs=1e-30
    )
    nearly = torch.ones(1, 6, 5, dtype=torch.float64)
    nearly[0, 0, 0] += 1e-12  # 1 - cos would be lost: a turn of 1e-12 · √(4/25), of which five sixths² + … remain
    expected = (1e-12) ** 2 * 4 / 25 * 5 / 36
    assert spread(nearly) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_stable_rank_is_that_of_the_singular_values(seed: int) -> None:
    with seeded(seed):
        rows = torch.rand(2, 9, 5, dtype=torch.float64)
    sigma = torch.linalg.svdvals(rows)
    expected = float((sigma.square().sum(1) / sigma[:, 0].square()).mean())
    assert stable_rank(rows) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("layer", [dense, einsum, sparse, tanh_of_means, by_edges, by_scatter, attends])
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_means_make_alike_are_named_however_they_are_written(layer: Layer, seed: int) -> None:
    finding = found(problem(layer, seed)).get("UV407")
    assert finding is not None
    assert finding.verdict == "collapsed" and finding.layers
    depth = next(e for e in finding.evidence if e.name.startswith("depth"))
    assert depth.value is not None and depth.threshold == DEPTH and 2 <= depth.value < DEPTH


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (dense, {"depth": 2}), (dense, {"depth": 3}), (dense, {"batchnorm": True}), (dense, {"constant": True}),
        (skips, {}), (first_again, {}), (pair_norm, {}), (alone, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_can_be_told_apart_are_left_alone(layer: Layer, options: dict[str, Any], seed: int) -> None:
    assert "UV407" not in found(problem(layer, seed, **options))


def trained(problem: Problem, steps: int) -> tuple[Problem, float]:
    model: Any = problem.model
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss(problem.outputs(model)).backward()
        optimizer.step()
    right = problem.outputs(model).argmax(1) == problem.targets
    return Problem(model, problem.inputs, problem.targets, problem.loss_fn, optimizer), float(right.float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_named_costs_accuracy_and_what_is_not_does_not(seed: int) -> None:
    deep, low = trained(problem(dense, seed), 300)  # of eight layers rounding decides whether one ends near the limit
    shallow, high = trained(problem(dense, seed, depth=2), 300)
    assert low < 0.7 < 0.9 < high
    assert found(deep)["UV407"].level == "error"
    assert "UV407" not in found(shallow)


@pytest.mark.parametrize("seed", range(3))
def test_a_trained_classifier_whose_rows_collapse_by_class_is_left_alone(seed: int) -> None:
    with seeded(seed):
        x, model = torch.randn(NODES, 8), Stack(dense, 2)
    blocks = torch.block_diag(*(torch.full((NODES // 2, NODES // 2), 2.0 / NODES) for _ in range(2)))
    targets = torch.arange(NODES) * 2 // NODES
    x[:, 0] += 2.0 * targets
    start = Problem(model, (x, blocks), targets, F.cross_entropy, lambda p: torch.optim.Adam(p, 1e-2))
    done, right = trained(start, 200)
    assert right == 1.0
    assert "UV407" not in found(done)


@pytest.mark.parametrize(("layer", "count"), [(dense, 3), (by_edges, 3), (attends, 3), (alone, 0)])
def test_only_means_over_rows_count_as_such(layer: Layer, count: int) -> None:
    this = problem(layer, 0, depth=3)
    model: Any = this.model
    capture = record(this, model)
    mixed = [call for call in capture.calls if call.mixed is not None]
    capture.release()
    assert len(mixed) == count
    assert all(call.mixed is not None and call.mixed.rows == NODES for call in mixed)


@pytest.mark.parametrize("seed", range(3))
def test_weights_as_wide_as_there_are_rows_are_no_means(seed: int) -> None:
    with seeded(seed):
        model = Stack(lambda net, h, weight, norm: torch.relu(h @ weight), DEPTH)
        x = torch.randn(WIDTH, 8)
    this = Problem(model, x, (x[:, 0] > 0).long(), F.cross_entropy)
    capture = record(this, model)
    assert not any(call.mixed for call in capture.calls)
    capture.release()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_the_batch_may_hold_a_matrix_in_compressed_rows() -> None:
    this = problem(dense, 0, depth=2)
    x, means = this.inputs
    report = diagnose(Problem(this.model, (x, means.to_sparse_csr()), this.targets, F.cross_entropy))
    assert report.healthy


def symmetric(seed: int, depth: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Graph convolutions by hand: means weighted by the roots of the degrees, tanh, no bias."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8 if k == 0 else 24, 24, bias=False) for k in range(depth))
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.tanh(means @ layer(x))
            return means @ self.head(x)

    means = graph(seed, 60, 0.08)
    with seeded(seed):
        x, net = torch.randn(60, 8), Net()
        return net, x, ((means @ x) @ torch.randn(8, 3)).argmax(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [0, 200, 400])
def test_over_smoothing_comes_first_where_the_signal_fades_too(seed: int, steps: int) -> None:
    """32 layers never get past the best constant; trained, rows of different lengths are apart again by the end."""
    net, x, y = symmetric(seed, 32)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    report = diagnose(Problem(net, x, y, F.cross_entropy, optimizer, steps=400))
    first = report.findings[0]
    assert (first.code, first.level, report.verdict) == ("UV407", "error", "collapsed")
    shares = torch.bincount(y).double() / len(y)
    constant = float(-(shares * shares.clamp(min=1e-9).log()).sum())
    assert float(F.cross_entropy(net(x), y).detach()) > 0.9 * constant


@pytest.mark.parametrize("seed", range(3))
def test_four_layers_that_tell_the_nodes_apart_after_hundreds_of_steps_carry_no_error(seed: int) -> None:
    net, x, y = symmetric(seed, 4)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(1_600):
        if step in (0, 100, 200, 300):
            findings = diagnose(Problem(net, x, y, F.cross_entropy, optimizer)).findings
            assert not [f for f in findings if f.level == "error"]
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert float((net(x).argmax(1) == y).float().mean()) > 0.8
