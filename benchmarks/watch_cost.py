"""What watching costs: training steps with and without, beside the naive loop and the live monitors that are installed.

python benchmarks/watch_cost.py --save benchmarks/results/watch_cost.json [--large] [--peers]

Two copies of a network are trained in turns, first both alone, then one of them watched. The cost is the ratio of the
two in the second part over that in the first: where a copy lies in memory drops out. Times are processor time of the
training's thread, which other programs on the machine disturb less than the clock; the clock's mean stands beside.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from networks import NETWORKS
from watch_peers import PEERS, Way, quiet

import unvanish
from unvanish.watching import interposed

SIZES = {"MLP": (15, 120), "small": (12, 80), "GPT 4": (8, 40), "GPT 70": (3, 20)}
"""Steps thrown away, and steps that count, in each of the two parts; a multiple of the ten steps of a sample."""


class Trained:
    """One copy of a network in training."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.problem = NETWORKS[name]()
        self.way, self.count = Way(), 0
        self.run: Any = None

    def step(self) -> tuple[float, float]:
        """Processor time and time of one step, in seconds."""
        problem, way = self.problem, self.way
        if self.run is not None:
            interposed.listen(self.run.watcher)  # the other copy's steps are not this one's
        cpu, clock = time.thread_time(), time.perf_counter()
        way.first(self.count, None)
        problem.optimizer.zero_grad()
        loss = problem.loss(problem.outputs(problem.model))
        loss.backward()
        way.before(self.count, loss)
        problem.optimizer.step()
        way.after(self.count, loss)
        spent = time.thread_time() - cpu, time.perf_counter() - clock
        self.count += 1
        if self.run is not None:
            interposed.stop_listening(self.run.watcher)
        return spent

    def watch(self, every: int) -> None:
        problem = self.problem
        self.count = 0
        self.run = unvanish.watch(problem.model, problem.optimizer, every=every, to=tempfile.mkdtemp())
        interposed.stop_listening(self.run.watcher)


def in_turns(plain: Trained, other: Trained, skipped: int, steps: int) -> list[tuple[tuple[float, float], ...]]:
    """Processor time and time of each step, both ways; the first steps are thrown away."""
    both = [(plain.step(), other.step()) for _ in range(skipped + steps)]
    return both[skipped:]


def ratios(before: list[Any], after: list[Any]) -> dict[str, float]:
    """The watched step over the plain one: mean and median of processor time, and the mean by the clock."""

    def of(rows: list[Any], which: int, kind: int, middle: Any) -> float:
        return middle([row[which][kind] for row in rows])

    found: dict[str, float] = {}
    for name, kind, middle in (
        ("mean", 0, statistics.fmean), ("median", 0, statistics.median), ("clock_mean", 1, statistics.fmean),
    ):  # fmt: skip
        found[name] = (of(after, 1, kind, middle) / of(after, 0, kind, middle)) / (
            of(before, 1, kind, middle) / of(before, 0, kind, middle)
        )
    return found


def measured(name: str, attach: Any) -> dict[str, float]:
    """The cost of one way on one network."""
    skipped, steps = next(size for key, size in SIZES.items() if name.startswith(key))
    plain, other = Trained(name), Trained(name)
    before = in_turns(plain, other, skipped, steps)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attach(other)
        after = in_turns(plain, other, 10, steps)
        (other.run.close if other.run is not None else other.way.end)()
    failed = "" if other.run is None else other.run.watcher.failed
    if failed:
        raise SystemExit(f"watching {name} failed: {failed}")
    return {"step_ms": 1e3 * statistics.median(row[0][0] for row in after), **ratios(before, after)}


def ways(peers: bool) -> dict[str, Any]:
    """What is measured, by name: ours, the naive loop, and with ``peers`` the monitors that are installed."""
    found: dict[str, Any] = {
        f"unvanish, every={every}": (lambda other, every=every: other.watch(every)) for every in (10, 1)
    }

    def attach(other: Trained, make: Any, every: int) -> None:
        other.way = make(other.problem, every)

    for name, (distribution, make, every) in PEERS.items():
        if distribution == "torch" or (peers and installed(distribution)):
            found[name] = lambda other, make=make, every=every: attach(other, make, every)
    return found


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        print(f"{distribution} is not installed: left out")
        return False
    return True


def peak_of(name: str, every: int) -> float:
    """Peak of the resident set over that before, in MiB, of a few steps in this process (Linux only)."""
    small = torch.nn.Linear(2, 2)
    with unvanish.watch(small, optimizer := torch.optim.Adam(small.parameters()), to=tempfile.mkdtemp()):
        torch.relu(small(torch.ones(1, 2))).sum().backward()  # code is loaded, which is no memory of a step
        optimizer.step()
    trained = Trained(name)
    if every:
        trained.watch(every)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(6):
        trained.step()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(name: str) -> dict[str, float]:
    """Peak memory of watched steps over that of plain ones, each in a process of its own; the least of three."""
    peaks: dict[int, float] = {}
    for every in (0, 1):
        command = [sys.executable, __file__, "--peak", name, str(every)]
        quick = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the resident set
        done = [subprocess.run(command, check=True, capture_output=True, text=True, env=quick) for _ in range(3)]
        peaks[every] = min(float(each.stdout) for each in done)
    return {"plain_mib": peaks[0], "watched_over_plain": peaks[1] / peaks[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--large", action="store_true", help="the 70 M GPT, too: few steps, minutes")
    parser.add_argument("--peers", action="store_true", help="the live monitors that are installed, too")
    parser.add_argument("--only", help="networks whose name starts so")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "EVERY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("unvanish").setLevel(logging.ERROR)
    if args.peak:
        print(peak_of(args.peak[0], int(args.peak[1])))
        return
    rows: dict[str, dict[str, Any]] = {}
    for name in [each for each in NETWORKS if each.startswith(tuple(SIZES)) and each.startswith(args.only or "")]:
        if name.startswith("GPT 70") and not args.large:
            continue
        rows[name] = {}
        for way, attach in ways(args.peers).items():
            try:
                rows[name][way] = measured(name, attach)
            except Exception as error:  # a monitor of others that breaks says so in its row
                rows[name][way] = {"error": f"{type(error).__name__}: {error}"}
            shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in rows[name][way].items()}
            print(f"{name:30} {way:26} {shown}", flush=True)
        if sys.platform == "linux":
            rows[name]["memory"] = memory(name)
            print(f"{name:30} memory {rows[name]['memory']}", flush=True)
    if args.save:
        them = sorted({each for each, _, _ in PEERS.values() if each != "torch" and args.peers and installed(each)})
        versions = {each: importlib.metadata.version(each) for each in them}
        args.save.write_text(json.dumps({**provenance(1), "peers": versions, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
