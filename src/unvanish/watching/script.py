"""A training script that does not know of us, run and watched: models and optimizers are found when they are used."""

from __future__ import annotations

import importlib.util
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from unvanish.records import UnvanishError
from unvanish.watching.finder import Finder, Stopped
from unvanish.watching.given import INTERRUPTED, ended_by, run_path
from unvanish.watching.watch import Watch


@dataclass(frozen=True)
class Ending:
    """How a script ended. ``status``: its exit status; ``why``: what it raised, or ""."""

    run: Watch
    status: int
    why: str = ""

    @property
    def ours(self) -> bool:
        """Whether this process writes: neither a further one of several, nor a child that the script has forked."""
        return self.run.first and self.run.watcher.process == os.getpid()


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
    left: Any = None  # what the script has left, which Python keeps until the program ends: it is looked at then
    try:
        with _as_main(script, args, module), _findings_on_stderr():
            if module:
                left = runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                left = runpy.run_path(script, run_name="__main__")
    except Stopped as stop:
        left = stop
        why = f"stopped after {stop_after} steps"
    except SystemExit as stop:
        left = stop
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt as stop:
        left = stop
        status, why = 130, INTERRUPTED
    except BaseException as error:
        left, status, why = error, 1, ended_by(error)
        _show(error, script)
    finally:
        finder.remove()
        with _findings_on_stderr():
            run.close(why, fails=status not in (0, 130))
        del left
    return Ending(run, status, why)


@contextmanager
def _as_main(script: str, args: Sequence[str], module: bool) -> Iterator[None]:
    """``sys.argv`` and ``sys.path`` as the script would find them."""
    words, path, alias = sys.argv, list(sys.path), sys.modules.get("__mp_main__")
    sys.argv = [script, *args]
    sys.modules["__mp_main__"] = _Main("__mp_main__")
    sys.path.insert(0, os.getcwd() if module else str(Path(script).absolute().parent))
    if module and Path("src", script.partition(".")[0]).is_dir():  # a project that has not been installed
        sys.path.insert(1, str(Path("src").absolute()))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = words, path
        del sys.modules["__mp_main__"]
        if alias is not None:
            sys.modules["__mp_main__"] = alias


class _Main(ModuleType):
    """The script by its other name, under which a spawned process sends back objects of the script's own classes.

    ``multiprocessing`` gave that name to what was ``__main__`` when it was imported, which was us.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["__main__"], name)


@contextmanager
def _findings_on_stderr() -> Iterator[None]:
    """What we find goes to standard error, also where the script sends its own log elsewhere."""
    log, handler = logging.getLogger("unvanish"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("unvanish: %(message)s"))
    spreads, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = spreads


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
