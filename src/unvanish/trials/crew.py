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

from unvanish.records import Finding, UnvanishError
from unvanish.trials.questions import Ahead, Answer, Desk, Learn, Question, answer, answered, asked, lost
from unvanish.trials.trial import Copies, Objective
from unvanish.trials.turns import HERE, SURE, Place, Turns
from unvanish.workers import cluster
from unvanish.workers.forked import can_fork, fork
from unvanish.workers.pickled import pickled
from unvanish.workers.process import ClosedError, LostError, Process, UnstartedError, Work

FUNCTION = "unvanish.trials.questions:answer"
POOL = 0
"""The number of a cluster, which keeps no copies from task to task."""


class Crew:
    """Questions that are waiting, and the answers that are there. ``mine`` answers a question in this process.

    ``stands``: how far copies in this process have been trained. ``forgetful``: numbers of those that keep none.
    """

    def __init__(
        self,
        mine: Callable[[Question], Answer],
        stands: dict[Place, int] | None = None,
        forgetful: Collection[int] = (),
    ) -> None:
        self.mine = mine
        self.closed = False
        self.changed = threading.Condition()
        self.turns = Turns(forgetful)
        self.turns.stood(HERE, stands or {})
        self._done: dict[Question, Answer | BaseException] = {}
        self._known: set[Question] = set()
        self._wanted: Question | None = None
        self._failed: BaseException | None = None
        self.learnt: Learn | None = None

    def start(self, findings: tuple[Finding, ...], stands: dict[Place, int]) -> None:
        """The race begins: the others learn what the probe has found before they answer anything else.

        ``stands``: how far copies in this process have been trained by now.
        """
        with self.changed:
            self.learnt = Learn(findings)
            self.turns.stood(HERE, stands)

    def expect(self, questions: Iterable[Question], own: Collection[Question] = (), rank: int = SURE) -> None:
        """Let others begin with these; those of ``own`` are left to this process, which needs their copies."""
        with self.changed:
            for each in questions:
                if each not in self._known:
                    self._known.add(each)
                    self.turns.add(each, rank, each in own)
            self.changed.notify_all()

    def foresee(self, questions: Iterable[Ahead], own: Collection[Ahead] = ()) -> None:
        """Trainings to go ahead with where nothing is sure to be needed; they take the place of those said before."""
        with self.changed:
            self.turns.foresee(questions, own)
            self.changed.notify_all()

    def take(self, question: Question) -> Answer:
        """The answer; meanwhile this process answers what nobody has begun. Raises what this process's own raised."""
        self.expect([question])
        while True:
            with self.changed:
                if question in self._done:
                    self._wanted = None
                    answer = self._done[question]
                    if isinstance(answer, BaseException):
                        raise answer
                    return answer
                self._wanted = question
                mine = self.turns.take(HERE, question)
                if mine is None and self._failed is not None:
                    raise self._failed
                if mine is None:
                    self.changed.notify_all()  # it has become urgent
                    self.changed.wait()
                    continue
            try:
                self.put(HERE, mine, self.mine(mine))
            except Exception as error:
                self.put(HERE, mine, error)
            except BaseException:
                self.put(HERE, mine, None)
                raise

    def wait(self, number: int) -> Question | None:
        """What the process of that number is to do next, as soon as there is something; None when all is over."""
        with self.changed:
            while not self.closed:
                if (question := self.turns.take(number, self._wanted)) is not None:
                    return question
                self.changed.wait()
        return None

    def some(self, count: int, number: int) -> list[Question]:
        """What that process is to do next, up to so many; none where nothing is waiting."""
        with self.changed:
            return [each for _ in range(count) if (each := self.turns.take(number, self._wanted)) is not None]

    @property
    def waiting(self) -> int:
        """How many questions nobody has begun."""
        return len(self.turns)

    def idle(self, number: int) -> tuple[()]:
        """Wait until there is something new for that process."""
        with self.changed:
            if not self.closed and self.turns.next(number, self._wanted) is None:
                self.changed.wait()
        return ()

    def fail(self, error: BaseException) -> None:
        """The others are gone, and the race ends with this error."""
        with self.changed:
            self._failed = error
            self.changed.notify_all()

    def gone(self, number: int) -> None:
        """A process will answer no more."""
        with self.changed:
            self.turns.gone(number)
            self.changed.notify_all()

    def put(self, number: int, question: Question, answer: Answer | BaseException | None) -> None:
        """A process has answered; None: this process has to find the answer itself."""
        with self.changed:
            self.turns.answered(number, question, answer.steps if isinstance(answer, Answer) else 0)
            if isinstance(question, Ahead):
                pass
            elif answer is None:
                self.turns.add(question, SURE, own=True)
            else:
                self._done[question] = answer
            self.changed.notify_all()

    def close(self) -> None:
        """No more questions."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Helpers:
    """Processes of this machine beside this one: copies of it, where it can be copied, else started anew.

    The latter import what they need before it is known what they will work on, which ``desk`` then holds.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.desk: Callable[[], bytes] = bytes
        self.processes: list[Process] = []
        if not can_fork():
            self._start()

    def give(self, copies: Copies) -> None:
        """Let all of them work on these copies."""
        sent: dict[int, tuple[Objective, bytes]] = {}

        def desk() -> bytes:
            objective = copies.objective  # what the probe finds changes it
            if not sent or sent[0][0] is not objective:
                sent[0] = objective, pickled(Desk(objective, copies.expected), "the Problem")
            return sent[0][1]

        self.desk = desk
        if not self.processes and can_fork():
            ready = Desk(copies.objective, copies.expected)
            ready.copies = copies
            made = [fork(answer, ready, _begun) for _ in range(self.count)]
            self.processes = [
                Process(FUNCTION, lambda: self.desk(), running) for running in made if running is not None
            ]
        if not self.processes:
            self._start()
        if not all(process.is_ready for process in self.processes):
            self.desk()  # what cannot be sent is said here

    def _start(self) -> None:
        self.processes = [Process(FUNCTION, lambda: self.desk()) for _ in range(self.count)]
        for process in self.processes:
            process.begin()

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.close()


def _begun() -> None:
    """One thread, and a pass back and forth to see that nothing waits for a thread that a copy lacks."""
    torch.set_num_threads(1)
    weight = torch.ones(8, 8, requires_grad=True)
    (weight @ weight).sum().backward()


@contextlib.contextmanager
def helpers(on: str, workers: int) -> Iterator[Callable[[Copies], Crew | None]]:
    """What makes a crew for copies, by what ``fix`` was asked for; None where this process is to work alone.

    Raises UnvanishError where ``on`` or ``workers`` make no sense.
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
        local = Helpers(workers - 1) if workers > 1 else None
        if local is not None:
            after.callback(local.close)

        def crew(copies: Copies) -> Crew | None:
            return None if local is ray is None else after.enter_context(crew_of(copies, local, ray))

        yield crew


@contextlib.contextmanager
def crew_of(copies: Copies, local: Helpers | None, ray: Any = None) -> Iterator[Crew]:
    """A crew of this process and others, as far as ``with`` goes: of this machine, or of a cluster.

    All use one thread each, this one too: other numbers of threads add up sums in another order.
    """
    stands = {key: copy.steps for key, copy in copies.trained.items()}
    crew = Crew(lambda question: answered(copies, question), stands, () if local is not None else (POOL,))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    threads: list[threading.Thread] = []
    try:
        if local is not None:
            local.give(copies)
            for number, process in enumerate(local.processes):
                crew.turns.stood(number, stands if process.is_ready else {})
                threads.append(threading.Thread(target=_drive, args=(crew, number, process), daemon=True))
        else:
            work = Work(FUNCTION, pickled(Desk(copies.objective, copies.expected), "the Problem"))
            threads.append(threading.Thread(target=_drive_ray, args=(crew, ray, work), daemon=True))
        for thread in threads:
            thread.start()
        yield crew
    finally:
        torch.set_num_threads(before)
        crew.close()
        if local is not None:
            local.close()
        for thread in threads:
            thread.join(timeout=5)


def _drive(crew: Crew, number: int, process: Process) -> None:
    known: Learn | None = None
    while (question := crew.wait(number)) is not None:
        try:
            if (news := crew.learnt) is not None and news is not known:
                with contextlib.suppress(LostError, UnstartedError):  # it is started again with all that is known
                    process.ask(news)
                known = news
            crew.put(number, question, asked(process, None, question))
        except ClosedError:
            return
        except BaseException as error:
            crew.put(number, question, error)


def _drive_ray(crew: Crew, ray: Any, work: Work) -> None:
    tasks = cluster.Tasks(ray, work, "unvanish.trials.questions:asked")
    try:
        while not crew.closed:
            while tasks.room() > 0 and (some := crew.some(tasks.size(crew.waiting), POOL)):
                tasks.give(some)
            for question, answer in tasks.collect(0.05) if tasks.running else crew.idle(POOL):
                crew.put(POOL, question, lost(question, answer.said) if isinstance(answer, cluster.LostJob) else answer)
    except BaseException as error:
        crew.fail(error)
    finally:
        tasks.cancel()
