"""Many jobs over the processes of this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from unvanish.workers.process import Process, Work

Job = TypeVar("Job")
Answer = TypeVar("Answer")


def cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def answers(work: Work, do: Callable[[Process, Job], Answer], jobs: Iterator[Job], count: int) -> Iterator[Answer]:
    """What ``do(process, job)`` returns for each job, in the order in which they are done, by ``count`` processes.

    What it raises is raised here, and ends all of them.
    """
    done: queue.Queue[tuple[bool, Any] | None] = queue.Queue(maxsize=2 * count)
    lock, stop = threading.Lock(), threading.Event()
    crew = [Process(work.function, lambda: work.shared) for _ in range(count)]

    def put(what: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                done.put(what, timeout=0.2)
                return

    def drive(process: Process) -> None:
        try:
            while not stop.is_set():
                with lock:
                    job = next(jobs, stop)
                if job is stop:
                    break
                put((True, do(process, job)))  # pyright: ignore[reportArgumentType]
        except BaseException as error:  # also that it was closed, which nobody waits to hear
            put((False, error))
        put(None)

    threads = [threading.Thread(target=drive, args=(process,), daemon=True) for process in crew]
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < count:
            found = done.get()
            if found is None:
                ended += 1
            elif found[0]:
                yield found[1]
            else:
                raise found[1]
    finally:
        stop.set()
        for process in crew:
            process.close()
        for thread in threads:
            thread.join(timeout=5)
