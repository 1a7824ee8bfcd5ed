"""Is a layer's gradient larger than the scatter between samples? Only a flag: healthy layers often look like noise.

The batch is cut into chunks. Where no operation mixes samples, the one walk over all of it tells their gradients apart;
else each chunk has a pass of its own, or an exact walk where gradients lie below every float.
The statistic is that of Hotelling's test without its covariance: the squared length of the mean over its expectation
under a true mean of zero, an F variable whose degrees of freedom follow from the chunks' Gram matrix.

Source: Satterthwaite 1946, An approximate distribution of estimates of variance components; Wilson & Hilferty 1931 for
the tail of F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unvanish.evidence.chunks import CHUNKS, MOST_PARAMETERS, alone, chunk_gradients, chunks_of
from unvanish.evidence.grams import grams_of
from unvanish.evidence.layerwise import one_power
from unvanish.evidence.samples import ChunkGrams
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.trace.backward import walk
from unvanish.trace.capture import interrupt_behind, record
from unvanish.trace.scaled import LOG_ZERO, Scaled

LEVEL = 0.01  # above this probability of a mean as large by chance, the gradient is called noise
LOST = -500  # a power of two below which a gradient is nothing beside the largest, in squares too


def noise_flags(look: Look, flows: Sequence[LayerFlow], walked: ChunkGrams | None = None) -> dict[str, bool] | str:
    """By layer: whether its gradient on this batch looks like noise; or why that cannot be said.

    ``flows``: what the walk measured; ``walked``: what it has told of the chunks. Where one power of two keeps all
    their gradients inside the range of their type, torch's own backward gives those of the chunks as well.
    """
    if sum(p.numel() for p in look.model.parameters()) > MOST_PARAMETERS:
        return f"the model has more than {MOST_PARAMETERS:,} parameters, and eight of its gradients are needed"
    chunks = chunks_of(look.problem)
    if chunks is None:
        return f"the batch cannot be cut into {CHUNKS} chunks of samples"
    grams = _plainly(look, flows, chunks, walked)
    grams = _walked(look, chunks) if grams is None else grams
    if isinstance(grams, str):
        return grams
    found = chances(torch.stack(list(grams.values()))) if grams else []
    return {name: chance > LEVEL for name, chance in zip(grams, found, strict=True) if chance is not None}


def _plainly(
    look: Look, flows: Sequence[LayerFlow], chunks: Sequence[Problem], walked: ChunkGrams | None
) -> dict[str, Tensor] | None:
    """The layers' Gram matrices by torch's own backward; None where it may leave its type's range, or is hooked."""
    whole = one_power([a for a in flows if a.log10_grad_norm is not None])
    live = [p for layer in look.layers for p in layer.live]
    if whole is None or not live or look.capture.hooked or any(p._backward_hooks for p in live):
        return None
    factor = 2.0**whole.power
    try:
        found = None if walked is None else walked.gathered(factor, lambda: alone(look, chunks[0], factor))
        rows = chunk_gradients(look, chunks, factor) if found is None else {}
    except Exception:  # what goes wrong has its words where the chunks are walked
        return None
    if found is not None:
        return found
    grams = dict(zip(rows, grams_of(list(rows.values())), strict=True))
    own = {layer.name: [grams[id(p)] for p in layer.live if id(p) in grams] for layer in look.layers}
    found = {name: torch.stack(each).sum(0) for name, each in own.items() if each}
    return found if all(bool(gram.isfinite().all()) for gram in found.values()) else None


def _walked(look: Look, chunks: Sequence[Problem]) -> dict[str, Tensor] | str:
    """The same from exact walks; or why they cannot be had."""
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
    heard = {key: each for key, each in gradients.items() if len(each) == CHUNKS}
    own = {layer.name: [heard[id(p)] for p in layer.live if id(p) in heard] for layer in look.layers}
    return {name: _gram(each) for name, each in own.items() if each}


def _gram(parameters: Sequence[Sequence[Scaled]]) -> Tensor:
    """Inner products of the chunks' gradients, (CHUNKS, CHUNKS), in units of the largest power of two among them."""
    live = [g.exponent for chunks in parameters for g in chunks if g.log2 != LOG_ZERO]
    top = max((float(e) for e in live), default=0.0)
    total = torch.zeros(CHUNKS, CHUNKS, dtype=torch.float64, device="cpu")
    for chunks in parameters:
        dense = [g.mantissa.to_dense() if g.mantissa.is_sparse else g.mantissa for g in chunks]
        powers = [0 if g.log2 == LOG_ZERO else round(float(g.exponent) - top) for g in chunks]
        scales = torch.tensor([0.0 if p < LOST else 2.0**p for p in powers], dtype=torch.float64, device="cpu")
        total += grams_of([dense])[0] * torch.outer(scales, scales)
    return total


def by_chance(gram: Tensor) -> float | None:
    """The probability of a mean as long as this one if the true mean is zero; None where nothing scatters.

    ``gram``: (n, n) inner products of n independent estimates of the same gradient.
    """
    return chances(gram.unsqueeze(0))[0]


def chances(grams: Tensor) -> list[float | None]:
    """The same of each of many, (gradients, n, n)."""
    n = grams.shape[-1]
    means = grams.sum((1, 2)) / n**2  # |mean|²
    scatters = (grams.diagonal(dim1=1, dim2=2).sum(1) - n * means) / (n - 1)  # trace of the covariance of one estimate
    inner = grams.mean((1, 2), keepdim=True)
    centred = grams - grams.mean(1, keepdim=True) - grams.mean(2, keepdim=True) + inner
    squares = centred.pow(2).sum((1, 2)) / (n - 1) ** 2 - scatters**2 / (n - 1)  # trace of the covariance squared
    return [_chance(n, *each) for each in zip(means.tolist(), scatters.tolist(), squares.tolist(), strict=True)]


def _chance(n: int, mean: float, scatter: float, squares: float) -> float | None:
    if not scatter > 1e-12 * mean:
        return None if mean == 0.0 else 0.0
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
