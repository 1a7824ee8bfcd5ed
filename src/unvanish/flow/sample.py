"""Some entries of a large tensor, drawn at random, for numbers of which a share of the entries tells enough."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 64  # neighbouring entries: taken together they cost one read
LEAST = 512  # blocks: the root of a mean square over their entries is right to 1% where these are alike
SHARE = 16  # of the entries of a larger tensor one in so many: of a table with few rows in use, enough are met


@dataclass(frozen=True)
class Sample:
    """``blocks`` of neighbouring entries, the same of every tensor with so many entries; some may be drawn twice."""

    entries: int
    blocks: int = LEAST

    @classmethod
    def of(cls, entries: int) -> Sample:
        """A share of the entries, for norms."""
        return cls(entries, max(LEAST, entries // (BLOCK * SHARE)))

    def taken_from(self, tensor: Tensor) -> Tensor:
        """The entries, as a vector on the tensor's device."""
        if tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous():
            places = _turned(self.entries, self.blocks, tensor.shape[1]).to(tensor.device)
            return tensor.t().view(-1).index_select(0, places)  # as the gradient of a weight comes: a copy costs more
        rows = self.entries // BLOCK
        chosen = _drawn(rows, self.blocks).to(tensor.device)
        return tensor.reshape(-1)[: rows * BLOCK].view(rows, BLOCK).index_select(0, chosen).view(-1)


@lru_cache(maxsize=32)
def _drawn(rows: int, count: int) -> Tensor:
    """So many of ``rows`` blocks, by a generator of our own. To be read only."""
    with torch.inference_mode(False):
        return torch.randint(rows, (count,), generator=torch.Generator().manual_seed(rows), device="cpu")


@lru_cache(maxsize=32)
def _turned(entries: int, count: int, columns: int) -> Tensor:
    """Where the entries of these blocks lie in a matrix of so many columns that is kept column by column."""
    with torch.inference_mode(False):
        blocks = _drawn(entries // BLOCK, count).unsqueeze(1) * BLOCK
        places = (blocks + torch.arange(BLOCK, device="cpu")).view(-1)
        return places % columns * (entries // columns) + places // columns
