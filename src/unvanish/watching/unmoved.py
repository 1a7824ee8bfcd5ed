"""A training whose steps move nothing from its first step on, because its loss is far too small. Needs no torch.

Whether steps are too short is a matter of the weights, and not of the size of a loss: a loss may be measured in any
unit, if only the steps are of a size with the weights. Adam and its like divide the unit out, until the gradients come
below their eps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from unvanish.decide.limits import CONVERGED, HORIZON
from unvanish.records import Evidence, Finding, Setting
from unvanish.rules.events import EVENTS
from unvanish.rules.wording import factor
from unvanish.watching.history import HELD
from unvanish.watching.sample import GRADIENT, MOVE, WEIGHT, Column, Sample, total, whole_move
from unvanish.words.numbers import number

UNMOVED = "UV813"

STILL = math.log10(1e-3 / HORIZON)
"""log10 of a step over the norm of the weights, below which as many steps as a long training has move them by less than
a thousandth. It is about half the spacing of float32, too, so that most of such a step is rounded away."""

SLOPE = math.log10(10.0 * CONVERGED)
"""log10 of the gradient's norm times that of the weights over the loss, from which on the weights matter to the loss:
moved by a tenth of their norm along it they change it by a thousandth. At a minimum there is no such slope."""

FEW = math.log10(0.1)
"""log10 of the share of the loss that as many steps win at this pace; with more, they are not for nothing."""

BELOW = math.log10(1e-2)
"""log10 of the rms of a gradient over eps from which on an optimizer takes less than a hundredth of its steps."""

RATE = 1e-6
"""Learning rate below which it may be the rate as well: nobody begins with less, and a schedule that has ended, in a
training that goes on from a checkpoint, looks the same."""

SMALL = 1e-3
"""Loss from which on it is not the loss that is too small: with few exceptions a training begins above it. Rate and
loss come into a step as a product; which of the two is at fault only their usual sizes tell."""


@dataclass
class Unmoved:
    """What the samples since the first have in common, until one of them moves something."""

    over: bool = False
    rates: list[float] = field(default_factory=list)
    gap: float = math.nan  # the largest share of what there is to learn that was left, where the loss is known

    def judged(self, sample: Sample, columns: Sequence[Column], setting: Setting) -> Finding | None:
        """An error where the loss is known to have something left to learn, else a note; None where steps move."""
        if self.over:
            return None
        rate, loss = (sample.series.get(name, math.nan) for name in ("learning_rate", "loss"))
        known = {at: row for at, row in sample.rows.items() if not math.isnan(row[MOVE])}
        clipped = _clipped(sample)
        slope = _slope(sample, loss) + clipped
        if not known or not rate > 0.0 or math.isnan(slope):
            return None
        move, below = _move(sample), _below_eps(sample, columns)
        still = move < STILL and math.log10(HORIZON) + slope + move < FEW
        if not (still or below < BELOW):
            self.over = True
            return None
        self.rates = [*self.rates, rate][-HELD:]
        self._learns(sample)
        # a rate on its way up is a warm-up, and one far below that of its schedule is that schedule's own doing
        level = len(self.rates) == HELD and self.rates[-1] <= self.rates[0]
        full = not rate < 0.5 * sample.full_rate
        if not (level and full and slope > SLOPE) or self.gap <= CONVERGED:
            return None
        return self._said(sample, setting, move, slope, below, clipped)

    def _learns(self, sample: Sample) -> None:
        stake = sample.stake
        if stake is not None and stake.constant > stake.free:
            share = (stake.value - stake.free) / (stake.constant - stake.free)
            self.gap = share if math.isnan(self.gap) else max(self.gap, share)

    def _said(
        self, sample: Sample, setting: Setting, move: float, slope: float, below: float, clipped: float
    ) -> Finding:
        event, rate = EVENTS[UNMOVED], sample.series["learning_rate"]
        whole = below + clipped >= BELOW if below < BELOW else move + clipped >= STILL
        by_clip = clipped > 0.0 and whole  # without it the steps would be long enough
        by_rate = not by_clip and not below < BELOW and (rate < RATE or abs(sample.series["loss"]) >= SMALL)
        sure = not math.isnan(self.gap) and not by_rate
        size = "not at all" if move == -math.inf else f"by {factor(move)} of their norm"
        loss, optimizer = number(sample.series["loss"]), setting.optimizer
        text = f"the steps of {optimizer} (learning rate {number(rate)}) move the weights {size}"
        if by_clip:
            norm = sample.series["log10_grad_norm"]
            text += (
                f", and {HORIZON:,} of them win nothing: before each step clipping takes the gradient from a norm of"
                f" {factor(norm)} to {factor(norm - clipped)}. Clip at a larger norm"
            )
        elif below < BELOW:
            text += (
                f": the loss is {loss}, and the gradient of every layer so far below eps ({number(sample.eps)}) that"
                f" {optimizer} takes less than {factor(below)} of a step. Multiply the loss, or make eps smaller"
            )
        elif by_rate:
            text += f", and {HORIZON:,} of them win nothing: with such a rate it stands still"
        else:
            text += (
                f", and {HORIZON:,} of them win nothing: the loss is {loss}, and its gradient as small beside the"
                " weights, so that most of such a step is rounded away. Multiply the loss (is it divided twice, or by"
                " a number that is too large?), or use a larger rate"
            )
        if sure and by_clip:
            text += ". The gradient is not vanished."
        elif sure:
            text += ". The gradient is not vanished: for the size of the loss it is of an ordinary size."
        elif by_rate:
            text += (
                ". Of a schedule that has ended before this run that is as it should be; else the rate is too small."
            )
        else:
            text += ". Whether the loss is too small, or nothing is left to learn, is not known of a loss of one's own."
        evidence = [
            Evidence(name="log10 of the step over the norm of the weights", value=move),
            Evidence(name="log10 of gradient times weights over the loss", value=slope, relation=">", threshold=SLOPE),
        ]
        if move < STILL:
            evidence[0] = evidence[0].replace(relation="<", threshold=STILL)
        if below < BELOW:
            name = "log10 of the rms of the largest gradient over eps"
            evidence.append(Evidence(name=name, value=below, relation="<", threshold=BELOW))
        if by_clip:
            evidence.append(Evidence(name="log10 of what clipping divides the gradient by", value=clipped))
        return Finding(
            code=UNMOVED, verdict=event.verdict, level="error" if sure else "note",
            cause="clipping" if by_clip else "learning rate" if by_rate else "size of the loss",
            message=text, evidence=tuple(evidence),
        )  # fmt: skip


def _move(sample: Sample) -> float:
    """log10 of the whole step over the norm of all weights."""
    found = whole_move(sample.rows)
    return -math.inf if math.isnan(found) else found


def _clipped(sample: Sample) -> float:
    """log10 of what clipping divides the gradient by; 0 where it does not."""
    before, after = (sample.series.get(name, math.nan) for name in ("log10_grad_norm", "log10_grad_norm_clipped"))
    return max(before - after, 0.0) if math.isfinite(before) and math.isfinite(after) else 0.0


def _slope(sample: Sample, loss: float) -> float:
    """log10 of ‖g‖ ‖w‖ / |L|, which is the same in every unit of the loss; NaN where it is not known."""
    if not 0.0 < abs(loss) < math.inf:
        return math.nan
    gradient, weight = (total(row[which] for row in sample.rows.values()) for which in (GRADIENT, WEIGHT))
    whole = gradient + weight
    return whole - math.log10(abs(loss)) if math.isfinite(whole) else math.nan


def _below_eps(sample: Sample, columns: Sequence[Column]) -> float:
    """log10 of the rms of the largest gradient of a layer over eps; NaN without one."""
    if not sample.eps > 0.0:
        return math.nan
    sizes = [
        row[GRADIENT] - 0.5 * math.log10(columns[at].parameters)
        for at, row in sample.rows.items()
        if columns[at].parameters and not math.isnan(row[GRADIENT])
    ]
    return max(sizes, default=math.nan) - math.log10(sample.eps)
