"""Memory of a process that checks a network a thousand times, and of one that watches ten thousand steps: is it flat?

python benchmarks/memory.py --save benchmarks/results/memory.json [--checks 1000] [--steps 10000]

Each runs in a process of its own. Its resident memory is read when it has warmed up (a tenth of the way), in the middle
and at the end, after a collection. Flat is a growth of a few percent, which the allocator takes by itself; what is kept
of every check or step grows by the same again from the middle to the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

import unvanish


def resident() -> float:
    """MiB of this process that lie in memory, after what can be collected has been."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [each for _ in range(6) for each in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def checks(count: int) -> dict[str, float]:
    model = network()
    x, y = torch.randn(16, 16), torch.arange(16) % 3
    found: dict[str, float] = {}
    for at in range(1, count + 1):
        report = unvanish.diagnose(model, x, y, nn.functional.cross_entropy)
        report.to_json()
        if at in (count // 10, count // 2, count):
            found[str(at)] = round(resident(), 1)
    return found


def steps(count: int) -> dict[str, float]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = unvanish.watch(model, optimizer, every=1, to=Path(folder) / "a.unvanish")
        for at in range(1, count + 1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(16, 16)), torch.arange(16) % 3).backward()
            optimizer.step()
            if at in (count // 10, count // 2, count):
                found[str(at)] = round(resident(), 1)
        run.close()
        if len(unvanish.load_run(run.path).steps) < 1_000:
            raise SystemExit("the steps were not sampled")
    return found


KINDS = {"checks": checks, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help="where to write the numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts = {"checks": given.checks, "steps": given.steps}
    if given.only:
        print(json.dumps(KINDS[given.only](counts[given.only])))
        return
    found: dict[str, object] = {**provenance(torch.get_num_threads()), "unit": "MiB resident"}
    for kind, count in counts.items():
        command = [sys.executable, __file__, "--only", kind, f"--{kind}", str(count)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[kind] = json.loads(answer.splitlines()[-1])
        print(kind, found[kind], flush=True)
    if given.save is not None:
        given.save.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
