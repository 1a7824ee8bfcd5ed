"""How long ``import unvanish`` and ``unvanish --help`` take, beside a bare Python, each in a process of its own.

python benchmarks/start_up.py --save benchmarks/results/start_up.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import provenance

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import unvanish": ["-c", "import unvanish"],
    "unvanish --help": ["-m", "unvanish", "--help"],
    "unvanish explain UV101": ["-m", "unvanish", "explain", "UV101"],
}


def milliseconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the numbers as JSON")
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(args.repeats):  # interleaved, so that a busy moment hits all alike
        for name, arguments in COMMANDS.items():
            times[name].append(milliseconds(arguments))
    bare = statistics.median(times["python -c pass"])
    rows = {}
    for name, measured in times.items():
        rows[name] = {"median_ms": statistics.median(measured), "beyond_python_ms": statistics.median(measured) - bare}
        print(
            f"{name:25s} {rows[name]['median_ms']:6.1f} ms, {rows[name]['beyond_python_ms']:6.1f} beyond a bare Python"
        )
    if args.save:
        args.save.write_text(json.dumps({**provenance(1), "commands": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
