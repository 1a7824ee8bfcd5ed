"""What watching costs: training steps with and without, beside the naive loop and the live monitors that are installed.

python benchmarks/watch_cost.py --save benchmarks/results/watch_cost.json [--large] [--peers]

Two copies of a network are trained in turns, first both alone, then one of them watched. The cost is the ratio of the
two in the second part over that in the first: where a copy lies in memory drops out. Times are processor time of the
training's thread, which other programs on the machine disturb less than the clock; the clock's mean stands beside.

Under glibc's own settings a step of these networks gives memory back and fetches it again, in 700 to 4,000 page faults
that come and go with whatever else is held: more than there is to measure, and of either sign. So memory is kept here
(MALLOC_TRIM_THRESHOLD_ and others, for all ways alike); --as-is leaves it as it is.
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
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance
from networks import NETWORKS
from watch_peers import PEERS, Way, quiet

import unvanish
from unvanish.watching import interposed

SIZES = {"MLP": (10, 120), "small": (10, 80), "GPT 4": (5, 40), "GPT 70": (1, 10)}
"""Steps thrown away, and steps that count, in each of the two parts; a multiple of the ten steps of a sample."""


KEPT = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "64000000"}


class Trained:
    """One copy of a network in training."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.problem: Any = NETWORKS[name]()
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


def peak_of(name: str, every: int) -> dict[str, float]:
    """Of a training of four steps in this process the most memory that tensors held, and all else, in MiB (Linux only).

    Tensors by torch's own account: weights, optimizer, gradients, activations. All else is what the process itself
    holds: the resident set without the files that are mapped, which are libraries and grow with what was ever called.
    """
    small = torch.nn.Linear(2, 2)
    with unvanish.watch(small, optimizer := torch.optim.Adam(small.parameters()), to=tempfile.mkdtemp()):
        torch.relu(small(torch.ones(1, 2))).sum().backward()  # code is loaded, which is no memory of a step
        optimizer.step()
    before = resident("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    _four_steps(name, every)
    all_of_it = resident("VmHWM") - resident("RssFile") - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        _four_steps(name, every)
    trace = Path(tempfile.mkdtemp()) / "trace.json"
    seen.export_chrome_trace(str(trace))
    held = [each["args"] for each in json.loads(trace.read_text())["traceEvents"] if each.get("name") == "[memory]"]
    return {"tensors": max(each["Total Allocated"] for each in held) / 2**20, "all": all_of_it / 1024}


def _four_steps(name: str, every: int) -> None:
    trained = Trained(name)
    if every:
        trained.watch(every)
    for _ in range(4):
        trained.step()
    if every:
        trained.run.close()


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(name: str) -> dict[str, float]:
    """Peak memory of watched steps and of plain ones, in MiB, each in a process of its own; the least of three."""
    peaks: dict[int, dict[str, float]] = {}
    for every in (0, 1):
        command = [sys.executable, __file__, "--peak", name, str(every)]
        quick = {key: value for key, value in os.environ.items() if key not in KEPT}
        quick["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed leaves the resident set
        done = [subprocess.run(command, check=True, capture_output=True, text=True, env=quick) for _ in range(3)]
        each = [json.loads(one.stdout) for one in done]
        peaks[every] = {key: min(one[key] for one in each) for key in each[0]}
    plain, watched = peaks[0], peaks[1]
    beside = (watched["all"] - watched["tensors"]) - (plain["all"] - plain["tensors"])
    return {"plain_mib": plain["tensors"], "watched_mib": watched["tensors"], "beside_tensors_mib": beside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--large", action="store_true", help="the 70 M GPT, too: few steps, no peers, minutes")
    parser.add_argument("--peers", action="store_true", help="the live monitors that are installed, too")
    parser.add_argument("--only", help="networks whose name starts so")
    parser.add_argument("--as-is", action="store_true", help="leave the settings of the allocator as they are")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "EVERY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("unvanish").setLevel(logging.ERROR)
    if args.peak:
        print(json.dumps(peak_of(args.peak[0], int(args.peak[1]))))
        return
    if not args.as_is and any(os.environ.get(key) != value for key, value in KEPT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
    rows: dict[str, dict[str, Any]] = {}
    them = sorted({each for each, _, _ in PEERS.values() if each != "torch" and args.peers and installed(each)})
    versions = {each: importlib.metadata.version(each) for each in them}
    loads = [os.getloadavg()[0]]  # that of others on this machine as well
    head = {**provenance(1), "peers": versions, "load": loads, "memory_kept": not args.as_is}
    for name in [each for each in NETWORKS if each.startswith(tuple(SIZES)) and each.startswith(args.only or "")]:
        if name.startswith("GPT 70") and not args.large:
            continue
        rows[name] = {}
        for way, attach in ways(args.peers and not name.startswith("GPT 70")).items():
            try:
                rows[name][way] = measured(name, attach)
            except Exception as error:  # a monitor of others that breaks says so in its row
                rows[name][way] = {"error": f"{type(error).__name__}: {error}"}
            shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in rows[name][way].items()}
            print(f"{name:30} {way:26} {shown}", flush=True)
            if args.save:  # what is measured so far
                args.save.write_text(json.dumps({**head, "networks": rows}, indent=1) + "\n")
        loads.append(os.getloadavg()[0])
        if sys.platform == "linux":
            rows[name]["memory"] = memory(name)
            print(f"{name:30} memory {rows[name]['memory']}", flush=True)
    if args.save:
        args.save.write_text(json.dumps({**head, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
