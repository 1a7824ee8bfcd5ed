"""The versions of Python and torch that this package is said to work with, tried in fact: `make matrix`.

python -m tools.matrix [PYTHON=TORCH ...] [--keep]

Each pair, such as python3.12=2.14.1, gets an environment of its own in a temporary folder: that torch, what the package
needs, and the tests below with warnings as errors. A torch that is not built for the CPU alone brings gigabytes of
libraries with it, so one environment is there at a time and is removed when it is done. What came out is kept in
benchmarks/results/versions.json, a row for each pair, from which docs/versions.md has its table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "versions.json"
PAIRS = (
    "python3.11=2.5.0", "python3.11=2.13.0", "python3.11=2.14.1", "python3.11=2.15.0", "python3.12=2.5.0",
    "python3.12=2.15.0", "python3.13=2.5.0", "python3.13=2.15.0", "python3.14=2.9.0", "python3.14=2.15.0",
    "python3.15=2.15.0",
)  # fmt: skip
"""For each Python the oldest torch that is built for it, of those that pyproject.toml allows, and the newest."""
TOOLS = ("numpy", "pytest", "hypothesis", "jsonschema", "packaging", "mpmath", "msgspec>=0.18", "rich>=13")
TESTS = (
    "test_backward.py", "test_capture.py", "test_measure.py", "test_untouched.py", "test_bad_input.py",
    "test_optimizers.py", "test_watch_unchanged.py", "test_watch_numbers.py", "test_curvature.py", "test_step.py",
)  # fmt: skip
"""What rests on torch's own insides: walks through its graph, hooks, optimizers, trainings that are watched."""
VERSIONS = "import platform, torch; print(platform.python_version(), torch.__version__)"


def tried(python: str, torch: str, keep: bool) -> dict[str, Any]:
    """The row of this Python and this torch: full versions, how many tests passed and failed, the seconds, the day."""
    folder = Path(tempfile.mkdtemp(prefix="unvanish-matrix-"))
    inside, counts = folder / "bin" / "python", folder / "tests.xml"
    try:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        install = [str(inside), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-compile"]
        subprocess.run([*install, f"torch=={torch}"], check=True)
        subprocess.run([*install, *TOOLS], check=True)
        found = subprocess.run([str(inside), "-c", VERSIONS], check=True, stdout=subprocess.PIPE, text=True).stdout
        tests = [str(ROOT / "tests" / name) for name in TESTS]
        command = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={counts}", *tests]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        subprocess.run(command, cwd=ROOT, env=environment)
        full_python, full_torch = found.split()
        row = {"python": full_python, "torch": full_torch, **counted(counts)}
        return {**row, "seconds": round(time.monotonic() - began), "tried": time.strftime("%Y-%m-%d")}
    finally:
        if not keep:
            shutil.rmtree(folder)


def counted(written: Path) -> dict[str, int]:
    """How many tests passed, failed and were left out, of what pytest wrote down; an error counts as a failure."""
    if not written.exists():  # the interpreter itself went down
        return {"passed": 0, "failed": 1, "skipped": 0}
    suites = list(ElementTree.parse(written).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(kind, 0)) for suite in suites) for kind in ("tests", "failures", "errors", "skipped")
    )
    return {"passed": tests - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def kept(row: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Put the row of a pair in the place of its older one, whatever build of that torch this was."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [*(each for each in rows if _pair(each) != _pair(row)), dict(row)]
    rows.sort(key=lambda each: (*_minor(each["python"]), *_minor(each["torch"])))
    data = {"command": "python -m tools.matrix", "tests": TESTS, "rows": rows}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _pair(row: Mapping[str, Any]) -> tuple[tuple[int, int], str]:
    return _minor(row["python"]), row["torch"].partition("+")[0]


def _minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=PAIRS, metavar="PYTHON=TORCH", help=f"(default: {' '.join(PAIRS)})")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    given = parser.parse_args()
    failed = 0
    for python, _, torch in (pair.partition("=") for pair in given.pairs):
        if shutil.which(python) is None:
            print(f"{python} with torch {torch}: not tried, there is no {python} here", flush=True)
            continue
        row = tried(python, torch, given.keep)
        kept(row)
        failed += row["failed"] or not row["passed"]
        counts = f"{row['passed']} passed, {row['failed']} failed"
        print(f"Python {row['python']}, torch {row['torch']}: {counts}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
