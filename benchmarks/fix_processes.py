"""How long a search takes with two processes of one machine beside one, and what stands in the way.

python benchmarks/fix_processes.py --save benchmarks/results/fix_processes.json

Searches of several lengths. First simulated: one process does the work of both, and each has a clock that runs with the
processor time of its share; one that waits for an answer of the other puts its clock forward to when that is there. So
other programs on the machine do not count, nor does what two processes take from each other (memory, caches, an import
that both make). The least is half of all the processor time. Then ``--repeats`` pairs of real searches, each in a
program of its own, with one process and with two in turn: wall time, with the load of the machine beside it.

And what no schedule can save: how much longer a plain training takes while another one runs on the other core.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

import torch  # noqa: E402
from machine import provenance  # noqa: E402

import unvanish  # noqa: E402
from unvanish import trials  # noqa: E402
from unvanish.trials import crew  # noqa: E402
from unvanish.trials.questions import Desk, answer, answered  # noqa: E402
from unvanish.trials.trial import Copies  # noqa: E402
from unvanish.trials.turns import HERE as MINE  # noqa: E402
from unvanish.trials.turns import SURE  # noqa: E402

STEPS = (400, 1_600, 4_000, 8_000)
WANTED = 0.65
OTHER = 0
ROUNDS, BURST = 24, 100


class Simulated(crew.Crew):
    """Two processes in one: the other one's answers are found here too, and each has a clock of its own.

    A clock runs with the processor time of what its process does. What the other one takes up, and when its answer is
    there, goes by the clocks: the schedule of two free cores, however busy the machine is.
    """

    def __init__(self, copies: Copies) -> None:
        stands = {key: copy.steps for key, copy in copies.trained.items()}
        super().__init__(lambda question: answered(copies, question), stands)
        self.turns.stood(OTHER, stands)
        self.other = Desk(copies.objective, copies.expected)
        self.waited = self.elsewhere = self.worked = 0.0
        self._begun = time.thread_time()
        self._free = 0.0
        self._under_way: tuple[float, Any, Any] | None = None
        with self._aside():
            for (candidate, seed), steps in stands.items():  # a copied process has them
                self.other.copies.train(self.other.copies.copy(candidate, seed), steps)

    @property
    def now(self) -> float:
        """The clock of the race's own process."""
        return time.thread_time() - self._begun + self.waited - self.elsewhere

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        before = time.thread_time()
        try:
            yield
        finally:
            self.elsewhere += time.thread_time() - before

    def _catch_up(self, until: float) -> None:
        """Let the other process work until that time of its clock."""
        while True:
            if self._under_way is not None:
                end, question, found = self._under_way
                if end > until:
                    return
                self._free, self._under_way = end, None
                self.put(OTHER, question, found)
            question = self.turns.take(OTHER, self._wanted)
            if question is None:
                self._free = max(self._free, until)
                return
            with self._aside():
                before = time.thread_time()
                found = answer(self.other, question)
                spent = time.thread_time() - before
            self.worked += spent
            self._under_way = self._free + spent, question, found

    def start(self, findings: Any, stands: Any) -> None:
        self._catch_up(self.now)
        super().start(findings, stands)
        with self._aside():
            self.other.learn(findings)

    def expect(self, questions: Any, own: Any = (), rank: int = SURE) -> None:
        self._catch_up(self.now)
        super().expect(questions, own, rank)

    def foresee(self, questions: Any, own: Any = ()) -> None:
        self._catch_up(self.now)
        super().foresee(questions, own)

    def take(self, question: Any) -> Any:
        self.expect([question])
        while question not in self._done:
            self._wanted = question
            self._catch_up(self.now)
            if question in self._done:
                break
            mine = self.turns.take(MINE, question)
            if mine is not None:
                self.put(MINE, mine, self.mine(mine))
                continue
            if self._under_way is None:
                raise RuntimeError(f"nobody answers {question}")
            self.waited += max(0.0, self._under_way[0] - self.now)
        self._wanted = None
        return self._done[question]


def searched(steps: int, workers: int) -> dict[str, Any]:
    """One search with real processes: wall and processor seconds, and the answer."""
    problem, load = problem_of(steps), os.getloadavg()[0]
    begun, spent = time.perf_counter(), time.process_time()
    found = unvanish.fix(problem, workers=workers)
    return {
        "wall_s": time.perf_counter() - begun, "own_s": time.process_time() - spent, "load": load,
        "answer": found.to_json(),
    }  # fmt: skip


def simulated(steps: int) -> dict[str, Any]:
    """One search with two simulated processes and one with one: processor seconds, and whether the answers agree."""
    problem = problem_of(steps)
    unvanish.fix(problem_of(200))  # imports and first calls
    begun = time.thread_time()
    one = unvanish.fix(problem)
    alone = time.thread_time() - begun
    made: list[Simulated] = []

    @contextlib.contextmanager
    def pair(on: str, workers: int) -> Iterator[Any]:
        del on, workers
        yield lambda copies: made.append(Simulated(copies)) or made[-1]

    kept, trials.helpers = trials.helpers, pair  # pyright: ignore[reportAttributeAccessIssue]
    begun = time.thread_time()
    two = unvanish.fix(problem)
    trials.helpers = kept
    race = made[0]
    both = time.thread_time() - begun + race.waited - race.elsewhere
    return {
        "steps": steps, "one_s": alone, "schedule_s": both, "waited_s": race.waited, "other_s": race.worked,
        "share": both / alone, "least_share": (both - race.waited + race.worked) / 2 / alone,
        "same_answer": one.to_json() == two.to_json(),
    }  # fmt: skip


def at_once() -> float:
    """How many times as long as alone a plain training takes while another process trains: median over rounds.

    A round is a burst of steps alone, then one in both processes at the same time, of which the slower one counts.
    """
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=_train_when_asked, args=(there,), daemon=True)
    other.start()
    burst, shares = _burst(), list[float]()
    burst()
    for _ in range(ROUNDS):
        alone = burst()
        here.send(True)
        mine = burst()
        shares.append(max(mine, here.recv()) / alone)
    here.send(False)
    other.join()
    return statistics.median(shares)


def _train_when_asked(pipe: Any) -> None:
    burst = _burst()
    burst()
    while pipe.recv():
        pipe.send(burst())


def _burst() -> Callable[[], float]:
    """A training that takes so many steps a call, and says how long they took."""
    import deep_sigmoid  # pyright: ignore[reportMissingImports]

    problem = problem_of(BURST)
    model, optimizer = problem.build(0)
    batches: Any = problem.train_batches
    assert optimizer is not None and batches is not None
    stream = itertools.cycle(batches)

    def burst() -> float:
        begun = time.perf_counter()
        for inputs, targets in itertools.islice(stream, BURST):
            optimizer.zero_grad()
            deep_sigmoid.F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return time.perf_counter() - begun

    return burst


def problem_of(steps: int) -> unvanish.Problem:
    """A search over a deep network of sigmoids, with a training of so many steps."""
    import deep_sigmoid  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    return replace(deep_sigmoid.problem, steps=steps)


def apart(*given: int) -> Any:
    """In a program of its own a search of so many steps, with so many processes; simulated where that is left out.

    Without any number what two trainings at once take.
    """
    command = [sys.executable, __file__, *(["--run", *map(str, given)] if given else ["--at-once"])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout)


def compared(steps: int, repeats: int) -> dict[str, Any]:
    """Pairs of searches with one process and with two, in turn."""
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for turn in range(repeats):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            found[workers].append(apart(steps, workers))
            last = found[workers][-1]
            print(steps, workers, {k: round(v, 2) for k, v in last.items() if k != "answer"}, file=sys.stderr)
    one, two = found[1], found[2]
    shares = [b["wall_s"] / a["wall_s"] for a, b in zip(one, two, strict=True)]
    return {
        **apart(steps), "pairs": repeats, "wall_share": statistics.median(shares) if shares else None,
        "same_answer_in_processes": len({row["answer"] for row in (*one, *two)}) == 1 if one else None,
        "one": [{k: v for k, v in row.items() if k != "answer"} for row in one],
        "two": [{k: v for k, v in row.items() if k != "answer"} for row in two],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--at-once", action="store_true", help="only what two trainings at once take over one alone")
    parser.add_argument("--run", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    if args.at_once:
        print(json.dumps(at_once()))
        return
    if args.run:
        print(json.dumps(searched(*args.run) if len(args.run) > 1 else simulated(*args.run)))
        return
    rows: list[dict[str, Any]] = []
    found = {**provenance(1), "wanted": WANTED, "at_once": apart(), "rows": rows}
    print(
        f"two trainings at once take {found['at_once']:.2f} times as long as one alone, load {os.getloadavg()[0]:.1f}"
    )
    for steps in args.steps:
        rows.append(compared(steps, args.repeats))
        if args.save:
            args.save.write_text(json.dumps(found, indent=1) + "\n")
    print("| steps | one process, processor time | two over one, simulated | the least | wall, two over one |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['steps']:,} | {row['one_s']:.1f} s | {row['share']:.2f} | {row['least_share']:.2f} |"
            f" {row['wall_share'] or math.nan:.2f} |"
        )


if __name__ == "__main__":
    main()
