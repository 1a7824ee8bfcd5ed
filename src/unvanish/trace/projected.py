"""The size of a weight gradient without its matrix product: what a few random directions of its output side see.

A probe needs no weight gradient G = aᵀδ, only its norm. For V with independent N(0, 1/k) entries E‖GV‖² = ‖G‖², and
GV = aᵀ(δV) is the product with k columns instead of all outputs: it assumes nothing about samples or positions, which
may depend on each other as they do under a batch norm. With k directions the norm is off by 1/√(2k) of itself at most
(a gradient of rank one), and by less where the rank is larger.

Source: Johnson and Lindenstrauss 1984; Hutchinson 1990; for norms of gradients without their products Goodfellow 2015.
It rests on private details of autograd, the saved tensors of four kinds of nodes: where they are not found, the node is
called as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unvanish.trace.calls import Node, leaf_of
from unvanish.trace.scaled import normal_like

DIRECTIONS = 32
"""Random directions: 0.05 decades of spread at rank one, less than a probe of one random cotangent has itself."""
WORTH = 1.5
"""How many times fewer multiplications it must take: products with few columns are less quick than square ones."""


FEW = 4
"""How many times fewer channels than the convolution has, or columns than a table."""


class Projected(NamedTuple):
    """One node whose weight gradient is only projected: the leaf of that weight, and what to send instead.

    ``send(given)``: by edge number the gradients of the others, and the projected gradient of the weight.
    """

    weight: int
    leaf: Node
    send: Callable[[Tensor], tuple[dict[int, Tensor], Tensor]]


class Projector:
    """Makes the random directions of one walk."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.made: dict[tuple[tuple[int, ...], torch.dtype, torch.device], Tensor] = {}

    def directions(self, given: Tensor) -> Tensor:
        """(outputs, DIRECTIONS) for cotangents of shape (rows, outputs), in their type and on their device.

        An output gets its random numbers by its place in an order that the cotangents give, not by its index: so the
        units of a layer may be numbered otherwise, and the norm is the same.
        """
        rows, outputs = given.shape
        order = (self._drawn(given, (rows,)) @ given).argsort()
        drawn = self._drawn(given, (outputs, DIRECTIONS))
        return torch.empty_like(drawn).index_copy_(0, order, drawn)

    def _drawn(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        key = shape, like.dtype, like.device
        if key not in self.made:
            generator = torch.Generator().manual_seed(self.seed + sum(shape))
            self.made[key] = normal_like(like.new_empty(shape), generator) / math.sqrt(DIRECTIONS)
        return self.made[key]

    def of(self, node: Node, edges: Sequence[tuple[Node, int]], shared: set[Node]) -> Projected | None:
        """How to project the weight gradient of this node; None where it is not one, or would be no quicker.

        Only a weight that nothing else uses: the gradients of several uses are added before their norm is taken.
        """
        kind = _KINDS.get(node.name())
        if kind is None or len(node._input_metadata) != 1:
            return None
        weight, plan = kind
        leaf = _leaf_behind(edges[weight][0], shared)
        if leaf is None:
            return None
        try:
            send = plan(node, edges, self)
        except (AttributeError, TypeError):  # a torch that saves other things
            return None
        return None if send is None else Projected(weight, leaf, send)


def _leaf_behind(node: Node | None, shared: set[Node]) -> Node | None:
    """The leaf a weight comes from by turning and by casts alone, if it is used nowhere else."""
    while node is not None and node not in shared:
        leaf = leaf_of(node)
        if leaf is not None:
            return node if leaf.is_floating_point() else None
        if node.name() not in ("TBackward0", "TransposeBackward0", "ToCopyBackward0"):
            return None
        node = node.next_functions[0][0]
    return None


def _pays(inputs: int, outputs: int) -> bool:
    return WORTH * DIRECTIONS * (inputs + outputs) < inputs * outputs


def _product(node: Any, edges: Sequence[tuple[Node, int]], projector: Projector, first: int) -> Any:
    """rows @ weight of shape (inputs, outputs); ``first`` is the number of the edge to the rows."""
    rows = node._saved_mat1 if first else node._saved_self
    if first and (node._saved_alpha != 1 or node._saved_beta != 1):
        return None
    weight = node._saved_mat2 if edges[first][0] is not None else None
    outputs = node._input_metadata[0].shape[1]
    if rows is None or rows.ndim != 2 or rows.layout is not torch.strided or not _pays(rows.shape[1], outputs):
        return None

    def send(given: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        sent = {} if weight is None else {first: given @ weight.t()}
        if first and edges[0][0] is not None:
            sent[0] = given
        return sent, (given @ projector.directions(given)).t() @ rows

    return send


def _convolution(node: Any, edges: Sequence[tuple[Node, int]], projector: Projector) -> Any:
    """A convolution of one group, with the outputs it would have if it had as many channels as directions."""
    inputs, weight, sizes = node._saved_input, node._saved_weight, node._saved_bias_sym_sizes_opt
    if node._saved_transposed or node._saved_groups != 1 or weight.shape[0] < FEW * DIRECTIONS:
        return None
    how = node._saved_stride, node._saved_padding, node._saved_dilation, False, node._saved_output_padding, 1
    wanted = edges[0][0] is not None, False, edges[2][0] is not None
    back = torch.ops.aten.convolution_backward

    def send(given: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        found = back(given, inputs, weight, sizes, *how, wanted)
        directions = projector.directions(given.transpose(0, 1).flatten(1).t())
        few = torch.einsum("nc...,ck->nk...", given, directions)
        narrow = weight.new_empty((DIRECTIONS, *weight.shape[1:]))
        projected = back(few.contiguous(), inputs, narrow, None, *how, (False, True, False))[1]
        return {place: found[place] for place in (0, 2) if wanted[place]}, projected

    return send


def _embedding(node: Any, edges: Sequence[tuple[Node, int]], projector: Projector) -> Any:
    """Rows taken from a table: the table's gradient has as many columns as directions."""
    indices, rows = node._saved_indices, int(node._saved_weight_sym_argsize_0)
    how = int(node._saved_padding_idx), bool(node._saved_scale_grad_by_freq)
    width = node._input_metadata[0].shape[-1]
    if node._saved_sparse or width < FEW * DIRECTIONS:
        return None
    if how[0] < 0 or how[0] >= 2**63:  # none is meant
        how = -1, how[1]

    def send(given: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        few = given @ projector.directions(given.reshape(-1, width))
        return {}, torch.ops.aten.embedding_dense_backward(few, indices, rows, *how)

    return send


_KINDS: dict[str, tuple[int, Callable[..., Any]]] = {
    "AddmmBackward0": (2, lambda node, edges, projector: _product(node, edges, projector, 1)),
    "MmBackward0": (1, lambda node, edges, projector: _product(node, edges, projector, 0)),
    "ConvolutionBackward0": (1, _convolution),
    "EmbeddingBackward0": (0, _embedding),
}
"""Kinds of nodes: the number of the edge to the weight, and how to project."""
