"""Is a layer's gradient larger than the scatter between samples? Only a flag: healthy layers often look like noise.

The batch is cut into chunks and walked chunk by chunk, exactly, so that gradients below every float are compared too.
The statistic is that of Hotelling's test without its covariance: the squared length of the mean over its expectation
under a true mean of zero, an F variable whose degrees of freedom follow from the chunks' Gram matrix.

Source: Satterthwaite 1946, An approximate distribution of estimates of variance components; Wilson & Hilferty 1931 for
the tail of F.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.trace.backward import walk
from unvanish.trace.capture import interrupt_behind, record
from unvanish.trace.scaled import LOG_ZERO, Scaled, shift

CHUNKS = 8
LEVEL = 0.01  # above this probability of a mean as large by chance, the gradient is called noise
MOST_PARAMETERS = 20_000_000  # eight gradients of more than these would not fit beside a training step


def noise_flags(look: Look) -> dict[str, bool] | str:
    """By layer: whether its gradient on this batch looks like noise; or why that cannot be said."""
    if sum(p.numel() for p in look.model.parameters()) > MOST_PARAMETERS:
        return f"the model has more than {MOST_PARAMETERS:,} parameters, and eight of its gradients are needed"
    chunks = _chunks(look.problem)
    if chunks is None:
        return f"the batch cannot be cut into {CHUNKS} chunks of samples"
    gradients: dict[int, list[Scaled]] = {}
    for chunk in chunks:
        try:
            capture = record(chunk, look.model)
        except UnvanishError as error:
            if (stop := interrupt_behind(error)) is not None:
                raise stop from None
            return f"the samples of this batch cannot be cut apart: on an eighth of them {error}"
        if capture.loss_root is None:
            return "a chunk of the batch has a loss without a gradient"
        root = capture.loss_root
        start = torch.ones(root.shape, dtype=root.dtype, device=root.device)
        walk(capture, [[(root, start)]], lambda p, _, g: gradients.setdefault(id(p), []).append(g))
    found = {}
    for layer in look.layers:
        own = [gradients[id(p)] for p in layer.live if len(gradients.get(id(p), ())) == CHUNKS]
        if own:
            chance = by_chance(_gram(own))
            if chance is not None:
                found[layer.name] = chance > LEVEL
    return found


def _chunks(problem: Problem) -> list[Problem] | None:
    size = problem.batch_size
    if size < 2 * CHUNKS:
        return None
    edges = [size * k // CHUNKS for k in range(CHUNKS + 1)]

    def cut(tree: Any, low: int, high: int) -> Any:
        if isinstance(tree, Tensor):
            return tree[low:high] if tree.ndim and tree.shape[0] == size else tree
        if isinstance(tree, (tuple, list)):
            return tuple(cut(value, low, high) for value in tree)
        if isinstance(tree, Mapping):
            return {key: cut(value, low, high) for key, value in tree.items()}
        return tree

    return [
        dataclasses.replace(problem, inputs=cut(problem.inputs, a, b), targets=cut(problem.targets, a, b))
        for a, b in pairwise(edges)
    ]


def _gram(parameters: Sequence[Sequence[Scaled]]) -> Tensor:
    """Inner products of the chunks' gradients, (CHUNKS, CHUNKS), in units of the largest power of two among them."""
    live = [g.exponent for chunks in parameters for g in chunks if g.log2 != LOG_ZERO]
    top = max((float(e) for e in live), default=0.0)
    total = torch.zeros(CHUNKS, CHUNKS, dtype=torch.float64, device="cpu")
    for chunks in parameters:
        dense = (g.mantissa.to_dense() if g.mantissa.is_sparse else g.mantissa for g in chunks)
        rows = [
            shift(m.reshape(-1).double(), round(float(g.exponent) - top)) if g.log2 != LOG_ZERO else m.new_zeros(1)
            for m, g in zip(dense, chunks, strict=True)
        ]
        widest = max(row.numel() for row in rows)
        matrix = torch.stack([row.cpu().double().expand(widest) for row in rows])
        total += matrix @ matrix.T
    return total


def by_chance(gram: Tensor) -> float | None:
    """The probability of a mean as long as this one if the true mean is zero; None where nothing scatters.

    ``gram``: (n, n) inner products of n independent estimates of the same gradient.
    """
    n = gram.shape[0]
    mean = float(gram.sum()) / n**2  # |mean|²
    scatter = (float(gram.trace()) - n * mean) / (n - 1)  # trace of the covariance of one estimate
    if not scatter > 1e-12 * mean:
        return None if mean == 0.0 else 0.0
    centred = gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()
    squares = float(centred.pow(2).sum()) / (n - 1) ** 2 - scatter**2 / (n - 1)  # trace of the covariance squared
    freedom = scatter**2 / squares if squares > scatter**2 * 1e-9 else 1e9
    freedom = max(1.0, freedom)
    return _f_tail(n * mean / scatter, freedom, freedom * (n - 1))


def _f_tail(value: float, above: float, below: float) -> float:
    """P(F > value) with these degrees of freedom, by the Wilson-Hilferty cube root."""
    if value <= 0:  # a mean that cancels to rounding can come out below zero
        return 1.0
    root, a, b = value ** (1.0 / 3.0), 2.0 / (9.0 * above), 2.0 / (9.0 * below)
    z = ((1.0 - b) * root - (1.0 - a)) / math.sqrt(b * root**2 + a)
    return 0.5 * math.erfc(z / math.sqrt(2.0))
