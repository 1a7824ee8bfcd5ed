"""The batch cut into eight parts, and the gradients of the loss of each part by torch's own backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.moving import loss_again
from unvanish.flow.look import Look
from unvanish.problem import Problem

CHUNKS = 8
MOST_PARAMETERS = 20_000_000  # eight gradients of more than these would not fit beside a training step
AGREES = 1e-3  # of a layer's gradient: more than rounding makes of it, and far less than a part that is missing


Rows = Sequence[Tensor] | Tensor
"""One tensor a chunk; or those of all chunks stacked."""


def chunks_of(problem: Problem) -> list[Problem] | None:
    """The problem on each eighth of its batch; None where a chunk would have fewer than two samples."""
    size = problem.batch_size
    if size < 2 * CHUNKS:
        return None
    edges = [size * k // CHUNKS for k in range(CHUNKS + 1)]
    return [with_samples(problem, lambda t, a=a, b=b: t[a:b]) for a, b in pairwise(edges)]


def with_samples(problem: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with ``change(tensor)`` in place of each tensor that has one row a sample."""
    size = problem.batch_size

    def cut(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return change(tree) if tree.ndim and tree.shape[0] == size else tree
        if isinstance(tree, (tuple, list)):
            return tuple(cut(value) for value in tree)
        if isinstance(tree, Mapping):
            return {key: cut(value) for key, value in tree.items()}
        return tree

    return dataclasses.replace(problem, inputs=cut(problem.inputs), targets=cut(problem.targets))


def chunk_gradients(look: Look, chunks: Sequence[Problem], factor: float) -> dict[int, Rows]:
    """The gradients of ``factor`` times the loss of each chunk, by id of a parameter.

    Without the parameters to which some chunk sends none.
    """
    each = [alone(look, chunk, factor) for chunk in chunks]
    return {key: [made[key] for made in each] for key in each[0] if all(key in made for made in each)}


def alone(look: Look, chunk: Problem, factor: float) -> dict[int, Tensor]:
    """The gradients of ``factor`` times the loss of one chunk, by id of a parameter."""
    parameters = list({id(p): p for layer in look.layers for p in layer.live}.values())
    with torch.enable_grad():
        loss = loss_again(chunk, look.model, look.seed)
        made = torch.autograd.grad(loss, parameters, torch.full_like(loss, factor), allow_unused=True)
    pairs = zip(parameters, made, strict=True)
    return {id(p): g.to_dense() if g.is_sparse else g for p, g in pairs if g is not None}
