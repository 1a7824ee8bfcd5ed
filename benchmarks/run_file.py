"""The file of a long run: a million sampled steps of 200 layers, written, opened and asked; its size by step and layer.

python benchmarks/run_file.py --save benchmarks/results/run_file.json [--steps 1000000] [--layers 200] [--keep FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

from unvanish import load_run
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Column, Sample

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


def asked(path: Path, question: str) -> None:
    """Open the file and answer, in this process: seconds, and the peak of its memory in MiB."""
    began = time.perf_counter()
    QUESTIONS[question](load_run(path))
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


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
    if not path.exists():
        rows["microseconds_a_sample"] = 1e6 * write(path, args.steps, args.layers)
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
