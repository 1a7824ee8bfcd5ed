"""What a check costs by this build and by another one, in alternating turns of the same run, in training steps.

python benchmarks/check_cost_beside.py OLD/src --save benchmarks/results/check_cost_beside.json

Each build runs in a process of its own. A turn is one training step and one check of the same network by either build;
processor time of the process, medians over the turns. What other programs do on the machine meets both builds alike.
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
EFFORTS = ("quick", "auto", "full")


class Worker:
    """A process with one build and one network, which runs what it is told and says how long it took."""

    def __init__(self, source: Path, network: str, threads: int) -> None:
        command = [sys.executable, __file__, "--work", network, "--threads", str(threads)]
        surroundings = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
        )

    def run(self, what: str) -> float:
        """Seconds of processor time of one "step" or of one check of that effort."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(network: str, threads: int) -> None:
    """Answer each line of standard input with the seconds it took."""
    sys.path.insert(0, str(HERE))
    import torch
    from check_cost import step
    from networks import AS_BUILT, NETWORKS

    import unvanish

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    problem: Any = NETWORKS[network]()
    torch.manual_seed(0)
    stepped: Any = NETWORKS[network]() if network in AS_BUILT else problem
    for line in sys.stdin:
        what = line.strip()
        start = time.process_time()
        if what == "step":
            step(stepped)
        else:
            unvanish.diagnose(problem, effort=what)
        print(time.process_time() - start, flush=True)


def compare(network: str, old: Path, efforts: tuple[str, ...], turns: int, threads: int, most: float) -> dict[str, Any]:
    """Medians in training steps of either build, over the turns that fit into ``most`` seconds."""
    workers = {"old": Worker(old, network, threads), "new": Worker(HERE.parent / "src", network, threads)}
    taken: dict[tuple[str, str], list[float]] = {}
    start = time.perf_counter()
    for turn in range(turns + 1):
        for what in ("step", *efforts):
            for build in ("old", "new") if turn % 2 else ("new", "old"):
                seconds = workers[build].run(what)
                if turn:  # the first is thrown away
                    taken.setdefault((build, what), []).append(seconds)
        if turn > 1 and time.perf_counter() - start > most:
            break
    for worker in workers.values():
        worker.stop()
    middle = {key: statistics.median(each) for key, each in taken.items()}
    steps = statistics.median(taken["old", "step"] + taken["new", "step"])
    return {
        "step_ms": round(1e3 * steps, 2),
        "turns": len(taken["new", "step"]),
        **{f"{e}_{b}": round(middle[b, e] / steps, 3) for e in efforts for b in ("old", "new")},
        **{f"{e}_new_over_old": round(_paired(taken, e), 3) for e in efforts},
    }


def _paired(taken: dict[tuple[str, str], list[float]], what: str) -> float:
    """The median over the turns of new over old."""
    return statistics.median(n / o for n, o in zip(taken["new", what], taken["old", what], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, nargs="?", help="the src folder of the other build")
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=60.0, help="about the most time a network may take")
    parser.add_argument("--only", default="", help="networks whose names begin so")
    parser.add_argument("--efforts", nargs="+", default=list(EFFORTS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.threads)
        return
    sys.path.insert(0, str(HERE))
    from machine import provenance
    from networks import NETWORKS

    rows: dict[str, Any] = {}
    for name in NETWORKS:
        if name.startswith(args.only):
            rows[name] = compare(name, args.old.resolve(), tuple(args.efforts), args.turns, args.threads, args.seconds)
            print(name, rows[name], flush=True)
            if args.save:  # at once: a long run may be cut short
                args.save.write_text(json.dumps({**provenance(args.threads), "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
