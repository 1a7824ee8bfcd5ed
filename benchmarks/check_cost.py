"""What a check costs, in training steps: time and peak memory of ``diagnose`` against a plain step in the same run.

python benchmarks/check_cost.py --save benchmarks/results/check_cost.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from networks import AS_BUILT, NETWORKS

import unvanish
from unvanish.trace.backward import walk
from unvanish.trace.capture import record

EFFORTS = ("quick", "auto", "full")
LONG = 60.0  # seconds: what takes longer is not repeated


def step(problem: unvanish.Problem) -> None:
    problem.optimizer.zero_grad()
    problem.loss(problem.outputs(problem.model)).backward()
    problem.optimizer.step()


def backward_and_walk(problem: unvanish.Problem) -> tuple[float, float]:
    value = problem.loss(problem.outputs(problem.model))
    start = time.perf_counter()
    value.backward()
    plain = time.perf_counter() - start
    problem.optimizer.zero_grad()
    capture = record(problem, problem.model)
    start = time.perf_counter()
    walk(capture, [[(capture.loss_root, torch.ones(()))]])
    return plain, time.perf_counter() - start


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_time(name: str, repeats: int) -> dict[str, float]:
    """Medians over interleaved repeats; the first of each is thrown away, unless it took longer than LONG.

    What took longer is run once, and a network whose round takes longer than LONG has fewer repeats, two at least.
    """
    torch.manual_seed(0)
    problem = NETWORKS[name]()
    stepped = copy.deepcopy(problem) if name in AS_BUILT else problem
    seconds: dict[str, list[float]] = {}
    walks: list[float] = []
    start = time.perf_counter()
    while len(walks) < 3 or (len(walks) <= repeats and time.perf_counter() - start < LONG):
        seconds.setdefault("step", []).append(timed(lambda: step(stepped)))
        for effort in EFFORTS:
            if seconds.get(effort, [0.0])[0] < LONG:
                elapsed = timed(lambda e=effort: unvanish.diagnose(problem, effort=e))
                seconds.setdefault(effort, []).append(elapsed)
        plain, walked = backward_and_walk(problem)
        walks.append(walked / plain)
    middle = {what: statistics.median(each[1:] or each) for what, each in seconds.items()}
    elapsed = {f"{e}_in_steps": middle[e] / middle["step"] for e in EFFORTS}
    return {"step_ms": 1e3 * middle["step"], **elapsed, "walk_in_backwards": statistics.median(walks[1:])}


def peak_of(name: str, what: str) -> float:
    """Peak of the resident set over its size before, in MiB, of one run in this process (Linux only)."""
    torch.manual_seed(0)
    problem = NETWORKS[name]()
    runs = {
        "step": lambda: step(problem),
        "backward": lambda: problem.loss(problem.outputs(problem.model)).backward(),
        "walk": lambda: walk_alone(problem),
        **{e: (lambda e=e: unvanish.diagnose(problem, effort=e)) for e in EFFORTS},
    }
    unvanish.diagnose(torch.nn.Linear(2, 1), torch.ones(1, 2), torch.ones(1, 1), torch.nn.functional.mse_loss)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    runs[what]()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def walk_alone(problem: unvanish.Problem) -> None:
    capture = record(problem, problem.model)
    walk(capture, [[(capture.loss_root, torch.ones(()))]])


def measure_memory(name: str, efforts: Sequence[str]) -> dict[str, float]:
    peaks = {}
    for what in ("step", "backward", "walk", *efforts):
        command = [sys.executable, __file__, "--peak", name, what]
        # Every tensor of some size is mapped and unmapped by itself, so that what is freed leaves the resident set.
        quick = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=quick)
        peaks[what] = max(1.0, float(run.stdout))
    return {
        "step_mib": peaks["step"],
        **{f"{e}_in_step_peaks": peaks[e] / peaks["step"] for e in efforts},
        "walk_in_backward_peaks": peaks["walk"] / peaks["backward"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WHAT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_of(*args.peak))
        return
    rows = {}
    for name in NETWORKS:
        times = measure_time(name, args.repeats)
        short = [e for e in EFFORTS if times[f"{e}_in_steps"] * times["step_ms"] < 1e3 * LONG]
        rows[name] = {**times, **measure_memory(name, short)}
        print(name, {k: round(v, 2) for k, v in rows[name].items()}, flush=True)
    if args.save:
        data = {**provenance(args.threads), "networks": rows}
        args.save.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
