"""The versions of Python and torch that this package is said to work with, tried in fact: `make matrix`.

python -m tools.matrix [PYTHON=TORCH ...] [--keep]

Each pair, such as python3.12=2.14.1, gets an environment of its own in a temporary folder: that torch, what the package
needs, and the tests below with warnings as errors. A torch that is not built for the CPU alone brings gigabytes of
libraries with it, so one environment is there at a time and is removed when it is done. The last line of each pair is
for the table of docs/versions.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("python3.11=2.5.0", "python3.11=2.13.0", "python3.11=2.14.1", "python3.12=2.13.0", "python3.13=2.12.0")
TOOLS = ("numpy", "pytest", "hypothesis", "jsonschema", "packaging", "mpmath", "msgspec>=0.18", "rich>=13")
TESTS = (
    "test_backward.py", "test_capture.py", "test_measure.py", "test_untouched.py", "test_bad_input.py",
    "test_optimizers.py", "test_watch_unchanged.py", "test_watch_numbers.py", "test_curvature.py", "test_step.py",
)  # fmt: skip
"""What rests on torch's own insides: walks through its graph, hooks, optimizers, trainings that are watched."""


def tried(python: str, torch: str, keep: bool) -> bool:
    """Whether the tests pass with this Python and this torch."""
    if shutil.which(python) is None:
        print(f"| {python} | {torch} | not tried: there is no {python} here |", flush=True)
        return True
    folder = Path(tempfile.mkdtemp(prefix="unvanish-matrix-"))
    inside = folder / "bin" / "python"
    try:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        install = [str(inside), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*install, f"torch=={torch}"], check=True)
        subprocess.run([*install, *TOOLS], check=True)
        versions = "import platform, torch; print(platform.python_version(), '|', torch.__version__)"
        found = subprocess.run([str(inside), "-c", versions], check=True, stdout=subprocess.PIPE, text=True).stdout
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        tests = [str(ROOT / "tests" / name) for name in TESTS]
        command = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=ROOT, env=environment)
        print(f"| {found.strip()} | {'passed' if not done.returncode else 'FAILED'} |", flush=True)
        return not done.returncode
    finally:
        if not keep:
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=PAIRS, metavar="PYTHON=TORCH", help=f"(default: {' '.join(PAIRS)})")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    given = parser.parse_args()
    pairs = [pair.partition("=") for pair in given.pairs]
    passed = [tried(python, torch, given.keep) for python, _, torch in pairs]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
