"""A process that answers questions one by one: it may crash, hang or eat memory, and no more than its answer is lost.

It is started as a program of its own and talked to over pipes, so that a script needs no ``__main__`` guard; it ends
when its parent does, whatever it is at.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unvanish.records import UnvanishError
from unvanish.workers.memory import resident, size

Function = Callable[[Any, Any], Any]
"""What a process calls with what is shared and each question."""
OFTEN = 0.05
"""Seconds between two looks at a process: in that time it can take some hundred megabytes more."""
DIED = "the process that worked on it died (out of memory, or a crash in native code)"


@dataclass(frozen=True)
class Work:
    """What a process is for. ``function``: "module:name" of what is called with ``shared`` and each question.

    ``shared`` is pickled already, and sent once to each process.
    """

    function: str
    shared: bytes


@dataclass(frozen=True)
class Limits:
    """What one question may take: seconds, and bytes of resident memory (which are seen on Linux only)."""

    seconds: float = math.inf
    memory: float = math.inf


class Running(Protocol):
    """A process that runs, and the pipes to it: a ``subprocess.Popen``, or what looks like one."""

    pid: int
    stdin: Any
    stdout: Any

    def kill(self) -> None: ...
    def wait(self) -> Any: ...


class LostError(Exception):
    """The process ended before it answered; the message says how."""


class UnstartedError(Exception):
    """The process ended before it could be asked, which is no fault of the question."""


class ClosedError(Exception):
    """The process was closed by its owner, from another thread."""


class Process:
    """A process for some work. It is started when it is first asked, and again after it was lost.

    ``shared`` may be known only later: ``begin()`` starts the process ahead of it. ``running``: one that runs already
    and can be asked.
    """

    def __init__(self, function: str, shared: Callable[[], bytes], running: Running | None = None) -> None:
        self.function, self.shared = function, shared
        self.closed = False
        self._process = running
        self._ready = running is not None
        self._lock = threading.Lock()

    def ask(self, question: Any, limits: Limits | None = None) -> Any:
        """The answer; raises one of the three above, or what the function raised, as UnvanishError or RuntimeError."""
        said: list[str] = []
        process = None
        try:
            process = self._started()
            with _watched(process, limits or Limits(), said):
                send(process.stdin, question)
                kind, answer = receive(process)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # ValueError: another thread closed the pipe
            self._kill()
            if self.closed:
                raise ClosedError from None
            if process is None:
                raise UnstartedError(DIED) from None
            raise LostError(said[0] if said else DIED) from None
        if said:  # its time was over just when it answered
            self._kill()
        if kind == "answer":
            return answer
        raise UnvanishError(answer) if kind == "wrong" else RuntimeError(answer)

    @property
    def is_ready(self) -> bool:
        """Whether it runs and has all that it needs."""
        return self._ready and self._process is not None

    def begin(self) -> None:
        """Let it import what it needs while something else is done here."""
        with self._lock:
            if self._process is not None or self.closed:
                return
            process = self._process = _begun()
            self._ready = False
            with contextlib.suppress(OSError):  # dead already: held all the same, and lost when it is asked
                send(process.stdin, (self.function, os.getpid(), sys.path))

    def wait(self) -> None:
        """Start it, and return when it can be asked; one that dies in between is tried again when it is asked."""
        try:
            self._started()
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            self._kill()

    def close(self) -> None:
        """End it, also while another thread waits for its answer."""
        self.closed = True
        self._kill()

    def _started(self) -> Running:
        self.begin()
        process = self._process
        if process is None:
            raise ClosedError
        if not self._ready:
            send(process.stdin, self.shared())
            kind, answer = receive(process)  # only now the clock of a question may start
            if kind != "ready":
                self._kill()
                raise UnvanishError(answer)
            self._ready = True
        return process

    def _kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def _begun() -> Running:
    package = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {package!r}); import unvanish.workers.process as p; p.serve()"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip


def send(pipe: Any, what: Any) -> None:
    """Write it to the pipe at once."""
    pickle.dump(what, pipe)
    pipe.flush()


def receive(process: Running) -> tuple[str, Any]:
    """What the process says next, and of what kind it is."""
    return pickle.load(process.stdout)


@contextlib.contextmanager
def _watched(process: Running, limits: Limits, said: list[str]) -> Iterator[None]:
    """Kill it where it takes more than it may, and say so in ``said``."""
    if limits == Limits():
        yield
        return
    answered, until = threading.Event(), time.monotonic() + limits.seconds

    def look() -> None:
        while not answered.wait(OFTEN):
            if time.monotonic() > until:
                said.append(f"it took more than {limits.seconds:g} s, so its process was ended")
            elif (taken := resident(process.pid)) > limits.memory:
                said.append(f"it took {size(taken)} of memory, {size(limits.memory)} at most, so its process was ended")
            if said:
                process.kill()
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        answered.set()
        watcher.join()


def serve() -> None:
    """What a process does until its parent closes the pipe. What a user's code prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = sys.stdin.buffer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its processes
    with contextlib.suppress(EOFError, BrokenPipeError):
        named, parent, path = pickle.load(asked)
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
        sys.path[:] = [*dict.fromkeys([*sys.path, *path])]
        try:
            module, _, name = named.partition(":")
            function = getattr(importlib.import_module(module), name)
            shared = pickle.loads(pickle.load(asked))
        except EOFError:
            return
        except Exception as error:
            send(answers, ("wrong", f"a process for the work could not begin: {type(error).__name__}: {error}"))
            return
        send(answers, ("ready", None))
        answer_all(asked, answers, function, shared)


def answer_all(asked: Any, answers: Any, function: Function, shared: Any) -> None:
    """Answer each question that is read from one pipe on the other, until the first one ends."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            question = pickle.load(asked)
            try:
                found = "answer", function(shared, question)
            except UnvanishError as error:
                found = "wrong", str(error)
            except Exception:
                found = "raised", traceback.format_exc()
            send(answers, found)


def end_with(parent: int) -> None:
    """End this process when its parent has ended: at work it does not notice that nobody listens."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
