"""Weights that the forward pass uses as they were: in one autocast that stands around a training loop as a whole.

autocast keeps the copy that it makes of a weight in its lower type until the outermost block ends, also where a step of
the optimizer moves the weight meanwhile. The node of the graph that made such a copy is then the same in step after
step, which nothing else brings about: each new copy has a number of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unvanish.records import Evidence, Finding
from unvanish.rules.events import EVENTS
from unvanish.watching.sample import Column, Sample, Stale
from unvanish.words.spans import called

STALE = "UV812"

NODES = 8
"""So many nodes of the graph are looked through behind the result of a layer; a linear one has its weight in four."""


class _Thread(threading.local):
    """Nodes are counted in each thread anew, and threads that come one after the other may have the same number."""

    def __init__(self) -> None:
        self.mark = object()


@dataclass
class _Cast:
    """``made``: by which node, in which thread. ``step``: the first sampled one in which it was used."""

    made: tuple[object, int]
    step: int
    moved: bool = False  # a step has moved the weight since it was used first


class Casts:
    """Of each layer that was looked at the copy of a weight that its last sampled call was made with."""

    def __init__(self) -> None:
        self.thread = _Thread()
        self.kept: dict[int, _Cast] = {}
        self.now: dict[int, tuple[object, int]] = {}  # of the step that runs

    def look(self, at: int, node: Any) -> bool:
        """Whether the result that this node made goes by a copy of a weight."""
        waiting = [node]
        for behind in waiting:
            for ahead, _ in behind.next_functions:
                if ahead is None or len(waiting) > NODES:
                    continue
                if hasattr(ahead, "variable"):
                    if behind.name().startswith("ToCopyBackward"):
                        self.now[at] = self.thread.mark, behind._sequence_nr()
                        return True
                else:
                    waiting.append(ahead)
        return False

    def ends(self, step: int, moved: Mapping[int, tuple[float, float]]) -> Stale | None:
        """A sampled step is over; ``moved``: of each layer the square of its update, and of its weights."""
        found: Stale | None = None
        for at, made in self.now.items():
            old = self.kept.get(at)
            if old is None or old.made != made:
                old = self.kept[at] = _Cast(made, step)
            elif old.moved and found is None:
                found = Stale(at, old.step)
            old.moved = old.moved or moved.get(at, (0.0, 0.0))[0] > 0.0
        self.now.clear()
        return found


def of_the_casts(sample: Sample, columns: Sequence[Column], autocast: str) -> Finding | None:
    """What is to be said of a sampled step; ``autocast``: the type in which layers were run."""
    if sample.stale is None:
        return None
    event, name = EVENTS[STALE], called(columns[sample.stale.at].name)
    since = sample.stale.since
    return Finding(
        code=STALE, verdict=event.verdict, level=event.level, cause="autocast around the loop",
        message=f"the forward pass goes by the weights of an earlier step: that of step {sample.step:,} was made with"
        f" the {autocast or 'low-precision'} copy of {name} that step {since:,} had used, though the optimizer has"
        " moved the weights since. One torch.autocast stands around several steps, and keeps the copies until it ends:"
        " put it around each forward pass (and loss) alone, or give it cache_enabled=False. Until then no step changes"
        " what the network computes.",
        evidence=(
            Evidence(name="step of which the copy of a weight is, or of an earlier one", value=float(since)),
            Evidence(name="step whose forward pass was made with it", value=float(sample.step)),
        ),
    )  # fmt: skip
