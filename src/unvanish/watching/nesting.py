"""An optimizer that calls the step of its base class, or of another for the same weights: only the outer is a step."""

from __future__ import annotations

import sys
import weakref
from typing import Any


class Nesting:
    """Which steps are running, by the ids of their optimizers; each with the backward passes there were before it."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, int]] = {}
        self.outer: dict[int, weakref.ref[Any]] = {}  # a plain one: it is asked in every step
        self.inside: list[int] = []  # steps that are a part of one of these
        self.stepped: set[int] = set()  # the ids of all that have made a step

    def enters(self, optimizer: Any, backwards: int) -> bool:
        """A step begins; whether it is a step of its own.

        One that was left by an exception never ends. What comes after another backward pass is not inside of it,
        unless it is called by it: an optimizer that wraps another runs a closure before (SAM).
        """
        mine = id(optimizer)
        if self.outer and any(_calls(each(), optimizer) for key, each in list(self.outer.items()) if key != mine):
            self.inside.append(mine)
            return False
        depth, since = self.running.get(mine, (0, backwards))
        depth = depth + 1 if since == backwards else 1
        self.running[mine] = depth, backwards
        self.stepped.add(mine)
        self.outer[mine] = weakref.ref(optimizer)
        return depth == 1

    def leaves(self, optimizer: Any) -> bool:
        """A step ends; whether it is the outer one."""
        if id(optimizer) in self.inside:
            self.inside.remove(id(optimizer))
            return False
        depth, since = self.running.pop(id(optimizer), (1, 0))
        if depth > 1:
            self.running[id(optimizer)] = depth - 1, since
        else:
            self.outer.pop(id(optimizer), None)
        return depth == 1


def _calls(outer: Any, optimizer: Any) -> bool:
    """Whether a step of ``outer``, which holds all that ``optimizer`` moves, is what runs now; None is gone."""
    if outer is None:
        return False
    mine, theirs = ({id(p) for group in each.param_groups for p in group["params"]} for each in (optimizer, outer))
    if not mine <= theirs:
        return False
    frame = sys._getframe(1)
    while frame is not None and frame.f_locals.get("self") is not outer:
        frame = frame.f_back
    return frame is not None
