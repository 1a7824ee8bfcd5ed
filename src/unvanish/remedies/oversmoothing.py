"""Deep networks over a graph whose nodes become alike from layer to layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.draft import called
from unvanish.remedies.rewriting import PairNorm, keep_apart
from unvanish.remedies.written import Spans, written_blocks
from unvanish.trace.structure import rebuild, tensors

ALPHA = 0.2
"""Share of what went into the first layer: both papers take 0.1 to 0.5."""
FEWEST = 3
"""Layers over the graph: two, as most such networks have, leave the nodes apart."""


@remedy(
    "initial-residual",
    "a share of the first layer's nodes in every later one",
    kind="residual",
    answers=("UV101", "UV402", "UV407"),
    cures_on=("graph-smoothed",),
    no_help_on=("lr-too-small", "dead-relu", "sigmoid-20"),
    only_for="kind",
)
def initial_residual(draft: Draft) -> Change:
    """Every layer over the graph gets 20% of what went into the first: 0.8 · layer(h) + 0.2 · h₀.

    What: in a forward that torch.fx can read, behind each of three or more layers over a graph that keep the shape of
    the nodes.
    Helps: node features that become alike with depth, because every layer takes means over neighbours.
    Does not help: networks in which no sample sees another one (refused); trouble before the first layer of the graph.
    Source: Gasteiger, Bojchevski & Günnemann 2019, Predict then propagate; Chen et al. 2020, Simple and deep graph
    convolutional networks.
    """
    return _rewritten(draft, "first", f"{1 - ALPHA:g} · layer(h) + {ALPHA:g} · h₀ behind")


@remedy(
    "pair-norm",
    "nodes kept apart by PairNorm",
    kind="normalisation",
    answers=("UV101", "UV402", "UV407"),
    cures_on=("graph-smoothed",),
    no_help_on=("lr-too-small", "dead-relu", "sigmoid-20"),
    only_for="kind",
)
def pair_norm(draft: Draft) -> Change:
    """The mean over all nodes is taken off, and the rest is brought to a mean square length of √width.

    What: in a forward that torch.fx can read, behind each of three or more layers over a graph that keep the shape of
    the nodes. The sum of all distances between nodes then stays the same from layer to layer.
    Helps: node features that become alike with depth.
    Does not help: networks in which no sample sees another one (refused); several graphs in one batch, whose mean it
    takes together.
    Source: Zhao & Akoglu 2020, PairNorm: tackling oversmoothing in GNNs.
    """
    return _rewritten(draft, "pairs", "PairNorm behind")


@remedy(
    "jumping-knowledge",
    "the largest of all layers' features as the last ones",
    kind="residual",
    answers=("UV101", "UV402", "UV407"),
    cures_on=("graph-smoothed",),
    no_help_on=("lr-too-small", "dead-relu", "sigmoid-20"),
    only_for="kind",
)
def jumping_knowledge(draft: Draft) -> Change:
    """What comes after the layers over the graph is given, of each feature, the largest that any of them made.

    What: in a forward that torch.fx can read, with three or more layers over a graph that keep the shape of the nodes.
    Helps: node features that become alike with depth: what the first layers know of a node is still there at the end.
    Does not help: networks in which no sample sees another one (refused).
    Source: Xu et al. 2018, Representation learning on graphs with jumping knowledge networks.
    """
    return _rewritten(draft, "jump", "the largest features of")


def _rewritten(draft: Draft, how: str, what: str) -> Change:
    if not _nodes_see_each_other(draft):
        raise Refused("no sample of the batch sees another one: this is no network over a graph")
    blocks: Spans = {path: spans for path, spans in written_blocks(draft).items() if len(spans) >= FEWEST}
    if not blocks:
        raise Refused("fewer than three layers over the graph keep the shape of the nodes")
    count = sum(map(len, blocks.values()))
    code = [f"model = keep_apart(model, {blocks!r}, how={how!r}, alpha={ALPHA!r})"]
    parts: list[Any] = [surgery.put, surgery.trace, PairNorm, keep_apart]
    paths = [f"{path}.{first}".lstrip(".") for path, spans in blocks.items() for first, _ in spans]
    return draft.apply(f"{what} {'each of ' if how != 'jump' else ''}{count} layers", parts, code, paths)


def _nodes_see_each_other(draft: Draft) -> bool:
    """Whether the first output depends on the inputs of other samples, in evaluation mode."""
    model, wanted = draft.model, list[Tensor]()

    def followed(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim < 2 or len(tensor) < 2:
            return tensor
        wanted.append(tensor.detach().clone().requires_grad_())
        return wanted[-1]

    inputs = rebuild(draft.inputs, followed)
    with untouched(model, 0), torch.enable_grad():
        model.eval()
        outputs = [t for t in tensors(called(model, inputs)) if t.requires_grad and t.ndim]
        if not wanted or not outputs:
            return False
        found = torch.autograd.grad(outputs[0][0].sum(), wanted, allow_unused=True)
        seen = [g for g in found if g is not None and len(g) == len(outputs[0])]
        return any(bool(g[1:].any()) for g in seen)
