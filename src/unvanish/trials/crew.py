"""A race's questions answered by several processes at once.

The race goes its way as it would alone and says ahead what it is going to ask. Other processes answer that in the
meantime; where the race comes to a question that nobody has begun it answers it itself. So the answers are the same,
and so is every decision that rests on them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch

from unvanish.records import UnvanishError
from unvanish.trials.questions import Answer, Describe, Desk, Question, answered, asked, lost
from unvanish.trials.trial import Copies
from unvanish.workers import cluster
from unvanish.workers.pickled import pickled
from unvanish.workers.process import ClosedError, Process, Work

FUNCTION = "unvanish.trials.questions:answer"
HERE = -1
"""The number of this process among those that answer."""


class Crew:
    """Questions that are waiting, and the answers that are there. ``mine`` answers a question in this process."""

    def __init__(self, mine: Callable[[Question], Answer]) -> None:
        self.mine = mine
        self.closed = False
        self.changed = threading.Condition()
        self._waiting: dict[Question, None] = {}
        self._done: dict[Question, Answer | BaseException] = {}
        self._known: set[Question] = set()
        self._own: set[Question] = set()
        self._home: dict[tuple[Any, int], int] = {}
        self._failed: BaseException | None = None

    def expect(self, questions: Iterable[Question], own: Collection[Question] = ()) -> None:
        """Let others begin with these; those of ``own`` are left to this process, which needs their copies."""
        with self.changed:
            self._own.update(own)
            for each in questions:
                if each not in self._known:
                    self._known.add(each)
                    self._waiting[each] = None
            self.changed.notify_all()

    def take(self, question: Question) -> Answer:
        """The answer; meanwhile this process answers what nobody has begun. Raises what this process's own raised."""
        self.expect([question])
        while True:
            with self.changed:
                if question in self._done:
                    found = self._done[question]
                    if isinstance(found, BaseException):
                        raise found
                    return found
                mine = self._next(HERE, question)
                if mine is None and self._failed is not None:
                    raise self._failed
                if mine is None:
                    self.changed.wait()
                    continue
            try:
                self.put(mine, self.mine(mine))
            except Exception as error:
                self.put(mine, error)
            except BaseException:
                self.back(mine)
                raise

    def wait(self, number: int) -> Question | None:
        """What the process of that number is to do next, as soon as there is something; None when all is over."""
        with self.changed:
            while not self.closed:
                if (found := self._next(number)) is not None:
                    return found
                self.changed.wait()
        return None

    def some(self, count: int, number: int) -> list[Question]:
        """What that process is to do next, up to so many; none where nothing is waiting."""
        with self.changed:
            return [each for _ in range(count) if (each := self._next(number)) is not None]

    @property
    def waiting(self) -> int:
        """How many questions nobody has begun."""
        return len(self._waiting)

    def idle(self) -> tuple[()]:
        """Wait until there is something new."""
        with self.changed:
            if not self.closed and all(each in self._own for each in self._waiting):
                self.changed.wait()
        return ()

    def fail(self, error: BaseException) -> None:
        """The others are gone, and the race ends with this error."""
        with self.changed:
            self._failed = error
            self.changed.notify_all()

    def put(self, question: Question, answer: Answer | BaseException | None) -> None:
        """An answer has come; None: this process has to find it itself."""
        if answer is None:
            self.back(question)
            return
        with self.changed:
            self._done[question] = answer
            self.changed.notify_all()

    def back(self, question: Question) -> None:
        """Nobody else can answer this."""
        with self.changed:
            self._waiting[question] = None
            self._own.add(question)
            self.changed.notify_all()

    def _next(self, number: int, wanted: Question | None = None) -> Question | None:
        """The best question for a process: its own, one it has the copy for, one nobody has, any; descriptions last."""
        free = [each for each in self._waiting if number == HERE or each not in self._own]
        if not free:
            return None

        def rank(each: Question) -> tuple[bool, bool, bool, int]:
            home = self._home.get((each.candidate, each.seed))
            distance = 0 if home == number else 1 if home is None else 2
            return each not in self._own, each != wanted, isinstance(each, Describe), distance

        found = min(free, key=rank)
        del self._waiting[found]
        self._home[found.candidate, found.seed] = number
        return found

    def close(self) -> None:
        """No more questions."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Early:
    """Processes that import what they need before it is known what they will work on, which ``desk`` then holds."""

    def __init__(self, count: int) -> None:
        self.desk = b""
        self.processes = [Process(FUNCTION, lambda: self.desk) for _ in range(count)]
        for process in self.processes:
            process.begin()

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.close()


@contextlib.contextmanager
def helpers(on: str, workers: int) -> Iterator[Callable[[Copies], Crew | None]]:
    """What makes a crew for copies, by what ``fix`` was asked for; None where this process is to work alone.

    Processes of this machine begin at once. Raises UnvanishError where ``on`` or ``workers`` make no sense.
    """
    on_ray = cluster.is_cluster(on, "fix")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UnvanishError(f"fix(workers={workers!r}) must be a whole number, 1 at least")
    if on_ray and workers > 1:
        raise UnvanishError(
            f"fix(workers={workers}) counts processes of this machine; on={on!r} has workers of its own"
        )
    with contextlib.ExitStack() as after:
        ray = after.enter_context(cluster.connected(on)) if on_ray else None
        early = Early(workers - 1) if workers > 1 else None
        if early is not None:
            after.callback(early.close)

        def crew(copies: Copies) -> Crew | None:
            return None if early is ray is None else after.enter_context(crew_of(copies, early, ray))

        yield crew


@contextlib.contextmanager
def crew_of(copies: Copies, processes: Early | None, ray: Any = None) -> Iterator[Crew]:
    """A crew of this process and others, as far as ``with`` goes: of this machine, or of a cluster.

    All use one thread each, this one too: other numbers of threads add up sums in another order.
    """
    crew = Crew(lambda question: answered(copies, question))
    desk = pickled(Desk(copies.objective, copies.expected), "the Problem")
    if processes is not None:
        processes.desk = desk
        threads = [
            threading.Thread(target=_drive, args=(crew, number, process), daemon=True)
            for number, process in enumerate(processes.processes)
        ]
    else:
        threads = [threading.Thread(target=_drive_ray, args=(crew, ray, Work(FUNCTION, desk)), daemon=True)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for thread in threads:
            thread.start()
        yield crew
    finally:
        torch.set_num_threads(before)
        crew.close()
        if processes is not None:
            processes.close()
        for thread in threads:
            thread.join(timeout=5)


def _drive(crew: Crew, number: int, process: Process) -> None:
    while (question := crew.wait(number)) is not None:
        try:
            crew.put(question, asked(process, None, question))
        except ClosedError:
            return
        except BaseException as error:
            crew.put(question, error)


def _drive_ray(crew: Crew, ray: Any, work: Work) -> None:
    tasks = cluster.Tasks(ray, work, "unvanish.trials.questions:asked")
    try:
        while not crew.closed:
            while tasks.room() > 0 and (some := crew.some(tasks.size(crew.waiting), 0)):
                tasks.give(some)
            for question, found in tasks.collect(0.05) if tasks.running else crew.idle():
                crew.put(question, lost(question, found.said) if isinstance(found, cluster.LostJob) else found)
    except BaseException as error:
        crew.fail(error)
    finally:
        tasks.cancel()
