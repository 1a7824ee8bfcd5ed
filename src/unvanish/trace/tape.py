"""What a walk saw, as logarithms of norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from unvanish.trace.calls import Node, Root
from unvanish.trace.scaled import LOG_ZERO, Scaled

Start = Sequence[tuple[Root, Tensor]]
OnLeaf = Callable[[nn.Parameter, int, Scaled], None]
OnNode = Callable[[int, Node, Scaled | None], None]
LOG10_2 = math.log10(2.0)


@dataclass(slots=True)
class Tape:
    """What one channel of a walk saw; all values are log10 of a Euclidean norm, -inf for an exact zero.

    ``signals``: of the cotangent at a call's outputs. ``edges``: of what a call sent back to a producer. ``leaves``: of
    the gradient of a parameter, by ``id``. ``broken``: the first call that sent something non-finite back. Where no
    gradient of a parameter is reached by it (a mask stops it), norms are those of the entries that are finite.
    """

    signals: dict[int, float] = field(default_factory=dict)
    edges: dict[tuple[int, int], float] = field(default_factory=dict)
    leaves: dict[int, float] = field(default_factory=dict)
    broken: int | None = None

    @property
    def breaks_weights(self) -> bool:
        """Whether the gradient of some parameter is not finite: a mask may stop what is not before it gets there."""
        return self.broken is not None and any(not size < math.inf for size in self.leaves.values())


class Partly(float):
    """A norm that is not finite, and beside it that of the entries that are."""

    def __new__(cls, value: float, finite: float) -> Partly:
        made = super().__new__(cls, value)
        made.finite = finite
        return made

    finite: float


class Raw:
    """Squared contributions of one channel, as they come; read back once at the end."""

    def __init__(self) -> None:
        self.signals: list[tuple[int, Any]] = []
        self.edges: list[tuple[tuple[int, int], Any]] = []
        self.leaves: list[tuple[int, Any]] = []
        self.broken: int | None = None

    def tape(self, read: Callable[[Sequence[Any]], list[float]]) -> Tape:
        tape = Tape(broken=self.broken)
        pairs: list[tuple[list[Any], dict[Any, float]]] = [
            (self.leaves, tape.leaves), (self.signals, tape.signals), (self.edges, tape.edges)
        ]  # fmt: skip
        for kept, into in pairs:
            groups: dict[Any, list[float]] = {}
            stopped = not tape.breaks_weights
            sizes = [v.finite if v.__class__ is Partly and stopped else v for _, v in kept]
            for (key, _), value in zip(kept, read(sizes), strict=True):
                if key not in into:
                    into[key] = value * LOG10_2
                else:
                    groups.setdefault(key, [into[key]]).append(value * LOG10_2)
            into.update((key, norm_together(values)) for key, values in groups.items())
        if tape.broken is None:
            bad = [pair[0] for pair, v in tape.edges.items() if not v < math.inf]
            tape.broken = max(bad, default=None)
        return tape


def norm_together(logs: Sequence[float]) -> float:
    """log10 of the norm of a vector whose parts have norms 10^x, x in ``logs``."""
    if len(logs) == 1:
        return logs[0]
    top = max(logs, default=LOG_ZERO)
    if not math.isfinite(top):
        return top if not any(math.isnan(x) for x in logs) else math.nan
    return top + 0.5 * math.log10(sum(10.0 ** (2 * (x - top)) for x in logs))
