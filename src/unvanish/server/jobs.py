"""What takes a while: run in threads, followed from a page, stopped when nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from unvanish.lab import Stopped
from unvanish.records import UnvanishError

AT_ONCE = 2
WAITING = 8
KEPT = 32
LONGEST = 600.0
"""Seconds an experiment may take; what is done by then is its result."""
ALONE = 10.0
"""Seconds without anybody following after which an experiment is stopped."""

TICK = 0.15
"""Seconds between two looks at how far a job is."""

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


async def events(job: Job, encode: Callable[[Any], bytes]) -> AsyncGenerator[str, None]:
    """Server-sent events: progress, then one of result or problem. Ends when the visitor leaves."""
    job.followers += 1
    sent: tuple[float, str] | None = None
    try:
        while not job.finished:
            if (job.share, job.what) != sent:
                sent = (job.share, job.what)
                yield _event("progress", {"share": job.share, "what": job.what})
            await asyncio.sleep(TICK)
        assert job.future is not None
        if job.future.cancelled():
            yield _event("problem", {"error": "stopped before anything was done"})
        elif (error := job.future.exception()) is None:
            yield _event("result", await run_in_threadpool(encode, job.future.result()))
        else:
            yield _event("problem", {"error": _reason(error)})
    finally:
        job.followers -= 1
        job.left_at = time.monotonic()


def _event(name: str, data: Any) -> str:
    text = data.decode() if isinstance(data, bytes) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"


def _reason(error: BaseException) -> str:
    if isinstance(error, Stopped):
        return "stopped before anything was done"
    return str(error) if isinstance(error, UnvanishError) else f"{type(error).__name__}: {error}"
