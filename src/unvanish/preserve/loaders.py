"""The random numbers that a loader of batches keeps for itself, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def own_generators(source: Any, seed: int) -> Iterator[None]:
    """A DataLoader may shuffle with a generator of its own: inside it follows from ``seed``, afterwards it is back."""
    places = (
        source,
        getattr(source, "sampler", None),
        getattr(getattr(source, "batch_sampler", None), "sampler", None),
    )
    generators = {id(g): g for g in (getattr(p, "generator", None) for p in places) if isinstance(g, torch.Generator)}
    with ExitStack() as after:
        for generator in generators.values():
            after.callback(generator.set_state, generator.get_state())
            generator.manual_seed(seed)
        yield
