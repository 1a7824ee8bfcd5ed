"""Optimizers in place of the user's own, whose steps may be tried: of the same kind, with groups and a state apart."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from unvanish.problem import Optimizer, Optimizers, Several, parts_of


def same_kind(optimizer: Optimizer, groups: list[dict[str, Any]], state: Any = None) -> Any:
    """One of the same class and settings for these groups of parameters, with this state, else without any.

    Nobody's hooks hear of its steps.
    """
    alone: Any = object.__new__(type(optimizer))  # not copy.copy: its __setstate__ walks over every parameter
    alone.__dict__.update(optimizer.__dict__)
    alone.param_groups = groups
    alone.state = defaultdict(dict) if state is None else state
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(alone, name, OrderedDict())
    return alone


def without_decay(optimizer: Optimizers, *, with_state: bool) -> Optimizers:
    """The same optimizers, of which no group decays; with the state they have, which is shared, or without any."""

    def undecayed(part: Optimizer) -> Optimizer:
        groups = [{**group, "weight_decay": 0.0} if group.get("weight_decay") else group for group in part.param_groups]
        return same_kind(part, groups, part.state if with_state else None)

    parts = tuple(map(undecayed, parts_of(optimizer)))
    return Several(parts) if isinstance(optimizer, Several) else parts[0]


def undecorated_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The optimizer's step without a scheduler's counter and everybody's step hooks: those belong to real steps."""
    step = type(optimizer).step
    return partial(getattr(step, "__wrapped__", step), optimizer)
