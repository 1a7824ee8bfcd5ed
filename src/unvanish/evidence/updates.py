"""The next update of the user's own optimizer, a few parameters at a time, without touching them or the optimizer."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.problem import Optimizer
from unvanish.scaled import norm_of

TOGETHER = 2**18  # entries that are stepped at once: small tensors share the cost of a step, large ones wait for none


class Updates:
    """For each parameter: the norm of its next update, 0 where the optimizer does not hold it."""

    def __init__(self, optimizer: Optimizer, keep: bool) -> None:
        self.optimizer = optimizer
        self.keep = keep  # the updates themselves too, for trying them
        self.changes: dict[int, Tensor] = {}
        self.groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self.found: dict[int, float] = {}
        self.refused = ""
        self.waiting: list[tuple[nn.Parameter, Tensor]] = []
        self.entries = 0

    def read(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """``gradient``: as the user's backward would leave it in ``parameter.grad`` (same shape and dtype)."""
        if id(parameter) not in self.groups:
            self.found[id(parameter)] = 0.0
        elif not self.refused:
            self.waiting.append((parameter, gradient))
            self.entries += parameter.numel()
            if self.entries >= TOGETHER:
                self.flush()

    def flush(self) -> None:
        """Step the parameters that wait; afterwards everything read so far is in ``found``."""
        waiting, self.waiting, self.entries = self.waiting, [], 0
        if not waiting or self.refused:
            return
        try:
            changes = self._step(waiting)
        except Exception as error:  # optimizers that need a closure or the whole set of parameters
            self.refused = f"{type(self.optimizer).__name__}: {type(error).__name__}: {error}"
            return
        for (parameter, _), change in zip(waiting, changes, strict=True):
            if self.keep:
                self.changes[id(parameter)] = change.to(parameter.dtype)
            self.found[id(parameter)] = norm_of(change)

    def _step(self, waiting: Sequence[tuple[nn.Parameter, Tensor]]) -> list[Tensor]:
        alone = object.__new__(type(self.optimizer))  # not copy.copy: its __setstate__ walks over every parameter
        alone.__dict__.update(self.optimizer.__dict__)
        groups = {index: {**self.optimizer.param_groups[index]} for index in {self.groups[id(p)] for p, _ in waiting}}
        for group in groups.values():
            group["params"] = []
        alone.param_groups = list(groups.values())
        alone.state = type(self.optimizer.state)(self.optimizer.state.default_factory)  # type: ignore[attr-defined]
        moved: list[tuple[nn.Parameter, Tensor | None]] = []
        for parameter, gradient in waiting:
            group = groups[self.groups[id(parameter)]]
            # Without decay an update does not depend on the weights: from zero, nothing of it is lost to rounding.
            plain = parameter.detach().as_subclass(Tensor)
            start = plain.double() if group.get("weight_decay") else None
            stand_in = nn.Parameter(torch.zeros_like(plain) if start is None else start.clone())
            stand_in.grad = gradient.to(stand_in.dtype)
            group["params"].append(stand_in)
            if parameter in self.optimizer.state:
                state = self.optimizer.state[parameter]
                alone.state[stand_in] = {k: _copied(v, stand_in.dtype) for k, v in state.items()}
            moved.append((stand_in, start))
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            setattr(alone, name, OrderedDict())
        with torch.no_grad():
            undecorated_step(alone)()
        return [s.detach() if start is None else s.detach() - start for s, start in moved]


def undecorated_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The optimizer's step without a scheduler's counter and everybody's step hooks: those belong to real steps."""
    step = type(optimizer).step
    return partial(getattr(step, "__wrapped__", step), optimizer)


def _copied(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().clone()
        return value.to(dtype) if value.is_floating_point() and value.ndim else value
    return copy.deepcopy(value)
