"""A check leaves no trace: whatever a forward pass moves is put back, also when it fails or is interrupted."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from unvanish.preserve.objects import Belongings
from unvanish.preserve.randomness import random_states as random_states
from unvanish.preserve.randomness import reseed as reseed
from unvanish.preserve.randomness import seeded as seeded
from unvanish.preserve.settings import Settings
from unvanish.preserve.signals import finish
from unvanish.preserve.threads import at_work_elsewhere
from unvanish.records import UnvanishError

# Random states, hooks on every module and patched functions are the process's: one check at a time may move them.
_ONE_AT_A_TIME = threading.RLock()

_OWN = (_BatchNorm.forward, _InstanceNorm.forward)

_BESIDE = (
    "another thread is at work on the model while it is checked; check it where its training stands still, or check a"
    " copy of it"
)


checking: Callable[[], bool] = _ONE_AT_A_TIME._is_owned  # pyright: ignore[reportAttributeAccessIssue]
"""Whether this thread is in the middle of a check, whose calls of the model are no part of its training."""


class untouched:  # noqa: N801
    """Inside, random numbers follow from ``seed`` and gradients are None; afterwards everything is as before.

    Parameters, buffers and gradients, what modules set on themselves and what is nested in it, random states, and the
    modes of torch. ``also``: further roots (a loss with weights, the batch). A second thread waits until the first is
    through. Random numbers are the process's: another thread that draws meanwhile disturbs a pass with dropout. Raises
    UnvanishError where another thread has stepped the model meanwhile. A class, and no generator: what a generator
    still has to put back would be put back whenever its traceback is forgotten.
    """

    def __init__(self, model: nn.Module, seed: int, *also: Any) -> None:
        self.model, self.seed, self.also = model, seed, also
        self.done = False
        self.disturbed = False

    @property
    def lost(self) -> tuple[str, ...]:
        """What could not be put back; known afterwards."""
        return tuple(self.belongings.lost)

    def unmoved(self) -> bool:
        """Whether the passes so far have moved nothing that a later one may depend on.

        The running statistics of torch's own batch norms, which training does not read, may have moved.
        """
        norms = (m for m in self.model.modules() if isinstance(m, _NormBase) and m.training and type(m).forward in _OWN)
        return self.belongings.unchanged({id(b) for m in norms for b in m._buffers.values()})

    def copy_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A copy of its values as they are now, not to be written to, where they are those at the beginning."""
        kept = self.belongings.tensors.get(id(tensor))
        return None if kept is None or type(kept.copy) is not torch.Tensor or kept.changed else kept.copy

    def another_door(self) -> _Door:
        """To be entered right behind: an interrupt may come just as one door is opened, before it does a thing.

        Each door is a match for one interrupt more, also where a busy machine lets them come one behind the other.
        """
        return _Door(self)

    def __enter__(self) -> untouched:
        _ONE_AT_A_TIME.acquire()
        try:
            modules = list(self.model.modules())
            ids = {*map(id, modules), *(id(p) for m in modules for p in m._parameters.values())}
            ids.discard(id(None))
            if at_work_elsewhere(ids):
                raise UnvanishError(_BESIDE)
            running = gc.isenabled()
            self.settings = Settings()
            gc.disable()  # thousands of objects are made, none of them in cycles
            self.belongings = Belongings((self.model, *self.also))
            if running:
                gc.enable()
            self.begin()
        except BaseException:
            try:
                self.put_back()
            finally:  # another interrupt may have come just as that began, and one more just behind it
                try:
                    self.put_back()
                finally:
                    self.put_back()
            raise
        return self

    def begin(self) -> None:
        self.normal = torch.inference_mode(False)
        self.normal.__enter__()
        self.settings.plain(next((p.device for p in self.model.parameters()), torch.device("cpu")))
        reseed(self.seed)
        for kept in self.belongings.tensors.values():
            if kept.gradient is not None:
                kept.tensor.grad = None
        self.watching = register_optimizer_step_post_hook(self.stepped)
        self.thread = threading.get_ident()

    def stepped(self, optimizer: Optimizer, *_: Any) -> None:
        if threading.get_ident() != self.thread:
            belonging = self.belongings.tensors
            self.disturbed |= any(id(p) in belonging for group in optimizer.param_groups for p in group["params"])

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.put_back(error)
        if self.disturbed and (error is None or isinstance(error, Exception)):
            raise UnvanishError(_BESIDE) from error

    def put_back(self, error: BaseException | None = None) -> None:
        if self.done:
            return

        def work() -> None:
            if error is not None and not isinstance(error, Exception):
                # Generators that were cut short end now, and not whenever somebody forgets the error.
                _end_generators(error)
            if hasattr(self, "watching"):
                self.watching.remove()
            belongings = getattr(self, "belongings", None)  # None: it failed before these were known
            if belongings is not None:  # the steps of another thread stay
                (belongings.put_objects_back if self.disturbed else belongings.put_back)()
            if hasattr(self, "normal"):
                self.normal.__exit__(None, None, None)
                del self.normal
            if hasattr(self, "settings"):
                self.settings.put_back()
            if not self.done:
                self.done = True
                _ONE_AT_A_TIME.release()

        finish(work)


class _Door:
    def __init__(self, kept: untouched) -> None:
        self.kept = kept

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.kept.put_back(error)


def _end_generators(error: BaseException) -> None:
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            waiting += [other for other in (each.__cause__, each.__context__) if other is not None]
