"""The next update of the user's own optimizer, one parameter at a time, without touching parameter or optimizer."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.problem import Optimizer
from unvanish.scaled import norm_of


class Updates:
    """For each parameter of the optimizer: norms of its next update and of its weights."""

    def __init__(self, optimizer: Optimizer, keep: bool) -> None:
        self.optimizer = optimizer
        self.keep = keep  # the updates themselves too, for trying them
        self.changes: dict[int, Tensor] = {}
        self.groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self.found: dict[int, tuple[float, float]] = {}
        self.refused = ""

    def read(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """``gradient``: as the user's backward would leave it in ``parameter.grad`` (same shape and dtype)."""
        weights = norm_of(parameter.detach())
        if id(parameter) not in self.groups:
            self.found[id(parameter)] = (0.0, weights)
            return
        if self.refused:
            return
        try:
            change = self._step(parameter, gradient)
        except Exception as error:  # optimizers that need a closure or the whole set of parameters
            self.refused = f"{type(self.optimizer).__name__}: {type(error).__name__}: {error}"
            return
        if self.keep:
            self.changes[id(parameter)] = change.to(parameter.dtype)
        self.found[id(parameter)] = (norm_of(change), weights)

    def _step(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        group = {**self.groups[id(parameter)]}
        # Without decay an update does not depend on the weights: from zero, nothing of it is lost to rounding.
        decays = bool(group.get("weight_decay"))
        plain = parameter.detach().as_subclass(Tensor)
        start = plain.double() if decays else torch.zeros_like(plain)
        stand_in = nn.Parameter(start.clone() if decays else start)
        stand_in.grad = gradient.to(start.dtype)
        group["params"] = [stand_in]
        alone = object.__new__(type(self.optimizer))  # not copy.copy: its __setstate__ walks over every parameter
        alone.__dict__.update(self.optimizer.__dict__)
        alone.param_groups = [group]
        alone.state = type(self.optimizer.state)(self.optimizer.state.default_factory)  # type: ignore[attr-defined]
        if parameter in self.optimizer.state:
            alone.state[stand_in] = {k: _copied(v, start.dtype) for k, v in self.optimizer.state[parameter].items()}
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            setattr(alone, name, OrderedDict())
        with torch.no_grad():
            undecorated_step(alone)()
        return stand_in.detach() - start if decays else stand_in.detach()


def undecorated_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The optimizer's step without a scheduler's counter and everybody's step hooks: those belong to real steps."""
    step = type(optimizer).step
    return partial(getattr(step, "__wrapped__", step), optimizer)


def _copied(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().clone()
        return value.to(dtype) if value.is_floating_point() and value.ndim else value
    return copy.deepcopy(value)
