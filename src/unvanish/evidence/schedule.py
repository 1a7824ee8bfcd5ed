"""What an optimizer tells of the steps behind it and of the schedule it is under."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from unvanish.problem import Optimizers, parts_of


def taken_by(optimizer: Optimizers) -> int | None:
    """The steps the optimizer has made, by its own count; None where it keeps none (plain SGD) or has not begun."""
    counts = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
    return max(counts, default=None)


def scheduled(optimizer: Optimizers, planned: int | None) -> float:
    """The rate a schedule began from, or leads up to, over the present one; 1 without a schedule or above that rate.

    It is 1, too, where the rate has been left behind: a warm-up in proportion to the steps that has come this far in
    those taken would need ten times all that are planned, half of which are still to come.
    """
    pairs = [(float(g["initial_lr"]), float(g["lr"])) for g in optimizer.param_groups if "initial_lr" in g]
    whole = max((whole / lr if lr > 0.0 else math.inf for whole, lr in pairs if whole > lr), default=1.0)
    taken = taken_by(optimizer) or 0
    early = planned is not None and 0 < taken <= 0.5 * planned
    return 1.0 if planned is not None and early and taken * whole > 10.0 * planned else whole


def forgetting(optimizer: Optimizers, gradients: Mapping[int, Tensor], planned: int) -> float:
    """By what factor Adam's steps lengthen by themselves as its second moment forgets larger gradients; 1 at least.

    Halfway through the steps that are left, if the gradients (by id of a parameter) stay as they are. A start far off
    leaves a moment of thousands of times their square, and of 1/(1 - β) steps that it remembers few may have passed.
    """
    now, then = 0.0, 0.0
    for group in (group for part in parts_of(optimizer) for group in part.param_groups):
        for parameter in group["params"]:
            state, gradient = optimizer.state.get(parameter, {}), gradients.get(id(parameter))
            if gradient is None or "exp_avg_sq" not in state or "step" not in state or group.get("amsgrad"):
                continue
            taken, beta = float(state["step"]), float(group["betas"][1])
            ahead = max(0.0, 0.5 * (planned - taken))
            if not taken > 0.0:
                continue
            square, whole = float(state["exp_avg_sq"].double().sum()), 1.0 - beta**taken
            mine = float(gradient.double().square().sum())
            later = beta**ahead * square + (1.0 - beta**ahead) * mine
            now += square / whole
            then += later / (1.0 - beta ** (taken + ahead))
    return math.sqrt(now / then) if math.isfinite(now) and now > then > 0.0 else 1.0


def faded(optimizer: Optimizers) -> float | None:
    """The rate that a schedule began from over the present one, where steps were taken since; None where none were.

    A schedule marks the optimizer it has been put on once that takes a step.
    """
    parts = [part for part in parts_of(optimizer) if getattr(part, "_opt_called", False)]
    groups = [group for part in parts for group in part.param_groups if group.get("initial_lr", 0.0) > 0.0]
    pairs = [(float(group["initial_lr"]), float(group["lr"])) for group in groups]
    return min((whole / lr if lr > 0.0 else math.inf for whole, lr in pairs), default=None)
