"""One look at a network: what all who measure something of it need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from unvanish.flow.layers import Layer, layers_of
from unvanish.problem import Optimizers, Problem
from unvanish.trace.calls import Capture
from unvanish.trace.capture import record


@dataclass(frozen=True)
class Look:
    """A problem, one recorded forward pass of a model on it, and how much is to be measured.

    ``capture`` has its graph only inside ``looking``; the calls stay. ``optimizer``: the problem's own, made; None
    where it has none. ``seed``: of every random number that the look draws itself. ``unmoved``: whether the forward
    passes so far have left everything as they found it. ``copy_of``: a parameter's values as they are, kept by whoever
    puts everything back in the end; None where they are not.
    """

    problem: Problem
    capture: Capture
    layers: list[Layer]
    optimizer: Optimizers | None = None
    effort: str = "auto"
    seed: int = 0
    unmoved: Callable[[], bool] = lambda: False
    copy_of: Callable[[Tensor], Tensor | None] = lambda _: None

    @property
    def model(self) -> nn.Module:
        """The model that was looked at, which need not be the problem's own."""
        return self.capture.model

    @property
    def work(self) -> int:
        """What a step costs, about: parameters times samples."""
        return self.problem.batch_size * sum(p.numel() for p in self.model.parameters())


@contextmanager
def looking(
    problem: Problem,
    model: nn.Module,
    optimizer: Optimizers | None = None,
    effort: str = "auto",
    seed: int = 0,
    unmoved: Callable[[], bool] = lambda: False,
    copy_of: Callable[[Tensor], Tensor | None] = lambda _: None,
) -> Iterator[Look]:
    """A forward pass of ``model`` on the problem, whose graph is there inside and taken apart afterwards.

    The caller sees to it that the model's state is kept (see ``preserve.untouched``).
    """
    capture = record(problem, model)
    try:
        yield Look(problem, capture, layers_of(capture), optimizer, effort, seed, unmoved, copy_of)
    finally:
        capture.release()
