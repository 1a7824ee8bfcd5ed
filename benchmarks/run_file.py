"""The file of a long run: a million sampled steps of 200 layers, written, opened and asked; its size by step and layer.

python benchmarks/run_file.py --save benchmarks/results/run_file.json [--steps 1000000] [--layers 200] [--keep FILE]

The long file is laid out as the writer leaves it, with as many rows of each thickness; ``--write`` writes every step of
it, which takes minutes. What a written sample costs is measured on the first steps either way.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

from unvanish import load_run
from unvanish.watching.run_file import KEPT, THINNED, RunFile
from unvanish.watching.sample import FIELDS, SERIES, Column, Sample

FLUSHED = 64
"""Steps between two flushes, about; the writer thins when it flushes."""

SETTING = {
    "model": "Deep", "parameters": 1, "batch_size": 64, "dtype": "float32", "device": "cpu", "mode": "train",
    "effort": "live", "seed": 0,
}  # fmt: skip

QUESTIONS = {
    "report": lambda run: run.report(),
    "signals": lambda run: run.metrics("log10_signal"),
    "loss": lambda run: run.metrics("loss"),
    "findings": lambda run: run.findings,
}


def write(path: Path, steps: int, layers: int) -> float:
    """Write a run as a watch would; seconds a sampled step."""
    file = RunFile(
        path, {"every": 1, "setting": SETTING, "order": list(range(layers)), "groups": [list(range(layers))]}
    )
    file.layers([Column(f"blocks.{at}.linear", "Linear", 65_792) for at in range(layers)])
    chance = random.Random(0)
    made = [  # a few samples, over and over: what is measured is the file, not the making of numbers
        {
            at: (chance.gauss(-2, 1), chance.gauss(-1, 1), 1.5, 1e-3, chance.random(), 0.0, math.nan)
            for at in range(layers)
        }
        for _ in range(31)
    ]
    began = time.process_time()
    for step in range(steps):
        file.sample(Sample(step, made[step % 31], {"loss": 1.0 / (1 + step), "learning_rate": 1e-3}))
    file.close()
    if file.broken:
        raise SystemExit(file.broken)
    return (time.process_time() - began) / steps


def lay_out(path: Path, steps: int, layers: int) -> None:
    """The rows that the writer leaves behind after so many steps, with the same thinning, written at once."""
    write(path, 1, layers)
    counts = [0]
    for _ in range(steps // FLUSHED):
        counts[0] += FLUSHED
        for level in range(len(counts)):
            if counts[level] >= 2 * KEPT:
                counts[level] -= KEPT
                counts += [0] if level + 1 == len(counts) else []
                counts[level + 1] += KEPT // THINNED
    chance, at = random.Random(0), 0
    blobs = [array.array("f", [chance.gauss(-2, 1) for _ in range(layers * len(FIELDS))]).tobytes() for _ in range(31)]
    series = array.array("d", [0.5] * len(SERIES)).tobytes()
    base = sqlite3.connect(path)
    base.execute("DELETE FROM samples")
    for level in reversed(range(len(counts))):
        for _ in range(counts[level]):
            row = (at, at + THINNED**level - 1, level, series, blobs[at % 31], blobs[at % 30] if level else None)
            base.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", row)
            at += THINNED**level
    base.commit()
    base.close()
    if abs(at - steps) > FLUSHED:
        raise SystemExit(f"{at} steps were laid out, not {steps}")


def asked(path: Path, question: str) -> None:
    """Open the file and answer, in this process: seconds, and the peak of its memory in MiB."""
    began, cpu = time.perf_counter(), time.process_time()
    QUESTIONS[question](load_run(path))
    found = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - cpu}
    print(json.dumps({**found, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def answers(path: Path) -> dict[str, dict[str, float]]:
    """The least of five for each question, each in a process of its own."""
    found: dict[str, dict[str, float]] = {}
    for question in QUESTIONS:
        runs = [
            json.loads(subprocess.run(
                [sys.executable, __file__, "--ask", question, "--keep", str(path)], check=True, capture_output=True,
                text=True,
            ).stdout)
            for _ in range(5)
        ]  # fmt: skip
        found[question] = min(runs, key=lambda each: each["seconds"])
        print(f"{question:10} {found[question]['seconds']:.2f} s  {found[question]['peak_mib']:.0f} MiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="the file; one that is there is asked, not written again")
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--write", action="store_true", help="write every step")
    parser.add_argument("--ask", choices=QUESTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        asked(args.keep, args.ask)
        return
    folder = Path(tempfile.mkdtemp())
    rows: dict[str, object] = {"steps": args.steps, "layers": args.layers}
    short = folder / "short.unvanish"
    write(short, 1_000, args.layers)
    rows["bytes_a_step_and_layer"] = short.stat().st_size / (1_000 * args.layers)
    print(f"{rows['bytes_a_step_and_layer']:.1f} bytes a sampled step and layer, before thinning", flush=True)
    path = args.keep or folder / "long.unvanish"
    rows["microseconds_a_sample"] = 1e6 * write(folder / "some.unvanish", 10_000, args.layers)
    if not path.exists():
        (write if args.write else lay_out)(path, args.steps, args.layers)
        print(f"written in {rows['microseconds_a_sample']:.0f} µs a sampled step", flush=True)
    rows["file_mib"] = path.stat().st_size / 2**20
    rows["bytes_after_thinning"] = path.stat().st_size / (args.steps * args.layers)
    print(
        f"{rows['file_mib']:.0f} MiB, {rows['bytes_after_thinning']:.2f} bytes a step and layer, after it", flush=True
    )
    rows["asked"] = answers(path)
    if args.save:
        args.save.write_text(json.dumps({**provenance(1), **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
