"""Do two checkouts write the same reports? Every network of the zoo and every example, in every format of a check.

    python tools/compare_checkouts.py OLD NEW

OLD and NEW are folders with a checkout each; both are run by this interpreter, which needs what the project needs. The
JSON, SARIF, JUnit and text of `unvanish check` are written for each side and compared byte for byte. What differs is
listed with its first differing line; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

FORMATS = {"json": "json", "sarif": "sarif", "junit": "xml", "text": "txt"}

ZOO = """
import sys
import unvanish
out, share, shares = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for name in list(unvanish.zoo.names())[share::shares]:
    report = unvanish.diagnose(unvanish.zoo.get(name).build(0), seed=0)
    for suffix in ("json", "sarif", "xml", "txt"):
        report.save(f"{out}/zoo-{name}.{suffix}")
"""
"""Through the public names alone, so that it runs on every checkout."""


def reports(checkout: Path, out: Path, jobs: int) -> None:
    """Write the reports of one checkout into ``out``; raises CalledProcessError where a check cannot be run."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], cwd=checkout, env=environment, check=True)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(run, "-c", ZOO, str(out), str(share), str(jobs)) for share in range(jobs)]
        for example in sorted((checkout / "examples").glob("*.py")):
            if "\nproblem = " not in example.read_text() and "\ndef problem(" not in example.read_text():
                continue
            for name, suffix in FORMATS.items():
                file = out / f"example-{example.stem}.{suffix}"
                words = ["-m", "unvanish", "check", f"examples/{example.name}", "--exit-zero", "--format", name]
                waiting.append(pool.submit(run, *words, "-o", str(file)))
        for each in waiting:
            each.result()


def differences(old: Path, new: Path) -> list[str]:
    """A line for each file that is not the same on both sides, with the first line that differs."""
    found: list[str] = []
    for name in sorted({path.name for side in (old, new) for path in side.iterdir()}):
        if not (old / name).exists() or not (new / name).exists():
            found.append(f"{name}: only in the {'new' if (new / name).exists() else 'old'} checkout")
            continue
        before, after = (side / name for side in (old, new))
        if before.read_bytes() != after.read_bytes():
            lines = zip_longest(before.read_text().splitlines(), after.read_text().splitlines())
            number, pair = next((k, pair) for k, pair in enumerate(lines, 1) if pair[0] != pair[1])
            found.append(f"{name}:{number}: {pair[0]!r:.150} became {pair[1]!r:.150}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, help="the checkout to compare with")
    parser.add_argument("new", type=Path, help="the checkout that should write the same")
    parser.add_argument("--keep", type=Path, help="keep the reports in this folder; those already there are not redone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = args.keep or Path(temporary)
        for side, checkout in (("old", args.old), ("new", args.new)):
            if not (top / side).exists() or side == "new":
                (top / side).mkdir(parents=True, exist_ok=True)
                reports(checkout.resolve(), (top / side).resolve(), args.jobs)
        found = differences(top / "old", top / "new")
        count = len(list((top / "new").iterdir()))
    print("\n".join([*found, f"{count} reports compared, {len(found)} differ"]))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
