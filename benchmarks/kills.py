"""Searches and sweeps that are interrupted or killed at random moments and go on: is anything lost, doubled or changed?

python benchmarks/kills.py --save benchmarks/results/kills.json [--moments 100] [--seed 0]

``moments`` of fix and as many of sweep: at each a process that works on it is sent SIGINT or SIGKILL within the
time that the whole takes, and the next one goes on from the file ("resumed": one was there). What came out in the end
is compared with what a search or sweep gives that nobody disturbed: the JSON of the search byte for byte, every row of
the sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

import unvanish
from unvanish.population import sweeping

GRID = {
    "grid": {"depth": [4, 8, 12], "weight_variance": [round(0.1 * at, 1) for at in range(1, 21)]},
    "fixed": {"width": 16, "activation": "tanh"}, "run": {"seeds": 2},
}  # fmt: skip


EACH = 8
"""Moments of one search or sweep at most; then it may come to its end."""


def problem() -> unvanish.Problem:
    torch.manual_seed(0)
    layers = [each for _ in range(8) for each in (nn.Linear(6, 6), nn.Sigmoid())]
    x = torch.randn(64, 6)
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    return unvanish.Problem(model, x, (x[:, 0] > 0).long(), nn.functional.cross_entropy, torch.optim.Adam, steps=10)


def search(path: Path) -> str:
    """The answer of a search that goes on from the file; "" where it was interrupted."""
    found = unvanish.fix(problem(), budget=60, seeds=1, resume=path)
    return "" if found.interrupted else found.to_json()


def sweep(path: Path) -> str:
    """All rows of a sweep that goes on from the file."""
    sweeping.stretch = lambda grid: 3
    return json.dumps(list(unvanish.sweep(GRID, to=path).points))


def child(work: Callable[[Path], str], path: Path, out: Path) -> int:
    """A process that does the work and writes what came out; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if said := work(path):
            out.write_text(said)
            status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def disturbed(work: Callable[[Path], str], path: Path, seconds: float, chance: random.Random, moments: int) -> Any:
    """How often it was interrupted and killed until it was done, and what came out."""
    counts, out = {"interrupted": 0, "killed": 0, "resumed": 0}, path.with_suffix(".out")
    while True:
        counts["resumed"] += path.exists()
        pid = child(work, path, out)
        how = chance.choice(("interrupted", "killed"))
        if counts["interrupted"] + counts["killed"] < moments:
            time.sleep(chance.uniform(0.0, seconds))
            os.kill(pid, signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return counts, out.read_text()
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1 and how != "interrupted":
            raise SystemExit(f"it failed in {path}")
        counts[how] += 1


def run(name: str, work: Callable[[Path], str], moments: int, chance: random.Random, folder: Path) -> dict[str, Any]:
    """So many moments of one kind of work."""
    suffix = ".json" if name == "searches" else ".sqlite"
    expected = work(folder / f"{name}-whole{suffix}")
    began = time.monotonic()
    work(folder / f"{name}-again{suffix}")  # the first time has read the modules, too
    seconds = time.monotonic() - began
    total = {"done": 0, "interrupted": 0, "killed": 0, "resumed": 0, "changed": 0}
    while total["interrupted"] + total["killed"] < moments:
        left = moments - total["interrupted"] - total["killed"]
        path = folder / f"{name}-{total['done']}{suffix}"
        counts, said = disturbed(work, path, seconds, chance, min(left, EACH))
        total["done"] += 1
        total["changed"] += not same(said, expected)
        for how, count in counts.items():
            total[how] += count
    return total


def same(one: str, other: str) -> bool:
    """The same numbers; in a sweep up to the rounding of points that were worked on in other company."""
    if one == other:
        return True
    a, b = json.loads(one), json.loads(other)
    return isinstance(a, list) and len(a) == len(b) and all(map(_alike, a, b))


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        abs(value - other[name]) < 1e-3 if isinstance(value, float) else value == other[name]
        for name, value in one.items()
    )


WORK = {"searches": search, "sweeps": sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="of each of the two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="where to write the counts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = provenance(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        for name, work in WORK.items():
            found[name] = run(name, work, given.moments, random.Random(given.seed), Path(folder))
            print(name, found[name], flush=True)
    if given.save is not None:
        given.save.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
