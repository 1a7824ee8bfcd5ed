"""The models and optimizers of a script that does not know of us, found when they are made and used."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from unvanish.preserve import checking
from unvanish.watching.given import unwrapped
from unvanish.watching.gradients import held
from unvanish.watching.guard import traced
from unvanish.watching.signals import SCRIPTED
from unvanish.watching.watch import Watch


class Stopped(BaseException):
    """Ends a script after its last wanted step; no ``except Exception`` of the script holds it up."""


class Finder:
    """Finds the models of a script at their first call, and its optimizers at their first step."""

    def __init__(self, run: Watch, stop_after: int | None) -> None:
        self.run, self.stop_after = run, stop_after
        self.guarded = run.watcher.guarded
        self.roots: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self.wrappers: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()  # of the roots
        self.first = ""  # the name of the first model, which it gets when a second one is called
        self.process = os.getpid()
        self.known: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()
        self.made: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()  # optimizers, the oldest first
        self.patched: list[tuple[Any, str, Any]] = []
        self._around(torch.optim.Optimizer, "__init__", self._make)
        # compiled in place, so that no hook of ours sees a call; or called with other weights than their own so far
        self.later: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._around(torch, "compile", self._compile)
        self._around(nn.Module, "compile", self._compile_in_place)
        self.searched: weakref.WeakSet[Any] | None = None  # optimizers, once a function was compiled
        self.looking: Any = None
        self._look(True)
        self.hooks = [
            register_optimizer_step_pre_hook(self.before), register_optimizer_step_post_hook(self.after),
        ]  # fmt: skip

    def _around(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self.patched.append((owner, name, original))
        setattr(owner, name, replaced)

    def _make(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        self.made[optimizer] = None
        if os.getpid() == self.process:
            self._look(True)  # the model that it moves may be new, too

    def _compile(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if not isinstance(found, nn.Module) and self.searched is None:
            self.searched = weakref.WeakSet()
        if not any(name == "__call__" for _, name, _ in self.patched):
            from torch._dynamo.eval_frame import OptimizedModule

            self._around(OptimizedModule, "__call__", self._call_compiled)
        return found

    def _compile_in_place(self, original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        self.later.add(module)

    def _call_compiled(self, original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A compiled module is called: a hook on every module would be compiled with it, and warned of."""
        if self.looking is None or traced() or os.getpid() != self.process:
            return original(module, *args, **kwargs)
        self.guarded(self._new)(module)  # its own hooks are there before it runs
        self._look(False)
        try:
            return original(module, *args, **kwargs)
        finally:
            self._look(True)

    def _look(self, on: bool) -> None:
        """A hook on every module of the process is there while it is needed."""
        if on and self.looking is None:
            self.looking = register_module_forward_pre_hook(self.called)
        elif not on and self.looking is not None:
            self.looking.remove()
            self.looking = None

    def called(self, module: nn.Module, args: Any) -> None:
        """Some module is called; the first that holds parameters and is part of no known one is a model."""
        if not (traced() or checking() or os.getpid() != self.process):
            self.guarded(self._called)(module, args)

    def _called(self, module: nn.Module, args: Any) -> None:
        if self._new(module) and unwrapped(module) is module:
            self.run.watcher.calls.entered(module, args)  # its own hooks come too late for this call

    def _new(self, module: nn.Module) -> bool:
        """Watch it, if it holds parameters and is part of no known model."""
        if id(module) in self.wrappers or any(id(module) in self._inside(root) for root in list(self.roots.values())):
            return False
        weights = _weights(module)
        if not all(isinstance(each, nn.Parameter) for each in weights):  # torch.func.functional_call lends it others
            self.later.add(module)
            return False
        if not weights:
            return False
        model = unwrapped(module)
        table = self.run.watcher.table
        if isinstance(module, torch.jit.ScriptModule) and table.holds(module.parameters()):
            self.run.watcher.signals.unread[SCRIPTED] = None  # what it was made from is watched
            return False
        if len(self.roots) == 1 and "" in table.models and not self.run.step:
            self.run.watcher.rename(self.first)
        if table.empty:
            self.run.begin_again()
        self.roots[id(model)] = model
        if model is not module:
            self.wrappers[id(module)] = module
        name = self._name(module)
        if len(self.roots) == 1 and table.fits("", model):
            self.first, name = name, ""
        self.run.add_model(name, module)
        return True

    def _inside(self, root: nn.Module) -> set[int]:
        return {id(each) for each in root.modules()}

    def _name(self, module: nn.Module) -> str:
        """The name of the variable that holds it where it is called, or of an attribute of ``self``; else the class."""
        name = next((name for name in _names_of(module) if name != "self"), type(module).__name__)
        table, model = self.run.watcher.table, unwrapped(module)
        names = (f"{name}{more or ''}" for more in itertools.count())
        return next(each for each in names if table.fits(each, model))

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if os.getpid() != self.process:
            return
        self.guarded(self._find)(optimizer)
        self.run.before_step(optimizer, args, kwargs)
        if self.stop_after is not None and self.run.step + 1 >= self.stop_after and self.run.watcher.now.stepped:
            self.run.check("stop")

    def _find(self, optimizer: Any) -> None:
        if not self._knows(optimizer):
            for module in sorted(self.later, key=lambda each: -len(list(each.modules()))):
                self._new(module)
            self._search(optimizer)
        self._look(not self._knows(optimizer))
        if not self.run.watcher.optimizers:
            for each in list(self.made):  # those that were made before the first step may belong to it
                self.run.watcher.add_optimizer(each)

    def _search(self, optimizer: Any) -> None:
        """Where a function was compiled, no hook sees what it calls, which is known by what the optimizer moves."""
        if self.searched is None or optimizer in self.searched or self._knows(optimizer):
            return
        self.searched.add(optimizer)
        moved = {id(each) for each in held(optimizer)}
        every = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
        those = [each for each in every if not moved.isdisjoint(map(id, _weights(each)))]
        inside = {id(part) for each in those for part in each.modules() if part is not each}
        for module in those:
            mine = [each for each in module.parameters() if id(each) in moved]
            if id(module) not in inside and not self.run.watcher.table.holds(mine):
                self.run.watcher.signals.hidden.update({id(each): each for each in module.modules()})
                self._new(module)

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if os.getpid() != self.process:
            return
        self.run.after_step(optimizer, args, kwargs)
        if self.stop_after is not None and self.run.step >= self.stop_after:
            raise Stopped

    def _knows(self, optimizer: Any) -> bool:
        """Whether every layer that it moves is watched; asked again when it gets parameters, or a model is gone."""
        table = self.run.watcher.table
        now = sum(len(group["params"]) for group in optimizer.param_groups), len(table.empty)
        if self.known.get(optimizer) != now and table.holds(held(optimizer)):
            self.known[optimizer] = now
        return self.known.get(optimizer) == now

    def remove(self) -> None:
        """Leave torch as it was."""
        self._look(False)
        for hook in self.hooks:
            hook.remove()
        while self.patched:
            owner, name, original = self.patched.pop()
            setattr(owner, name, original)


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Its parameters; none where its own code fails, as of one that was never made whole."""
    try:
        return list(module.parameters())
    except Exception:
        return []


def _names_of(module: nn.Module) -> Iterator[str]:
    """The names by which the functions that are running know a module, the innermost first; none inside of modules."""
    frame = sys._getframe(1)
    while frame is not None:
        here = frame.f_locals
        owner = here.get("self")
        ours = str(frame.f_globals.get("__name__", "")).startswith("unvanish.")
        if not ours and not isinstance(owner, nn.Module):
            yield from (key for key, value in here.items() if value is module)
            yield from (key for key, value in getattr(owner, "__dict__", {}).items() if value is module)
        frame = frame.f_back
