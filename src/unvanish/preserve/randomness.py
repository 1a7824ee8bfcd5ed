"""The random numbers of torch (on every device), numpy and Python: started from a seed, and put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def reseed(seed: int) -> None:
    """Let random numbers of torch (on every device), numpy and Python follow from ``seed`` from here on."""
    numpy: Any = sys.modules.get("numpy")
    # A CUDA that nobody has started keeps no state yet, and torch.manual_seed would leave it a seed to start from.
    (torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed)(seed)
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed % 2**32)


def random_states() -> Callable[[], None]:
    """What puts the random numbers of torch (on every device), numpy and Python back to where they are now."""
    numpy: Any = sys.modules.get("numpy")
    cpu, python = torch.get_rng_state(), random.getstate()
    of_numpy = numpy.random.get_state() if numpy else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def put_back() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if of_numpy is not None:
            numpy.random.set_state(of_numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return put_back


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, random numbers of torch, numpy and Python follow from ``seed``; afterwards each goes on as before."""
    put_back = random_states()
    try:
        reseed(seed)
        yield
    finally:
        put_back()
