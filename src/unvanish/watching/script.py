"""A training script that does not know of us, run and watched: models and optimizers are found when they are used."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from unvanish.records import UnvanishError
from unvanish.watching.gradients import held
from unvanish.watching.watch import Watch, run_path, unwrapped


class Stopped(BaseException):
    """Ends a script after its last wanted step; no ``except Exception`` of the script holds it up."""


@dataclass(frozen=True)
class Ending:
    """How a script ended. ``status``: its exit status; ``why``: what it raised, or ""."""

    run: Watch
    status: int
    why: str = ""


class Finder:
    """Finds the models of a script at their first call, and its optimizers at their first step."""

    def __init__(self, run: Watch, stop_after: int | None) -> None:
        self.run, self.stop_after = run, stop_after
        self.roots: dict[int, nn.Module] = {}
        self.first = ""  # the name of the first model, which it gets when a second one is called
        self.process = os.getpid()
        self.looking: Any = register_module_forward_pre_hook(self.called)
        self.hooks = [
            register_optimizer_step_pre_hook(self.before), register_optimizer_step_post_hook(self.after),
        ]  # fmt: skip

    def called(self, module: nn.Module, args: Any) -> None:
        """Some module is called; the first that holds parameters and is part of no known one is a model."""
        if os.getpid() != self.process or any(id(module) in self._inside(root) for root in self.roots.values()):
            return
        if next(module.parameters(), None) is not None:
            model = unwrapped(module)
            if len(self.roots) == 1 and "" in self.run.watcher.table.models and not self.run.step:
                self.run.watcher.rename(self.first)
            self.roots[id(model)] = model
            name = self._name(module)
            if len(self.roots) == 1:
                self.first, name = name, ""
            self.run.add_model(name, module)
            if model is module or hasattr(module, "_orig_mod"):
                self.run.watcher.entered(model, args)  # its own hooks come too late for this call

    def _inside(self, root: nn.Module) -> set[int]:
        return {id(each) for each in root.modules()}

    def _name(self, module: nn.Module) -> str:
        """The name of the variable that holds it where it is called, or of an attribute of ``self``; else the class."""
        name = next((name for name in _names_of(module) if name != "self"), type(module).__name__)
        taken = self.run.watcher.table.models
        return name if name not in taken else f"{name}{len(taken)}"

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if os.getpid() != self.process:
            return
        known = self.run.watcher.table.holds(held(optimizer))
        if known and self.looking is not None:  # a hook on every module of the process is there while it is needed
            self.looking.remove()
            self.looking = None
        elif not known and self.looking is None:
            self.looking = register_module_forward_pre_hook(self.called)
        self.run.before_step(optimizer, args, kwargs)
        if self.stop_after is not None and self.run.step + 1 >= self.stop_after and self.run.watcher.now.stepped:
            self.run.check("stop")

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if os.getpid() != self.process:
            return
        self.run.after_step(optimizer, args, kwargs)
        if self.stop_after is not None and self.run.step >= self.stop_after:
            raise Stopped

    def remove(self) -> None:
        for hook in (*self.hooks, self.looking):
            if hook is not None:
                hook.remove()


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


def run_script(
    script: str, args: Sequence[str] = (), *, module: bool = False, every: int = 10, check_every: int | None = None,
    to: str | Path = "runs/", stop_after: int | None = None,
) -> Ending:  # fmt: skip
    """Run a Python file (or a module, with ``module``) as ``python`` would, and watch what it trains.

    What it prints, raises and returns stays its own; UnvanishError where there is no such script.
    """
    if not module and not Path(script).is_file():
        raise UnvanishError(
            f"there is no file {script!r}; write unvanish run SCRIPT.py ARGS, or -m package.module ARGS"
        )
    if module:
        with _as_main(script, args, module):
            _is_there(script)
    run = Watch(every=every, check_every=check_every, path=run_path(to), on_finding=None)
    run.file.fact(script=script, arguments=list(args))
    finder = Finder(run, stop_after)
    status, why = 0, ""
    try:
        with _as_main(script, args, module):
            if module:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script, run_name="__main__")
    except Stopped:
        why = f"stopped after {stop_after} steps"
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        status, why = 130, "interrupted"
    except BaseException as error:
        status, why = 1, f"{type(error).__name__}: {error}"
        _show(error, script)
    finally:
        finder.remove()
        run.close(why)
    return Ending(run, status, why)


@contextmanager
def _as_main(script: str, args: Sequence[str], module: bool) -> Iterator[None]:
    """``sys.argv`` and ``sys.path`` as the script would find them."""
    words, path = sys.argv, list(sys.path)
    sys.argv = [script, *args]
    sys.path.insert(0, os.getcwd() if module else str(Path(script).absolute().parent))
    if module and Path("src", script.partition(".")[0]).is_dir():  # a project that has not been installed
        sys.path.insert(1, str(Path("src").absolute()))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = words, path


def _is_there(module: str) -> None:
    """UnvanishError where Python would not find the module; its packages are imported for that."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        found = None
    if found is None:
        raise UnvanishError(
            f"there is no module {module!r} from here; go to the folder that holds {module.partition('.')[0]!r} or its"
            " src folder, or write the path of a script without -m"
        )


def _show(error: BaseException, script: str) -> None:
    """The traceback as Python would show it, without the frames that are ours."""
    trace = error.__traceback__
    while trace is not None and not _is_of(trace.tb_frame, script):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)


def _is_of(frame: FrameType, script: str) -> bool:
    return frame.f_globals.get("__name__") == "__main__" or frame.f_code.co_filename == script
