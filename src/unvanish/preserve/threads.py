"""Is another thread at work on the model? Seen from what its functions hold, before anything is moved."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

_TORCH = str(Path(torch.__file__).parent)


def at_work_elsewhere(ids: Collection[int]) -> bool:
    """Whether another thread is inside of torch and has one of these objects (modules, parameters) in its hands.

    A thread that waits holds it too, but stands in no function of torch. None that is between two calls is seen.
    """
    running = sys._current_frames()
    running.pop(threading.get_ident(), None)
    for frame in running.values():
        inside = holds = False
        while frame is not None and not (inside and holds):
            inside = inside or frame.f_code.co_filename.startswith(_TORCH)
            holds = holds or any(_holds(value, ids) for value in tuple(frame.f_locals.values()))
            frame = frame.f_back
        if inside and holds:
            return True
    return False


def _holds(value: Any, ids: Collection[int]) -> bool:
    if id(value) in ids:
        return True
    if isinstance(value, Optimizer):
        return any(id(p) in ids for group in value.param_groups for p in group["params"])
    return False
