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

from unvanish.evidence.layerwise import one_power
from unvanish.evidence.moving import loss_again
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.trace.backward import walk
from unvanish.trace.capture import interrupt_behind, record
from unvanish.trace.scaled import LOG_ZERO, Scaled, norm_of

CHUNKS = 8
LEVEL = 0.01  # above this probability of a mean as large by chance, the gradient is called noise
AT_ONCE = 2**14  # columns of eight gradients in float64: one megabyte
LOST = -500  # a power of two below which a gradient is nothing beside the largest, in squares too
MOST_PARAMETERS = 20_000_000  # eight gradients of more than these would not fit beside a training step


def noise_flags(look: Look, flows: Sequence[LayerFlow]) -> dict[str, bool] | str:
    """By layer: whether its gradient on this batch looks like noise; or why that cannot be said.

    ``flows``: what the walk measured. Where one power of two keeps all their gradients inside the range of their type,
    torch's own backward gives those of the chunks as well.
    """
    if sum(p.numel() for p in look.model.parameters()) > MOST_PARAMETERS:
        return f"the model has more than {MOST_PARAMETERS:,} parameters, and eight of its gradients are needed"
    chunks = _chunks(look.problem)
    if chunks is None:
        return f"the batch cannot be cut into {CHUNKS} chunks of samples"
    plain = _plainly(look, flows, chunks)
    gradients: dict[int, list[Scaled]] = plain or {}
    for chunk in () if plain else chunks:
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


def _plainly(look: Look, flows: Sequence[LayerFlow], chunks: Sequence[Problem]) -> dict[int, list[Scaled]] | None:
    """The chunks' gradients by torch's own backward; None where they may leave their type's range, or are hooked."""
    whole = one_power([a for a in flows if a.log10_grad_norm is not None])
    parameters = list({id(p): p for layer in look.layers for p in layer.live}.values())
    if whole is None or not parameters or look.capture.hooked or any(p._backward_hooks for p in parameters):
        return None
    found: dict[int, list[Scaled]] = {}
    try:
        for chunk in chunks:
            with torch.enable_grad():
                loss = loss_again(chunk, look.model, look.seed)
                start = torch.full_like(loss, 2.0**whole.power)
                made = torch.autograd.grad(loss, parameters, start, allow_unused=True)
            for parameter, gradient in zip(parameters, made, strict=True):
                if gradient is not None:
                    norm = norm_of(gradient)
                    if not math.isfinite(norm):
                        return None
                    log2 = math.log2(norm) - whole.power if norm else LOG_ZERO
                    found.setdefault(id(parameter), []).append(Scaled(gradient, -whole.power, log2))
    except Exception:  # what goes wrong has its words where the chunks are walked
        return None
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
        dense = [(g.mantissa.to_dense() if g.mantissa.is_sparse else g.mantissa).reshape(-1) for g in chunks]
        powers = [0 if g.log2 == LOG_ZERO else round(float(g.exponent) - top) for g in chunks]
        scales = torch.tensor([0.0 if p < LOST else 2.0**p for p in powers], dtype=torch.float64, device="cpu")
        total += _inner(dense, scales)
    return total


def _inner(rows: Sequence[Tensor], scales: Tensor) -> Tensor:
    """Inner products in float64 of rows times their scales, AT_ONCE columns at a time: they stay in the cache."""
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
    width = rows[0].numel()
    room = torch.empty(len(rows), min(width, AT_ONCE), dtype=torch.float64, device="cpu")
    for start in range(0, width, AT_ONCE):
        part = room[:, : min(AT_ONCE, width - start)]
        for row, values in zip(part, rows, strict=True):
            row.copy_(values[start : start + AT_ONCE])
        part.mul_(scales.unsqueeze(1))
        products += part @ part.T
    return products


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
