"""What is known of the optimizer step that is coming, while it is being watched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, optim

from unvanish.flow.adam import decays_apart
from unvanish.problem import rate_of
from unvanish.watching.between import Kept
from unvanish.watching.gradients import Moves, Seen
from unvanish.watching.sample import FIELDS, NOTHING, Sample, Stake, less, together, total
from unvanish.watching.table import Place

SIGNAL, GRADIENT, WEIGHT, RATIO, SATURATED, DEAD, LOST = range(len(FIELDS))
"""The places of the numbers of a layer, in the order of ``sample.FIELDS``."""


GOLDEN = (5**0.5 - 1) / 2
"""Its multiples are spread evenly over the parts of a step's turn, whatever the length of a cycle."""


def is_sampled(step: int, every: int, apart: bool) -> bool:
    """Whether this is one of the sampled steps, of which each ``every`` steps in a row have one.

    ``apart``: several optimizers make steps of their own, such as five of a critic and one of a generator. An even
    stride can then meet always the same of them, so the places change.
    """
    turn, place = divmod(step, every)
    return place == (int(every * (turn * GOLDEN % 1.0)) if apart else 0)


@dataclass
class Step:
    """What is known of the coming optimizer step; norms are of this process until ``Processes`` adds them up."""

    losses: list[float | Tensor] = field(default_factory=list)
    loss: float | Tensor = math.nan  # the sum of those whose gradients the last optimizer saw
    stakes: list[Stake | None] = field(default_factory=list)  # of each of these losses, where that is asked
    outputs: dict[int, float] = field(default_factory=dict)  # of each layer the size of its output, too
    one_unit: dict[int, int] = field(default_factory=dict)  # of layers all of whose units are one, how many these are
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
    read: set[int] = field(default_factory=set)  # the optimizers whose gradients were read
    inner: int = 0  # backward passes inside of the optimizer that is calling its closure
    again: dict[int, float] = field(default_factory=dict)  # of each optimizer, what its layers share
    kept: Kept = field(default_factory=Kept)
    shares: dict[int, tuple[float, float]] = field(default_factory=dict)  # saturated and dead, of all that was read
    rate: float = math.nan
    full_rate: float = math.nan  # that schedules began from, or lead up to
    eps: float = math.nan
    decay: float = math.nan
    scaler: Any = None
    plain: Tensor | None = None  # the loss that was scaled
    scale: float = 1.0  # by which what is read in this step is multiplied
    fresh: bool = False  # a backward has run since the last optimizer read its gradients
    suspicious: bool = False
    taken: tuple[dict[int, float], dict[int, tuple[float, float]], int] | None = None  # of the last backward

    def lowers(self, loss: float | Tensor, stake: Stake | None, inside: bool) -> None:
        """A backward starts at a loss; ``inside``: of an optimizer that is calling its closure."""
        if not self.fresh and not inside:
            self.forget_losses()  # those of another optimizer
        if not inside or not self.inner:
            self.losses.append(loss)
            self.stakes.append(stake)

    def goes_by(self, optimizer: Any) -> None:
        """An optimizer makes a step: of its groups the largest rate and eps count, and the least decay that is one."""
        plain = type(optimizer) is optim.SGD
        for group in optimizer.param_groups:
            rate = rate_of(group)
            self.rate = _larger(self.rate, rate)
            if plain or decays_apart(optimizer, group):  # else it is the gradient that the decay is a part of
                kept = _number(group.get("momentum")) if plain else 0.0  # of each step, in all that come after it
                share = rate * _number(group.get("weight_decay")) / max(1.0 - kept, 1e-3)
                self.decay = share if share > 0.0 and not self.decay <= share else self.decay
            self.full_rate = _larger(self.full_rate, _number(group.get("initial_lr")))
            self.eps = _larger(self.eps, _number(group.get("eps")))

    def divide(self, scale: float) -> None:
        """The losses and signals of this step are ``scale`` times too large."""
        self.scale, self.losses = scale, [each / scale for each in self.losses]
        self.stakes = [each and each.times(1.0 / scale) for each in self.stakes]

    def forget_losses(self) -> None:
        self.losses.clear()
        self.stakes.clear()

    def enter(
        self,
        sizes: Mapping[int, tuple[float, float, float | None]],
        signals: Mapping[int, float],
        shares: Mapping[int, tuple[float, float]],
        samples: int,
        places: Iterable[Place],
    ) -> None:
        """What was read of the layers of one optimizer; ``sizes``: gradient, weight and share lost, of each of them."""
        scale = math.log10(self.scale)
        for at, (size, weight, lost) in sizes.items():
            row = self.rows.setdefault(at, list(NOTHING))
            row[SIGNAL] = signals[at] - scale if at in signals else math.nan
            row[GRADIENT], row[WEIGHT] = size, weight
            row[SATURATED], row[DEAD] = shares.get(at, (math.nan, math.nan))
            row[LOST] = math.nan if lost is None else lost
            self.samples[at] = samples
        mine = tuple(sizes)
        if self.fresh or not self.groups:
            self.groups.append(mine)
        else:
            self.groups[-1] = (*self.groups[-1], *(at for at in mine if at not in self.groups[-1]))
        self.fresh = False
        # as they ran: signals come in from the last to the first; those without one, by their place
        ran = [*list(signals)[::-1], *(place.at for place in places if place.at not in signals)]
        self.order += [at for at in ran if at not in self.order]

    def sample(self, step: int, before: Mapping[int, int], renewed: Set[int] = frozenset()) -> Sample:
        """The numbers of this step, once the weights have moved; ``before``: of a layer the one that feeds it.

        ``renewed``: the layers that were replaced by others since the last sample.
        """
        for at, (update, weight) in self.moved.items():
            if at in self.rows:
                self.rows[at][RATIO] = math.sqrt(update / weight) if weight else math.nan
        found = Sample(step, {at: tuple(row) for at, row in self.rows.items()})
        found.groups, found.order, found.series = self.groups, self.order, self._series()
        found.before, found.renewed = dict(before), renewed
        found.added_up = self.kept.of(self.stepped)
        found.stake, found.outputs = together(self.stakes), self.outputs
        found.full_rate, found.eps, found.decay = self.full_rate, self.eps, self.decay
        return found

    def over(self) -> Step:
        """The next step: this one again where nothing was read in it."""
        if self.read or self.rows or self.moves or self.moved or self.seen.known or self.kept.left:
            return Step()
        if self.scaler is not None or self.scale != 1.0:
            return Step()
        self.forget_losses()
        self.stepped.clear()
        self.fresh = self.suspicious = False
        return self

    def following(self) -> Step:
        """The next step, whose passes have been already."""
        return Step(
            losses=list(self.losses), stakes=list(self.stakes), seen=self.seen, kept=self.kept, fresh=self.fresh,
            scaler=self.scaler, suspicious=self.suspicious,
        )  # fmt: skip

    def _series(self) -> dict[str, float]:
        return {
            "loss": float(self.loss),
            "learning_rate": self.rate,
            "log10_grad_norm": math.nan if self.seen.unknown else self.unclipped - math.log10(self.scale),
            "log10_grad_norm_clipped": less(
                total(row[GRADIENT] for row in self.rows.values()), total(self.again.values())
            ),
            "loss_scale": self.scale if self.scale != 1.0 else math.nan,
            "gradient_noise_scale": self.noise,
        }


def _larger(one: float, other: float) -> float:
    return other if math.isnan(one) or other > one else one


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
