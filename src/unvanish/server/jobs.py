"""Experiments that take a while: run in threads, followed from a page, stopped when nobody waits for them."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from unvanish.lab import Stopped
from unvanish.records import UnvanishError

AT_ONCE = 2
WAITING = 8
KEPT = 32
LONGEST = 600.0
"""Seconds an experiment may take; what is done by then is its result."""
ALONE = 10.0
"""Seconds without anybody following after which an experiment is stopped."""

Work = Callable[[Callable[[float, str], None]], Any]


@dataclass
class Job:
    """One experiment on its way: how much is done, and in the end its result or the error."""

    id: str
    share: float = 0.0
    what: str = "waiting"
    followers: int = 0
    left_at: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[Any] | None = None

    @property
    def finished(self) -> bool:
        return self.future is not None and self.future.done()

    def progress(self, started: float) -> Callable[[float, str], None]:
        """What the experiment calls now and then; raises Stopped where it should end."""

        def report(share: float, what: str) -> None:
            self.share, self.what = share, what
            now = time.monotonic()
            if self.stop.is_set() or now - started > LONGEST or (not self.followers and now - self.left_at > ALONE):
                raise Stopped

        return report


class Jobs:
    """The jobs of one server: a few at a time, a few waiting, and the results of the last ones."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lab")
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(self, work: Work) -> Job:
        """Put the work in the queue; UnvanishError where the queue is full."""
        if sum(not job.finished for job in self._jobs.values()) >= AT_ONCE + WAITING:
            raise UnvanishError("the lab is busy: wait for an experiment to end, or stop one")
        job = Job(secrets.token_urlsafe(12))
        job.future = self._pool.submit(lambda: work(job.progress(time.monotonic())))
        self._jobs[job.id] = job
        for old in [each for each in self._jobs.values() if each.finished][: max(0, len(self._jobs) - KEPT)]:
            del self._jobs[old.id]
        return job

    def get(self, name: str) -> Job:
        """The job of that name; UnvanishError where there is none (any more)."""
        if name not in self._jobs:
            raise UnvanishError("there is no such experiment under way; start it again")
        return self._jobs[name]

    def close(self) -> None:
        """Stop everything that is under way."""
        for job in self._jobs.values():
            job.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
