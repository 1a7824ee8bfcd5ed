"""Is a layer's gradient larger than the scatter between samples? Only a flag: healthy layers often look like noise.

The batch is cut into chunks and walked chunk by chunk, exactly, so that gradients below every float are compared too.
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

from unvanish.evidence.chunks import CHUNKS, Rows, chunk_gradients, chunks_of
from unvanish.evidence.layerwise import one_power
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError
from unvanish.trace.backward import walk
from unvanish.trace.capture import interrupt_behind, record
from unvanish.trace.scaled import LOG_ZERO, Scaled

LEVEL = 0.01  # above this probability of a mean as large by chance, the gradient is called noise
AT_ONCE = 2**14  # columns of eight gradients in float64: one megabyte
BLOCK = 2**10  # entries whose products are summed in float32
LOW = 1e-24  # of a norm squared: beside it nothing counts of what underflows in float32
LOST = -500  # a power of two below which a gradient is nothing beside the largest, in squares too
MOST_PARAMETERS = 20_000_000  # eight gradients of more than these would not fit beside a training step


def noise_flags(look: Look, flows: Sequence[LayerFlow]) -> dict[str, bool] | str:
    """By layer: whether its gradient on this batch looks like noise; or why that cannot be said.

    ``flows``: what the walk measured. Where one power of two keeps all their gradients inside the range of their type,
    torch's own backward gives those of the chunks as well.
    """
    if sum(p.numel() for p in look.model.parameters()) > MOST_PARAMETERS:
        return f"the model has more than {MOST_PARAMETERS:,} parameters, and eight of its gradients are needed"
    chunks = chunks_of(look.problem)
    if chunks is None:
        return f"the batch cannot be cut into {CHUNKS} chunks of samples"
    grams = _plainly(look, flows, chunks)
    grams = _walked(look, chunks) if grams is None else grams
    if isinstance(grams, str):
        return grams
    found = chances(torch.stack(list(grams.values()))) if grams else []
    return {name: chance > LEVEL for name, chance in zip(grams, found, strict=True) if chance is not None}


def _plainly(look: Look, flows: Sequence[LayerFlow], chunks: Sequence[Problem]) -> dict[str, Tensor] | None:
    """The layers' Gram matrices by torch's own backward; None where it may leave its type's range, or is hooked."""
    whole = one_power([a for a in flows if a.log10_grad_norm is not None])
    live = [p for layer in look.layers for p in layer.live]
    if whole is None or not live or look.capture.hooked or any(p._backward_hooks for p in live):
        return None
    rows = chunk_gradients(look, chunks, 2.0**whole.power)
    if rows is None:
        return None
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


def grams_of(several: Sequence[Rows]) -> list[Tensor]:
    """The inner products of each of these lists of tensors, in float64.

    Of float32 tensors whose norms are far from the ends of that type by blocks of BLOCK entries, the sums of the blocks
    in float64: each product is right to BLOCK · 2^-24 of that of the two norms, whatever the order of the sum in a
    block (Higham 2002, Accuracy and stability of numerical algorithms, section 3.1). What underflows adds less.
    """
    found: dict[int, Tensor] = {}
    if torch.get_float32_matmul_precision() == "highest":
        alike: dict[tuple[int, int], list[int]] = {}
        for index, rows in enumerate(several):
            if all(t.dtype is torch.float32 and t.device.type == "cpu" for t in rows):
                alike.setdefault((len(rows), rows[0].numel()), []).append(index)
        for (_, width), indices in alike.items():
            count = max(1, AT_ONCE // max(1, width))  # of small ones: the calls take longer than the products
            for start in range(0, len(indices), count):
                part = indices[start : start + count]
                found.update(zip(part, _in_blocks([_flat(several[k]) for k in part]), strict=True))
        sizes = {index: products.diagonal() for index, products in found.items()}
        found = {k: found[k] for k, d in sizes.items() if bool(((d > LOW) & (d < 1.0 / LOW)).all())}
    return [found[k] if k in found else _inner(_flat(rows)) for k, rows in enumerate(several)]


def _flat(rows: Rows) -> Rows:
    return rows.flatten(1) if isinstance(rows, Tensor) else [t.reshape(-1) for t in rows]


def _in_blocks(several: Sequence[Rows]) -> Tensor:
    """The inner products of each of these lists of float32 vectors, all of one length."""
    count, width = len(several[0]), several[0][0].numel()
    products = torch.zeros(len(several), count, count, dtype=torch.float64, device="cpu")
    for start in range(0, width, AT_ONCE):
        piece = torch.stack([torch.stack([t[start : start + AT_ONCE] for t in rows]) for rows in several])
        whole = piece.shape[2] // BLOCK * BLOCK
        for part, size in ((piece[:, :, :whole], BLOCK), (piece[:, :, whole:], piece.shape[2] - whole)):
            if part.numel():
                blocks = part.unflatten(2, (-1, size)).transpose(1, 2)
                products += (blocks @ blocks.mT).sum(1, dtype=torch.float64)
    return products


def _inner(rows: Rows) -> Tensor:
    """Inner products of vectors in float64, AT_ONCE columns at a time: they stay in the cache."""
    width = rows[0].numel()
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
    room = torch.empty(len(rows), min(width, AT_ONCE), dtype=torch.float64, device="cpu")
    for start in range(0, width, AT_ONCE):
        part = room[:, : min(AT_ONCE, width - start)]
        for row, values in zip(part, rows, strict=True):
            row.copy_(values[start : start + AT_ONCE])
        products += part @ part.T
    return products


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
