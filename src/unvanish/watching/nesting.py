"""An optimizer that calls the step of its base class tells of both as steps: only the outer one is."""

from __future__ import annotations


class Nesting:
    """Which steps are running, by the ids of their optimizers; each with the backward passes there were before it."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, int]] = {}

    def enters(self, optimizer: object, backwards: int) -> bool:
        """A step begins; whether it is a step of its own.

        One that was left by an exception never ends. What comes after another backward pass is not inside of it.
        """
        depth, since = self.running.get(id(optimizer), (0, backwards))
        depth = depth + 1 if since == backwards else 1
        self.running[id(optimizer)] = depth, backwards
        return depth == 1

    def leaves(self, optimizer: object) -> bool:
        """A step ends; whether it is the outer one."""
        depth, since = self.running.pop(id(optimizer), (1, 0))
        if depth > 1:
            self.running[id(optimizer)] = depth - 1, since
        return depth == 1
