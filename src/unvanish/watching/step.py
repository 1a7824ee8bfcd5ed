"""What is known of the optimizer step that is coming, while it is being watched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unvanish.watching.gradients import Moves, Seen, total
from unvanish.watching.sample import FIELDS, Sample

SIGNAL, GRADIENT, WEIGHT, RATIO, SATURATED, DEAD, LOST = range(len(FIELDS))
"""The places of the numbers of a layer, in the order of ``sample.FIELDS``."""


@dataclass
class Step:
    """What is known of the coming optimizer step; norms are of this process until ``Processes`` adds them up."""

    losses: list[float | Tensor] = field(default_factory=list)
    loss: float | Tensor = math.nan  # the one whose gradient the last optimizer saw
    rows: dict[int, list[float]] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)  # of each row, how many its signal is of
    groups: list[tuple[int, ...]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    unclipped: float = math.nan  # log10 of the norm of all gradients that an optimizer saw, as a backward left them
    unclipped_parts: float = math.nan  # the same of the gradients that are spread over several processes
    noise: float = math.nan
    moves: dict[int, Moves] = field(default_factory=dict)
    moved: dict[int, tuple[float, float]] = field(default_factory=dict)
    stepped: set[int] = field(default_factory=set)
    rate: float = math.nan
    scaler: Any = None
    plain: Tensor | None = None  # the loss that was scaled
    scale: float = 1.0  # by which what is read in this step is multiplied
    fresh: bool = False  # a backward has run since the last optimizer read its gradients
    suspicious: bool = False

    def sample(self, step: int) -> Sample:
        """The numbers of this step, once the weights have moved."""
        for at, (update, weight) in self.moved.items():
            if at in self.rows:
                self.rows[at][RATIO] = math.sqrt(update / weight) if weight else math.nan
        found = Sample(step, {at: tuple(row) for at, row in self.rows.items()})
        found.groups, found.order, found.series = self.groups, self.order, self._series()
        return found

    def following(self) -> Step:
        """The next step, whose passes have been already."""
        return Step(
            losses=self.losses[-1:], seen=self.seen, fresh=self.fresh, scaler=self.scaler, suspicious=self.suspicious,
        )  # fmt: skip

    def _series(self) -> dict[str, float]:
        return {
            "loss": float(self.loss),
            "learning_rate": self.rate,
            "log10_grad_norm": self.unclipped - math.log10(self.scale),
            "log10_grad_norm_clipped": total(row[GRADIENT] for row in self.rows.values()),
            "loss_scale": self.scale if self.scale != 1.0 else math.nan,
            "gradient_noise_scale": self.noise,
        }
