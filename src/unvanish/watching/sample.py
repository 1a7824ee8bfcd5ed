"""One sampled step as plain numbers, and the flow that the rules of a check read. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, NamedTuple

from unvanish.records import LIVE, Flow, LayerFlow, Setting

FIELDS = (
    "log10_signal", "log10_grad_norm", "log10_weight_norm", "update_to_weight_ratio", "saturated_fraction",
    "dead_fraction", "underflow_fraction",
)  # fmt: skip
"""The numbers of a layer in a sampled step, in the order of the run file; fields of a LayerFlow. NaN: not measured; a
norm of +inf: the gradient holds a number that is not finite."""

SERIES = (
    "loss", "learning_rate", "log10_grad_norm", "log10_grad_norm_clipped", "loss_scale", "gradient_noise_scale",
)  # fmt: skip
"""The numbers of the whole step: the loss and the largest learning rate; the gradient's norm as the last backward left
it (divided by the loss scale) and as the optimizer saw it, after clipping; the scale of a GradScaler; the batch size at
which noise and gradient are equal, where several processes average their gradients. A file that is older than the
last of them has fewer."""

Row = tuple[float, ...]
NOTHING: Row = (math.nan,) * len(FIELDS)


@dataclass(frozen=True)
class Column:
    """What stays the same of a layer; ``source``: file:line from which its module is called, "" where none is known."""

    name: str
    kind: str
    parameters: int
    frozen: bool = False
    source: str = ""


def locate(columns: list[Column], sources: Mapping[int, str]) -> None:
    """Enter from where layers are called, of those of which it was not known."""
    for at, source in sources.items():
        if source and not columns[at].source:
            columns[at] = replace(columns[at], source=source)


def thaw(columns: list[Column], moved: Iterable[int]) -> None:
    """What an optimizer moves is frozen no more: layers are thawed one after the other."""
    for at in moved:
        if columns[at].frozen:
            columns[at] = replace(columns[at], frozen=False)


class Stake(NamedTuple):
    """What a loss is beside that of the best outputs; ``rms`` of what it was given, ``wanted`` of the best move."""

    value: float
    constant: float
    free: float
    rms: float
    wanted: float

    def and_of(self, other: Stake) -> Stake:
        """Both losses together; of their outputs those that are to move furthest for their size."""
        further = max(self, other, key=lambda each: each.wanted / max(each.rms, 1e-300))
        sums = self.value + other.value, self.constant + other.constant, self.free + other.free
        return Stake(*sums, further.rms, further.wanted)

    def times(self, factor: float) -> Stake:
        """The same of a loss that is multiplied by a number."""
        return Stake(self.value * factor, self.constant * factor, self.free * factor, self.rms, self.wanted)


class Stale(NamedTuple):
    """A layer (its place) whose forward pass was made with the weights that it had in a sampled step before."""

    at: int
    since: int


def together(stakes: Sequence[Stake | None]) -> Stake | None:
    """Of all losses of a step; None where one of them is not known."""
    known = [each for each in stakes if each is not None]
    if not known or len(known) < len(stakes):
        return None
    whole = known[0]
    for each in known[1:]:
        whole = whole.and_of(each)
    return whole


@dataclass
class Sample:
    """A sampled step: by layer, its numbers; ``groups``: the layers whose signals came from the same backward.

    ``order``: as they ran. ``before``: of a layer the one whose output it was given, -1 where that was data; of one
    that is not in it the layer that ran before stands for it. ``renewed``: layers that are others than in the sample
    before, so that what was usual there is no measure for them. ``added_up``: the norm of what was still there of the
    gradient of the step before when this one's was computed; 0 where nothing was. ``stake``: of its loss, ``outputs``:
    log10 of the rms of each layer's output; in the first samples, and where a loss is far out of proportion.
    ``full_rate``: the learning rate from which schedules began, or lead up to; ``eps``: the largest of the optimizers;
    ``decay``: the least share that a group of parameters with weight decay loses to it in a step, momentum included.
    """

    step: int
    rows: dict[int, Row] = field(default_factory=dict)
    series: dict[str, float] = field(default_factory=dict)
    groups: list[tuple[int, ...]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    before: dict[int, int] = field(default_factory=dict)
    renewed: Set[int] = frozenset()
    added_up: float = 0.0
    stake: Stake | None = None
    outputs: dict[int, float] = field(default_factory=dict)
    stale: Stale | None = None
    full_rate: float = math.nan
    eps: float = math.nan
    decay: float = math.nan


def flow_of(sample: Sample, columns: Sequence[Column], setting: Setting, group: Iterable[int]) -> Flow:
    """The layers of one group in the order in which they ran, as a check would have them."""
    wanted = set(group)
    known = [at for at in sample.order if at in wanted and at in sample.rows]
    layers: list[LayerFlow] = []
    made: dict[int, LayerFlow] = {}
    for at in known:
        numbers = _numbers(sample.rows[at])
        if numbers.get("log10_signal") is None or numbers.get("log10_grad_norm") is None:
            continue
        column = columns[at]
        before = _before(at, sample.before, made)
        mine, theirs = numbers["log10_signal"], None if before is None else before.log10_signal
        gain = theirs - mine if theirs is not None and mine is not None and _both_finite(mine, theirs) else None
        made[at] = LayerFlow(
            name=column.name, kind=column.kind, source=column.source, parameters=column.parameters,
            frozen=column.frozen, before="" if before is None else before.name, log10_gain=gain, **numbers,
        )  # fmt: skip
        layers.append(made[at])
    broken = any(each.log10_grad_norm == math.inf for each in layers)
    return Flow(setting=setting, layers=tuple(layers), nonfinite="backward" if broken else "", asked=LIVE)


def _before(at: int, before: Mapping[int, int], made: dict[int, LayerFlow]) -> LayerFlow | None:
    """The layer whose output this one was given, or the nearest before it that has numbers."""
    if at not in before:
        return made[next(reversed(made))] if made else None
    for _ in before:  # one after the other at most: a damaged file might lead round and round
        at = before.get(at, -1)
        if at in made:
            return made[at]
    return None


def _numbers(row: Row) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in zip(FIELDS, row, strict=True)}


def total(values: Iterable[float]) -> float:
    """log10 of the norm of all together, from log10 of the norms of the parts; NaN of none, and none is NaN itself."""
    known = [value for value in values if not math.isnan(value)]
    top = max(known, default=math.nan)
    if not math.isfinite(top):
        return top
    return top + 0.5 * math.log10(sum(10.0 ** (2.0 * (each - top)) for each in known))


def less(whole: float, part: float) -> float:
    """log10 of the norm of what is left of a whole without a part of it, from log10 of both norms."""
    share = 10.0 ** (2.0 * (part - whole)) if math.isfinite(whole) and math.isfinite(part) else 0.0
    return whole + 0.5 * math.log10(1.0 - share) if 0.0 < share < 1.0 else whole


LARGE = -1.0
"""log10 of a sampled step over the norm of the weights from which on it is known that steps are too large: a hundred
times the usual. Where no sampled step was, somebody else may have written into the weights."""


def whole_move(rows: Mapping[int, Sequence[float]]) -> float:
    """log10 of the whole step over the norm of all weights; NaN where it was not measured."""
    known = [(row[WEIGHT], row[MOVE]) for row in rows.values() if math.isfinite(row[WEIGHT]) and row[MOVE] > 0.0]
    return total(weight + math.log10(move) for weight, move in known) - total(weight for weight, _ in known)


def _both_finite(one: float, other: float) -> bool:
    return math.isfinite(one) and math.isfinite(other)


GRADIENT = FIELDS.index("log10_grad_norm")
WEIGHT, MOVE = FIELDS.index("log10_weight_norm"), FIELDS.index("update_to_weight_ratio")


def relative_sizes(sample: Sample, place: int = GRADIENT) -> dict[int, float]:
    """Per layer log10 of its gradient norm (or of the number at ``place``), less the median of its group in the step.

    So it is free of the size of the loss, and of the learning rate.
    """
    as_log = place == GRADIENT
    found: dict[int, float] = {}
    for group in sample.groups:
        known = {at: sample.rows[at][place] for at in group if at in sample.rows}
        if not as_log:
            known = {
                at: -math.inf if value == 0.0 else math.log10(value) for at, value in known.items() if value >= 0.0
            }
        finite = [value for value in known.values() if math.isfinite(value)]
        if len(finite) > 1:
            middle = median(finite)
            found |= {at: value - middle for at, value in known.items() if not math.isnan(value)}
    return found
