"""How a sweep scales over Ray's workers on one machine, and what a cluster would do.

python benchmarks/sweep_ray.py --save benchmarks/results/sweep_ray.json

Scaling: one grid on Ray with one worker and with two, in turn, their processes started beforehand. Price of a chunk:
tasks that answer at once with as many rows as those of a real chunk, which the driver writes to its file. The estimate
for more workers follows from the two and is none of a measurement. Wall time, so other programs on the machine count:
the load is written down beside the numbers. `busy` hardly depends on it: the share of the wall time in which a worker
had a task. For searches see `fix_processes.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from machine import provenance  # noqa: E402

GRID: dict[str, Any] = {
    "grid": {"weight_variance": [0.5 + 0.00125 * at for at in range(2_400)]},
    "fixed": {"depth": 50, "width": 128},
    "run": {"seeds": 10},
}
WANTED = {"scaling of a sweep": 1.7}
WORKERS = (10, 100, 1_000)
SMALL, LARGE, EMPTY = 100, 4_000, 200
"""Rows of two chunks, and tasks over which the price of each is taken."""
KINDS = {"a small network, 1 ms": 0.001, "a check of a network of your own, 10 ms": 0.01, "a training, 1 s": 1.0}
"""Seconds of networks for which the estimate is made besides those that are measured."""


def answered_at_once(process: Any, work: Any, job: tuple[int, int]) -> list[tuple[Any, ...]]:
    """What a worker does where only the price of a task is asked for: as many rows as a chunk has."""
    del process, work
    start, rows = job
    numbers = [-0.123456789012] * 5
    return [(start + at, 0, 1.0 + at / 7, -1.23456789 * at, *numbers, "healthy", *[None] * 3, "") for at in range(rows)]


def begin(cpus: int) -> Any:
    """A cluster of so many workers on this machine."""
    import ray  # pyright: ignore[reportMissingImports]

    ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return ray


def swept(repeats: int) -> dict[str, Any]:
    """Wall seconds of the grid with one worker and with two, in turn, and the largest difference of a number."""
    import unvanish
    from unvanish.workers import cluster

    kept: list[Any] = []
    real: Any = cluster.Tasks
    cluster.Tasks = lambda *given: kept.append(real(*given)) or kept[-1]  # pyright: ignore[reportAttributeAccessIssue]
    busy: dict[int, list[float]] = {1: [], 2: []}
    taken: dict[int, list[float]] = {1: [], 2: []}
    found: dict[int, list[float]] = {}
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for cpus in (1, 2):
                ray = begin(cpus)
                few = {**GRID, "grid": {"weight_variance": [0.01 + 0.01 * at for at in range(40)]}}
                unvanish.sweep(few, on="ray", to=Path(folder, f"warm{turn}{cpus}.sqlite"))
                loads.append(os.getloadavg()[0])
                begun = time.monotonic()
                done = unvanish.sweep(GRID, on="ray", to=Path(folder, f"{turn}{cpus}.sqlite"))
                taken[cpus].append(time.monotonic() - begun)
                busy[cpus].append(kept[-1].seconds / cpus / taken[cpus][-1])
                found[cpus] = [row["log10_signal_ratio"] for row in done.points]
                ray.shutdown()
                print(cpus, "workers:", round(taken[cpus][-1], 1), "s", file=sys.stderr)
    cluster.Tasks = real
    one, two = min(taken[1]), min(taken[2])
    return {
        "what": "scaling of a sweep", "networks": len(found[1]), "one_s": taken[1], "two_s": taken[2],
        "times": one / two, "load": loads, "a_network_s": one / len(found[1]),
        "busy_one": max(busy[1]), "busy_two": max(busy[2]),
        "difference": max(abs(a - b) for a, b in zip(found[1], found[2], strict=True)),
    }  # fmt: skip


def price(rows: int) -> dict[str, Any]:
    """What giving out one chunk and taking its rows costs: the driver's processor time, and wall time altogether."""
    from unvanish.population.grid import read_grid
    from unvanish.population.lasting import work_on
    from unvanish.population.store import Store
    from unvanish.workers import cluster

    read = read_grid({"sobol": {"points": 10**7, "weight_variance": [0.5, 4.0]}, "fixed": {"depth": 20}})
    work = work_on(read)
    jobs = [(at * rows, rows) for at in range(EMPTY + 8)]
    ray = begin(2)
    task, cluster.TASK = cluster.TASK, 0.0  # one job a task
    wall = own = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "s.sqlite"), read, rows)
        for some in (jobs[:8], jobs[8:]):  # the first ones start the processes
            wall, own = time.monotonic(), time.process_time()
            for job, found in cluster.answers(ray, work, "sweep_ray:answered_at_once", iter(some), len(some)):
                store.add(job[0], found)
            wall, own = time.monotonic() - wall, time.process_time() - own
        store.close()
    cluster.TASK = task
    ray.shutdown()
    return {
        "what": "price of a chunk", "rows": rows, "driver_s": own / EMPTY, "wall_s": wall / EMPTY,
        "question_bytes": len(pickle.dumps(jobs[0])), "grid_bytes": len(work.shared),
        "answer_bytes": len(pickle.dumps(answered_at_once(None, None, jobs[0]))),
    }  # fmt: skip


def estimate(kind: str, network_s: float, small: dict[str, Any], large: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Efficiency with more workers, by what the driver can take: a price for each chunk and one for each row.

    A task is two seconds of work, or one network where that takes longer. With W workers W / task_s tasks come a
    second, with task_s / network_s rows each; where that is more than one processor handles, the workers wait.
    """
    row_s = (large["driver_s"] - small["driver_s"]) / (LARGE - SMALL)
    chunk_s = max(0.0, small["driver_s"] - SMALL * row_s)
    task_s = max(2.0, network_s)
    for workers in WORKERS:
        busy = workers * (chunk_s / task_s + row_s / network_s)
        yield {
            "what": "estimate", "networks": kind, "network_s": network_s, "workers": workers, "driver_busy": busy,
            "efficiency": min(1.0, 1.0 / busy) * task_s / (task_s + small["wall_s"]),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("sweep", "price"))
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", OMP_NUM_THREADS="1")
    rows: list[dict[str, Any]] = []
    rows += [price(SMALL), price(LARGE)]
    if args.only in (None, "sweep"):
        small, large = rows[-2:]
        rows.append(swept(args.repeats))
        for kind, seconds in {"those of this grid": rows[-1]["a_network_s"], **KINDS}.items():
            rows += estimate(kind, seconds, small, large)
    for row in rows:
        print(json.dumps(row))
    if args.save:
        note = (
            "two cores shared with other programs, whose load (an average of one minute before each run) is beside the"
            " numbers; the least of the repeats counts. The estimates are no measurements."
        )
        import ray  # pyright: ignore[reportMissingImports]

        head = provenance(1)
        head["versions"] = {**head["versions"], "ray": ray.__version__}  # pyright: ignore[reportGeneralTypeIssues]
        args.save.write_text(json.dumps({**head, "measured": note, "wanted": WANTED, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
