"""Jobs on Ray: several in a task, so that a task is worth its price; a task whose worker was lost is given out again.

Inside a task a process of its own does the work, as on one machine: what it crashes, hangs or eats does not touch Ray's
worker, and is recorded in the same words.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unvanish.records import UnvanishError
from unvanish.workers.process import Process, Work

Job = TypeVar("Job")
TASK = 2.0
"""Seconds of work in one task: what a lost worker costs, and a thousand times what giving a task out does."""
AHEAD = 2
"""Tasks given out for each core, so that none waits for the driver."""
TRIES = 4
"""How often a job is given out whose workers are lost; the first two times with its neighbours."""
STORE = 128 * 2**20
"""Bytes of shared memory for a cluster of our own: the least that Ray is at ease with, and far more than is used."""


class LostJob:
    """The answer for a job whose workers were lost every time; ``said``: what Ray said of the last."""

    def __init__(self, said: str) -> None:
        self.said = said


@dataclass(frozen=True)
class Parcel:
    """What the tasks of one piece of work have in common; it is put into Ray's store once.

    ``do``: "module:name" of what is called with a Process, the work and a job. ``version``: the driver's unvanish.
    ``path``: where the driver finds modules, which a worker on the same machine or file system then finds too.
    """

    work: Work
    do: str
    version: str
    path: tuple[str, ...]


def is_cluster(on: str, what: str) -> bool:
    """Whether ``on`` names a Ray cluster; UnvanishError where it is neither that nor "local"."""
    if on == "local":
        return False
    if on == "ray" or on.startswith("ray://"):
        return True
    raise UnvanishError(f"{what}(on={on!r}): it runs on 'local', this machine, on 'ray', or on 'ray://HOST:PORT'")


@contextlib.contextmanager
def connected(on: str, folder: Path | None = None) -> Iterator[Any]:
    """The module ray, connected to a cluster: the one the caller has connected to, one that runs, or one of our own.

    ``folder``: files of the user's that the work needs; they are sent along to a cluster that is reached from outside.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about this machine is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnvanishError(f"on={on!r} needs Ray, which is not installed: pip install 'unvanish[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if on != "ray":
            packed: dict[str, Any] = {} if folder is None else {"runtime_env": {"working_dir": str(folder)}}
            ray.init(on, **quiet, **packed)
        else:
            try:
                ray.init("auto", **quiet)
            except ConnectionError:
                ray.init("local", include_dashboard=False, object_store_memory=STORE, **quiet)
    except Exception as error:
        token = "" if on == "ray" else "; a cluster with tokens wants RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"
        raise UnvanishError(f"on={on!r}: Ray could not be reached: {type(error).__name__}: {error}{token}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def answers(ray: Any, work: Work, do: str, jobs: Iterator[Job], total: int) -> Iterator[tuple[Job, Any]]:
    """Each job and what ``do(process, work, job)`` returned for it, or a LostJob, in the order in which they are done.

    ``total``: how many jobs there are. What it raises is raised here, and ends all of them.
    """
    tasks, left = Tasks(ray, work, do), total
    try:
        while True:
            while tasks.room() > 0:
                some = [job for _, job in zip(range(tasks.size(left)), jobs, strict=False)]
                if not some:
                    break
                left -= len(some)
                tasks.give(some)
            if not tasks.running:
                return
            yield from tasks.collect()
    finally:
        tasks.cancel()


class Tasks:
    """The tasks of one piece of work that are out on a cluster, and how large the next one should be."""

    def __init__(self, ray: Any, work: Work, do: str) -> None:
        from unvanish import __version__

        self.ray = ray
        self.parcel = ray.put(Parcel(work, do, __version__, tuple(sys.path)))
        self.remote = ray.remote(num_cpus=1, max_retries=0)(_task)
        self.running: dict[Any, tuple[Sequence[Any], int]] = {}
        self.jobs, self.seconds = 0, 0.0
        self._cores, self._asked = 1, 0.0

    def cores(self) -> int:
        """The cores of the cluster, which may grow or shrink meanwhile."""
        if not self._asked or time.monotonic() - self._asked > 2.0:
            self._cores = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
            self._asked = time.monotonic()
        return self._cores

    def room(self) -> int:
        """How many more tasks may be given out now."""
        return AHEAD * self.cores() - len(self.running)

    def size(self, left: int) -> int:
        """Jobs of the next task: about two seconds of them, and at the end so few that all cores end together."""
        fit = int(TASK * self.jobs / self.seconds) if self.seconds > 0 else 1
        return max(1, min(fit, left // (AHEAD * self.cores())))

    def give(self, jobs: Sequence[Any], tries: int = 1) -> None:
        """Give these out as one task."""
        self.running[self.remote.remote(self.parcel, jobs)] = jobs, tries

    def collect(self, seconds: float = 1.0) -> list[tuple[Any, Any]]:
        """Jobs and answers of a task that is done; none where there is none within so many seconds.

        Where its worker was lost its jobs are given out again, one by one after the second time.
        """
        done, _ = self.ray.wait(list(self.running), timeout=seconds)
        if not done:
            return []
        jobs, tries = self.running.pop(done[0])
        try:
            found, spent = _got(self.ray, done[0])
        except _LostTaskError as error:
            if tries >= TRIES:
                return [(job, LostJob(str(error))) for job in jobs]
            for part in [jobs] if tries < 2 else [[job] for job in jobs]:
                self.give(part, tries + 1)
            return []
        self.jobs, self.seconds = self.jobs + len(jobs), self.seconds + spent
        return list(zip(jobs, found, strict=True))

    def cancel(self) -> None:
        """End what is still out."""
        for task in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(task, force=True)


class _LostTaskError(Exception):
    """The worker of a task ended before it answered."""


def _got(ray: Any, task: Any) -> tuple[list[Any], float]:
    """The answers of a task and the seconds they took."""
    errors = ray.exceptions
    try:
        return ray.get(task)
    except errors.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UnvanishError):
            raise UnvanishError(str(cause)) from None
        raise RuntimeError(f"a task on Ray raised {error}") from None
    except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError, errors.NodeDiedError) as error:
        raise _LostTaskError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from None


_held: list[tuple[Work, Process]] = []
"""The process of this worker of Ray's, kept from task to task."""


def _task(parcel: Parcel, jobs: Sequence[Any]) -> tuple[list[Any], float]:
    """What runs in a worker of Ray's: the answers for some jobs, and the seconds they took."""
    from unvanish import __version__

    if parcel.version != __version__:
        raise UnvanishError(
            f"unvanish {parcel.version} runs here and {__version__} on a node of the cluster; install the same on both"
        )
    sys.path += [folder for folder in parcel.path if folder not in sys.path]
    if not _held or _held[0][0] != parcel.work:
        for _, process in _held:
            process.close()
        process = Process(parcel.work.function, lambda: parcel.work.shared)
        process.wait()
        _held[:] = [(parcel.work, process)]
    module, _, name = parcel.do.partition(":")
    do, process = getattr(importlib.import_module(module), name), _held[0][1]
    begun = time.monotonic()
    found = [do(process, parcel.work, job) for job in jobs]
    return found, time.monotonic() - begun
