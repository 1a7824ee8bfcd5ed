"""A process that begins as a copy of this one: it is there in milliseconds, with all that has been imported and built.

Only where that is safe: on Linux, while this process has no other thread of Python's that might hold a lock, and no
accelerator or other library in use whose threads a copy would lack. Elsewhere processes are started anew.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import IO, Any, NoReturn

from unvanish.workers.process import Function, answer_all, end_with, receive, send

PATIENCE = 10.0
"""Seconds in which a copy must have shown that it can work."""
THREADED = ("jax", "tensorflow")
"""Modules whose threads do not survive being copied."""


def can_fork() -> bool:
    """Whether a copy of this process can go on from here."""
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    torch = sys.modules.get("torch")
    devices = [getattr(torch, name, None) for name in ("cuda", "xpu")]
    if any(device is not None and device.is_initialized() for device in devices):
        return False
    return not any(name in sys.modules for name in THREADED)


class Forked:
    """The copy, as ``subprocess.Popen`` would show it."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._lock, self._over = threading.Lock(), False

    def kill(self) -> None:
        """End it."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._over:
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Return when it has ended."""
        with self._lock:
            if not self._over:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.pid, 0)
                self._over = True


def fork(function: Function, shared: Any, begin: Callable[[], None]) -> Forked | None:
    """A copy of this process that answers questions by ``function(shared, question)``; None where it does not work.

    ``begin`` is called in it first, and shows whether it can work.
    """
    its_end, question_end = os.pipe()
    answer_end, its_answers = os.pipe()
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # what waits in them would be written twice
            stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that are torch's own, asleep, and unused there
        pid = os.fork()
    if pid == 0:
        os.close(question_end)
        os.close(answer_end)
        _serve(parent, (its_end, its_answers), (function, shared, begin))
    os.close(its_end)
    os.close(its_answers)
    made = Forked(pid, os.fdopen(question_end, "wb"), os.fdopen(answer_end, "rb"))
    with contextlib.suppress(EOFError, OSError):
        if select.select([answer_end], [], [], PATIENCE)[0] and receive(made)[0] == "ready":
            return made
    made.kill()
    made.wait()
    made.stdin.close()
    made.stdout.close()
    return None


def _serve(parent: int, ends: tuple[int, int], work: tuple[Function, Any, Callable[[], None]]) -> NoReturn:
    """What the copy does until it is ended; it never goes back into the program that it was copied from."""
    function, shared, begin = work
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its processes
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.freeze()  # what the parent has left to collect is the parent's to collect
        os.dup2(2, 1)
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
        asked, answers = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb")
        begin()
        send(answers, ("ready", None))
        answer_all(asked, answers, function, shared)
    finally:
        os._exit(0)
