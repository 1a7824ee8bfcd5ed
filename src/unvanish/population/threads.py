"""How many threads an experiment's networks are worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work with one thread, inside ``with one_thread():`` or in a function decorated with ``@one_thread()``.

    The layers are so small that threads wait for each other longer than they work: on a busy machine two took ten
    times the processor time of one. One also gives the same sums, to the last bit, on every machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
