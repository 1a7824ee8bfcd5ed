"""What a watch is given, made plain: models, optimizers, the file of the run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unvanish.records import UnvanishError
from unvanish.watching.table import Table

INTERRUPTED = "interrupted"
"""Why a run ended that Ctrl-C ended."""


def models_of(model: Any) -> dict[str, nn.Module]:
    """One module, a sequence or a mapping of them, by name; UnvanishError for anything else."""
    if isinstance(model, nn.Module):
        models: dict[Any, Any] = {"": model}
    elif isinstance(model, Mapping):
        models = dict(model)
    elif isinstance(model, (list, tuple)):
        models = {str(at): each for at, each in enumerate(model)}
    else:
        raise UnvanishError(f"watch(model) takes a module, a sequence or a mapping of them, not {type(model).__name__}")
    for each in models.values():
        if not isinstance(each, nn.Module):
            raise UnvanishError(f"watch(model) holds a {type(each).__name__}, which is no nn.Module")
    if not models:
        raise UnvanishError("watch(model) holds no model")
    return {str(name): each for name, each in models.items()}


def fitting(model: Any, optimizer: Any, every: Any, from_step: Any) -> tuple[dict[str, nn.Module], list[Any]]:
    """The models and the optimizers of a watch; UnvanishError where these or the numbers do not fit together."""
    models, optimizers = models_of(model), optimizers_of(optimizer)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UnvanishError(f"watch(every={every!r}) is the number of steps from one sample to the next, 1 or more")
    known = {id(p) for each in models.values() for p in each.parameters()}
    for each in optimizers:
        if known.isdisjoint(id(p) for group in each.param_groups for p in group["params"]):
            raise UnvanishError(
                f"the optimizer ({type(each).__name__}) holds none of the parameters of the watched model; pass the"
                " model it was built from"
            )
    if from_step is not None and (isinstance(from_step, bool) or not isinstance(from_step, int) or from_step < 1):
        raise UnvanishError(f"watch(from_step={from_step!r}) is the number of steps already made, 1 or more")
    return models, optimizers


def names_of(models: Mapping[str, nn.Module]) -> list[str]:
    """The names that the layers of these models get in a run."""
    table = Table()
    for name, model in models.items():
        table.add(name, unwrapped(model))
    return [place.name for place in table]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and DistributedDataParallel, which runs without the other processes."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def ended_by(error: BaseException) -> str:
    """Why a run ended, for its file."""
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"[:500]


def rank() -> int:
    """Which of several processes this is; 0 where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0") or 0)


def optimizers_of(optimizer: Any) -> list[Any]:
    """The torch optimizers, also inside what wraps them; UnvanishError where there is none."""
    several = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    found: list[Any] = []
    for each in several:
        while (inner := getattr(each, "optimizer", None)) is not None:  # accelerate's is an Optimizer without its hooks
            each = inner
        if not isinstance(each, torch.optim.Optimizer):
            raise UnvanishError(
                f"watch(optimizer) takes a torch Optimizer or a sequence of them, not {type(each).__name__}"
            )
        found.append(each)
    if not found:
        raise UnvanishError("watch(optimizer) holds no optimizer")
    return found


def run_path(to: str | Path) -> Path:
    """The file of a new run: ``to`` itself where it names one, else a name of its own in that folder."""
    path = Path(to)
    if path.suffix and not path.is_dir() and not str(to).endswith(("/", os.sep)):
        return path
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for more in range(1_000):
        found = path / f"{stamp}{f'-{more}' if more else ''}.unvanish"
        if not found.exists():
            return found
    raise UnvanishError(f"cannot find a free name for a run in {str(path)!r}")
