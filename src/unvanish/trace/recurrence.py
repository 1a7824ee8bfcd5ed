"""What a recurrence makes of each step of its inputs by itself: what more its results have, its state has grown to."""

from __future__ import annotations

import math
from typing import Any

import torch

from unvanish.trace.scaled import norm_of

UNBOUNDED = "rnn_relu"
"""The only recurrence of torch's that goes through all steps in one call and whose state has no bound; those of LSTM,
GRU and tanh stay below 1, or below what a projection makes of that."""


def size_apart(func: Any, args: Any) -> float | None:
    """The rms of the results where every step is a sequence of its own, which begins with a state of zero.

    ``args``: those of torch.rnn_relu, for a batch or a packed sequence. None where it is called in another way.
    """
    try:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            packed = isinstance(args[3], (list, tuple))
            if packed:  # (steps of all samples, how many samples each step has, state, weights, …)
                rows, state, rest = args[0], args[2], list(args[3:8])
            else:
                rows, state, rest = args[0].reshape(-1, args[0].shape[-1]), args[1], list(args[2:7])
            rest[3] = 0.0  # no dropout: nothing is drawn
            zeros = state.new_zeros(state.shape[0], len(rows), state.shape[-1])
            both = bool(args[8] if packed else args[7])
            if packed:
                made = func(rows, torch.tensor([len(rows)], device="cpu"), zeros, *rest, both)
            else:
                made = func(rows.unsqueeze(0), zeros, *rest, both, False)
            return norm_of(made[0]) / math.sqrt(max(1, made[0].numel()))
    except Exception:  # other arguments than torch's own module gives
        return None
