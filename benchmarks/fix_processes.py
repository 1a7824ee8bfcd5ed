"""How long a search takes with two processes of one machine beside one, and what stands in the way.

python benchmarks/fix_processes.py --save benchmarks/results/fix_processes.json

Searches of several lengths, each run in a program of its own, one process and two in turn. Beside the wall time, which
other programs on the machine disturb, stands what hardly depends on them: the processor time of all processes, and the
length of the schedule, in which each process's clock is its own processor time, and one that waits for another's answer
puts its clock forward to when that was there. The last column is the least that any schedule of these trials takes:
half of all processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

from machine import provenance  # noqa: E402

STEPS = (400, 1_600, 4_000, 8_000)
WANTED = 0.65


class Schedule:
    """Clocks of this process and of the one beside it that run with their processor time, while a search is held.

    ``waited``: for how long this process had nothing to do, by these clocks.
    """

    def __init__(self) -> None:
        from unvanish.trials import crew

        self.waited = self.beside = 0.0
        self._posted: dict[Any, float] = {}
        self._done: dict[Any, float] = {}
        self._clock = 0.0
        self._module = crew
        self._begun = time.thread_time()
        self._asked, self._take, self._expect = crew.asked, crew.Crew.take, crew.Crew.expect
        self._foresee, self._answered = crew.Crew.foresee, crew.answered
        self._own: set[Any] = set()

    @property
    def now(self) -> float:
        """Seconds on the clock of this process."""
        return time.thread_time() - self._begun + self.waited

    def __enter__(self) -> Schedule:
        def asked(process: Any, work: Any, question: Any) -> Any:
            before = self._spent(process)
            found = self._asked(process, work, question)
            spent = self._spent(process)
            self.beside = spent
            self._clock = max(self._clock, self._posted.get(question, 0.0)) + spent - before
            self._done[question] = self._clock
            return found

        def take(crew: Any, question: Any) -> Any:
            found = self._take(crew, question)
            if question in self._done and question not in self._own:
                self.waited += max(0.0, self._done[question] - self.now)
            return found

        def expect(crew: Any, questions: Any, own: Any = (), **more: Any) -> None:
            questions = self._noted(questions)
            self._expect(crew, questions, own, **more)

        def foresee(crew: Any, questions: Any, own: Any = ()) -> None:
            self._foresee(crew, self._noted(questions), own)

        def answered(copies: Any, question: Any) -> Any:
            self._own.add(question)
            return self._answered(copies, question)

        module: Any = self._module
        module.asked, module.answered = asked, answered
        module.Crew.take, module.Crew.expect, module.Crew.foresee = take, expect, foresee
        return self

    def __exit__(self, *_: object) -> None:
        module: Any = self._module
        module.asked, module.answered = self._asked, self._answered
        module.Crew.take, module.Crew.expect, module.Crew.foresee = self._take, self._expect, self._foresee

    def _noted(self, questions: Any) -> list[Any]:
        questions = list(questions)
        for each in questions:
            self._posted.setdefault(each, self.now)
        return questions

    @staticmethod
    def _spent(process: Any) -> float:
        """Processor seconds of that process so far, by its clock (see clock_getcpuclockid)."""
        running = process._process
        try:
            return time.clock_gettime((~running.pid << 3) | 2) if running is not None else 0.0
        except OSError:
            return 0.0


def searched(steps: int, workers: int) -> dict[str, Any]:
    """One search in this process: wall and processor seconds, the schedule, and the answer."""
    import deep_sigmoid  # pyright: ignore[reportMissingImports]
    import torch

    import unvanish

    torch.set_num_threads(1)
    problem = deep_sigmoid.problem
    problem = type(problem)(**{**vars(problem), "steps": steps})
    load, begun, spent = os.getloadavg()[0], time.perf_counter(), time.process_time()
    with Schedule() as schedule:
        found = unvanish.fix(problem, workers=workers)
        length = schedule.now
    own = time.process_time() - spent
    return {
        "wall_s": time.perf_counter() - begun, "schedule_s": length, "waited_s": schedule.waited, "own_s": own,
        "beside_s": schedule.beside, "load": load, "answer": found.to_json(),
    }  # fmt: skip


def apart(steps: int, workers: int) -> dict[str, Any]:
    """The same in a program of its own."""
    command = [sys.executable, __file__, "--run", str(steps), str(workers)]
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

    def median(rows: list[dict[str, Any]], name: str) -> float:
        return statistics.median(row[name] for row in rows)

    alone = median(one, "schedule_s")
    return {
        "steps": steps, "pairs": repeats,
        "same_answer": len({row["answer"] for row in (*one, *two)}) == 1,
        "wall_share": statistics.median(b["wall_s"] / a["wall_s"] for a, b in zip(one, two, strict=True)),
        "schedule_share": median(two, "schedule_s") / alone,
        "bound_share": statistics.median((row["own_s"] + row["beside_s"]) / 2 for row in two) / alone,
        "one": [{k: v for k, v in row.items() if k != "answer"} for row in one],
        "two": [{k: v for k, v in row.items() if k != "answer"} for row in two],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--run", type=int, nargs=2, metavar=("STEPS", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(searched(*args.run)))
        return
    rows = [compared(steps, args.repeats) for steps in args.steps]
    print("| steps | one process | wall, two over one | by processor time | half of all processor time | same answer |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        alone = statistics.median(each["schedule_s"] for each in row["one"])
        print(
            f"| {row['steps']:,} | {alone:.1f} s | {row['wall_share']:.2f} | {row['schedule_share']:.2f} |"
            f" {row['bound_share']:.2f} | {row['same_answer']} |"
        )
    if args.save:
        args.save.write_text(json.dumps({**provenance(1), "wanted": WANTED, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
