"""One process a core: each is told a stretch of points and answers with its rows.

They are started as programs of their own and talked to over pipes, so that a script needs no ``__main__`` guard, and a
worker whose parent was killed reads the end of its pipe and stops.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unvanish.population.grid import Grid
from unvanish.population.points import points
from unvanish.population.row import Row, failed
from unvanish.records import UnvanishError

DIED = "the process that worked on it died (out of memory, or a crash in native code)"
Stretch = tuple[int, int]


def cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def results(grid: Grid, stretches: Iterator[Stretch], count: int) -> Iterator[tuple[int, list[Row]]]:
    """First point and rows of each stretch, in the order in which they are done.

    A stretch whose worker dies is tried again, then cut in halves; a single point that kills its worker twice is
    recorded as such.
    """
    done: queue.Queue[tuple[int, list[Row]] | BaseException | None] = queue.Queue(maxsize=2 * count)
    lock, stop = threading.Lock(), threading.Event()
    crew = [_Worker(grid) for _ in range(count)]

    def put(what: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                done.put(what, timeout=0.2)
                return

    def drive(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                with lock:
                    stretch = next(stretches, None)
                if stretch is None:
                    break
                put((stretch[0], worker.lasting(*stretch, stop)))
        except BaseException as error:
            put(error)
        put(None)

    threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < count:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                ended += 1
            else:
                yield found
    finally:
        stop.set()
        for worker in crew:
            worker.kill()
        for thread in threads:
            thread.join(timeout=5)


class _Worker:
    """A process that answers; it is started when it is first asked, and again after it has died."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.process: subprocess.Popen[bytes] | None = None

    def lasting(self, start: int, stop: int, ended: threading.Event) -> list[Row]:
        """The rows of a stretch, whatever becomes of the process."""
        for _ in range(2):
            try:
                return self._ask(start, stop)
            except (EOFError, OSError, pickle.UnpicklingError):
                self.kill()
                if ended.is_set():
                    return []
        if stop - start > 1:
            middle = (start + stop) // 2
            return self.lasting(start, middle, ended) + self.lasting(middle, stop, ended)
        settings = points(self.grid, start, stop)[0]
        return [(start, seed, *settings.values(), *failed(DIED)) for seed in range(self.grid.seeds)]

    def _ask(self, start: int, stop: int) -> list[Row]:
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        pickle.dump((start, stop), self.process.stdin)
        self.process.stdin.flush()
        answer = pickle.load(self.process.stdout)
        if isinstance(answer, str):
            raise UnvanishError(answer)
        return answer

    def _start(self) -> None:
        package = str(Path(__file__).parents[2])
        program = f"import sys; sys.path.insert(0, {package!r}); import unvanish.population.workers as w; w.serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdin is not None
        pickle.dump(self.grid, self.process.stdin)
        self.process.stdin.flush()

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def serve() -> None:
    """What a worker does until its parent closes the pipe. What a user's code prints goes to standard error."""
    from unvanish.population.work import rows

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = sys.stdin.buffer
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        grid: Grid = pickle.load(asked)
        while True:
            start, stop = pickle.load(asked)
            try:
                found: list[Row] | str = rows(grid, start, stop)
            except UnvanishError as error:
                found = str(error)
            pickle.dump(found, answers)
            answers.flush()
