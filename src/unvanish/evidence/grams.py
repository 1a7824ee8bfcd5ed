"""Inner products of long vectors, right to a bound that is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unvanish.evidence.chunks import Rows

AT_ONCE = 2**14  # columns of eight gradients in float64: one megabyte
BLOCK = 2**10  # entries whose products are summed in float32
LOW = 1e-24  # of a norm squared: beside it nothing counts of what underflows in float32


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
