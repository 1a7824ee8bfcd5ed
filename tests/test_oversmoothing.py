"""Changes of networks over a graph, against formulas written out; refused where no node sees another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Refused, get, script


class Conv(nn.Module):
    """A layer over a graph as libraries have it: called with the nodes and the edges, each a pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(width, width, bias=False), nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(h)
        return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) + self.bias


class Graph(nn.Module):
    def __init__(self, depth: int = 4, library: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(Conv(8) if library else nn.Linear(8, 8) for _ in range(depth))
        self.library = library

    def layer(self, module: Any, h: Tensor, graph: Tensor) -> Tensor:
        return torch.tanh(module(h, graph) if self.library else graph @ module(h))

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        for module in self.layers:
            h = torch.tanh(module(h, graph) if self.library else graph @ module(h))
        return self.head(h)

    def expected(self, x: Tensor, graph: Tensor, how: str) -> Tensor:
        first = h = torch.tanh(self.embed(x))
        seen: list[Tensor] = []
        for module in self.layers:
            h = self.layer(module, h, graph)
            if how == "initial-residual":
                h = 0.8 * h + 0.2 * first
            if how == "pair-norm":
                h = h - h.mean(0)
                h = h / (1e-6 + h.square().sum(1).mean() / 8).sqrt()
            if how == "residual":
                h = (seen[-1] if seen else first) + h / len(self.layers) ** 0.5
            seen.append(h)
        return self.head(torch.stack(seen).max(0).values if how == "jumping-knowledge" else h)


X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
DENSE = torch.rand(12, 12, generator=torch.Generator().manual_seed(1)).softmax(1)
EDGES = torch.randint(12, (2, 40), generator=torch.Generator().manual_seed(2))
Y = torch.arange(12) % 3


def draft_of(model: nn.Module, *inputs: Tensor) -> Draft:
    return Draft.of(Problem(model, inputs, Y, F.cross_entropy), model, None)


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("slug", ["initial-residual", "pair-norm", "jumping-knowledge", "residual"])
def test_the_forward_becomes_the_formula(slug: str, library: bool) -> None:
    with seeded(3):
        model = Graph(library=library)
    graph = EDGES if library else DENSE
    draft = draft_of(model, X, graph)
    change = get(slug).apply(draft)
    assert torch.allclose(draft.model(X, graph), model.expected(X, graph, slug), atol=1e-4)
    assert not torch.allclose(draft.model(X, graph), model(X, graph), atol=1e-2)
    names: dict[str, Any] = {"model": model, "loss_fn": F.cross_entropy, "restore_outputs": None}
    exec(script([change], draft.recipe, draft.model), names)
    assert torch.equal(names["model"](X, graph), draft.model(X, graph))


@pytest.mark.parametrize("slug", ["initial-residual", "pair-norm", "jumping-knowledge"])
@pytest.mark.parametrize(
    ("depth", "graph", "words"),
    [(4, torch.eye(12), "no sample of the batch sees another"), (2, DENSE, "fewer than three")],
)
def test_what_is_no_deep_network_over_a_graph_is_left_alone(slug: str, depth: int, graph: Tensor, words: str) -> None:
    draft = draft_of(Graph(depth), X, graph)
    before = draft.model
    with pytest.raises(Refused, match=words):
        get(slug).apply(draft)
    assert draft.model is before and draft.model.training


def test_pair_norm_keeps_the_nodes_as_far_apart_at_every_depth() -> None:
    def distance(h: Tensor) -> float:
        return float(torch.pdist(h.detach()).square().sum())

    spread: dict[str, list[float]] = {}
    for slug in ("", "pair-norm"):
        with seeded(4):
            draft = draft_of(Graph(16), X, DENSE)
        if slug:
            get(slug).apply(draft)
        found: list[float] = []
        head: Any = draft.model.get_submodule("head")
        head.register_forward_pre_hook(lambda _, given, found=found: found.append(distance(given[0])))
        draft.model(X, DENSE)
        spread[slug] = found
    nodes = 12
    assert spread["pair-norm"][0] == pytest.approx(nodes * nodes * 8, rel=1e-3)  # Σ|hᵢ − hⱼ|² = n Σ|hᵢ|², each √8 long
    assert spread[""][0] < 1e-6 * spread["pair-norm"][0]
