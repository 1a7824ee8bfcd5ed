"""The forward pass: which calls of the watched models are outermost, and what is held of them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Container, Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn

from unvanish.preserve import checking
from unvanish.records import UnvanishError
from unvanish.watching.box import Box
from unvanish.watching.guard import Guard, traced, transformed
from unvanish.watching.processes import Processes
from unvanish.watching.signals import Activations, Signals

THREADS = (
    "two threads train at the same time, and a watch follows one: let them train one after the other, or each in a"
    " process of its own"
)
PASSES = 100
"""So many passes of a module without gradients are looked at after each sampled step: a rollout has thousands, and each
look takes what a few small layers do."""


class Running(threading.local):
    """The calls that run now, of each thread its own: another one may ask a model for outputs meanwhile."""

    depth = 0  # calls inside of one another
    call: FrameType | None = None  # of the outermost, where torch runs it
    held = False  # whether the outermost is in the box
    late = False  # whether it has begun before its hooks were there
    mode: Activations | None = None


class Calls:
    """Holds the outermost calls in the box; in a sampled step their activations are looked at as well.

    Its hooks run in every step, sampled or not, and after each a network has been through the processor's caches: so
    they are few functions, which look at little.
    """

    def __init__(
        self, box: Box, signals: Signals, processes: Processes, guard: Guard, broken_off: Callable[[], None]
    ) -> None:
        """``broken_off()``: a forward pass was left by what is no error, such as Ctrl-C."""
        self.box, self.signals, self.processes, self.guard = box, signals, processes, guard
        self.broken_off = broken_off
        self.parts = Parts(lambda child, hooks: self._follow(child, child, hooks))
        self.hooks: list[Any] = []
        self.sampled = False  # the step that comes
        self.running = Running()
        self.thread = 0  # that made the calls in the box
        # told of passes without gradients, and tells whether the next of this module is to be told of
        self.ended: Callable[[nn.Module, Any, Any, Any], bool] | None = None
        self.looked: dict[int, int] | None = None  # how many it may be told of, of those called since the last sample

    def add(self, model: nn.Module, outer: nn.Module | None) -> None:
        """Follow the calls of a model, or of ``outer``, which is called in its stead; until then its parts' as well."""
        if isinstance(model, torch.jit.ScriptModule):
            return
        self._follow(model if outer is None else outer, model, self.hooks)
        if outer is None:
            self.parts.add(model)

    def _follow(self, module: nn.Module, model: nn.Module, hooks: list[Any]) -> None:
        """``model``: what is run again in the module's stead. A hook holds no module, which would hold itself then."""
        guard, itself, other = self.guard, model is module, weakref.ref(model)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if traced() or transformed():
                return
            if guard.off or checking():
                self.running.depth += self.running.mode is not None
                return
            try:
                self._before(other(), itself, args, kwargs)
            except Exception as error:
                guard.fail(error)

        def after(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
            if traced() or transformed():
                return
            running = self.running
            if guard.off or checking():
                if running.mode is not None:  # what failed has left it, as torch was at work on it
                    running.depth -= 1
                    if running.depth == 0:
                        self.leave_mode()
                return
            try:
                running.depth -= 1
                if running.depth == 0:
                    running.call = None
                if running.depth == 0 and running.held and not self.signals.open:
                    if running.late:
                        running.late = False
                        self.box.given(args, kwargs)
                    if running.mode is not None:
                        self.leave_mode()
                    self.box.after(outputs)
                elif running.depth == 0 and self.looked is not None and self.looked.get(id(module), PASSES):
                    self._without_gradients(module, args, kwargs, outputs)
            except Exception as error:
                guard.fail(error)

        hooks.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
        hooks.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    def entered(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """A call of this model has begun before its hooks were there; what it is given by name is known at its end."""
        if transformed() or isinstance(model, torch.jit.ScriptModule):
            return
        self.running.late = True
        self.guard.around(self._before)(model, True, args, {})

    def _before(self, model: Any, itself: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running = self.running
        if running.depth:
            self.look_whether_it_runs()
        if not running.depth:
            running.call = _where_torch_calls()  # first, as this may be interrupted, too
        running.depth += 1
        if itself and self.parts.hooks:
            self.parts.called(model)
        if running.depth > 1 or self.signals.open:  # in a backward: a checkpoint runs its part of the forward again
            return
        running.held = torch.is_grad_enabled()
        if not running.held:  # a validation or a rollout: no part of the step, and none of its samples
            if not self.box.entries or self.thread == threading.get_ident():
                self.signals.disarm()  # torch runs other kernels in a layer that has hooks (TransformerEncoderLayer)
            return
        me = threading.get_ident()
        if me != self.thread and self.box.entries:
            running.held = False
            raise UnvanishError(THREADS)
        self.thread = me
        self.box.before(model, args, kwargs)
        if self.sampled:
            cast = self.box.running is not None and self.box.running.autocast is not None
            self.signals.casting = cast and torch.is_autocast_cache_enabled()
            self.looked = {}
            self.signals.arm()
            self.processes.called(model)
            if self.signals.looks_at_activations():
                running.mode = Activations(self.signals)
                running.mode.__enter__()

    def _without_gradients(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self.looked is not None and not torch.is_grad_enabled() and not self.signals.open and self.ended is not None:
            left, self.looked[id(module)] = self.looked.get(id(module), PASSES), 0
            if self.ended(module, args, kwargs, outputs):
                self.looked[id(module)] = left - 1

    def look_whether_it_runs(self) -> None:
        """A call that Ctrl-C has ended runs no hook; in a notebook, where the program goes on, it would never end."""
        running = self.running
        if running.depth and running.call is not None and not _runs(running.call):
            running.depth, running.call, running.late = 0, None, False
            self.leave_mode()
            self.box.give_up()
            self.signals.shares.clear()
            self.broken_off()

    def leave_mode(self) -> None:
        """Look at activations no more, in this thread."""
        mode = self.running.mode
        if mode is not None and not mode.busy:
            self.running.mode = None
            mode.leave()

    def detach(self) -> None:
        """Take every hook away."""
        self.leave_mode()
        drop(self.hooks)
        self.parts.detach()


def _where_torch_calls() -> FrameType | None:
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_filename != nn.modules.module.__file__:
        frame = frame.f_back
    return frame


def _runs(call: FrameType) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None


class Parts:
    """``follow(child, hooks)`` puts hooks on a child and appends them to the list."""

    def __init__(self, follow: Callable[[nn.Module, list[Any]], None]) -> None:
        self.follow = follow
        self.hooks: dict[int, list[Any]] = {}  # by the ids of the models
        self.apart = False  # a step was seen in which no model was called as a whole

    def add(self, model: nn.Module) -> None:
        """Follow the children of this model until it is called as a whole."""
        self.hooks[id(model)] = []
        for child in model.children():  # its hooks hold nothing that holds the model
            if not isinstance(child, torch.jit.ScriptModule):  # which takes none
                self.follow(child, self.hooks[id(model)])

    def called(self, model: nn.Module) -> None:
        """It is called as a whole: nothing of its parts need be known."""
        if id(model) in self.hooks and not self.apart:
            drop(self.hooks.pop(id(model)))

    def none_was_called(self, models: Iterable[nn.Module], hidden: Container[int]) -> None:
        """An optimizer uses gradients before whose backward no model was called: the parts of all are held, too."""
        if not self.apart:
            self.apart = True
            for model in models:
                if id(model) not in self.hooks and id(model) not in hidden:
                    self.add(model)

    def detach(self) -> None:
        """Take every hook away."""
        for hooks in self.hooks.values():
            drop(hooks)


def drop(hooks: list[Any]) -> None:
    """Remove these hooks from what they are on, and from the list."""
    while hooks:
        hooks.pop().remove()
