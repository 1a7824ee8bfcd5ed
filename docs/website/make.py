"""Builds the site: ``python docs/website/make.py``, then open build/docs/html/index.html. Warnings are errors."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def build(folder: Path) -> int:
    """Put the sources together in ``folder``/source and build ``folder``/html; the exit status of Sphinx."""
    from sphinx.cmd.build import main as sphinx

    from website import stage

    for old in ("html", "doctrees"):
        shutil.rmtree(folder / old, ignore_errors=True)
    stage.stage(folder / "source")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(HERE), "-d", str(folder / "doctrees")]
    return sphinx([*words, str(folder / "source"), str(folder / "html")])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "build" / "docs", help="the folder to write into")
    folder = parser.parse_args(argv).out.resolve()
    began = time.perf_counter()
    status = build(folder)
    if not status:
        pages = sum(1 for _ in (folder / "html").rglob("*.html"))
        print(f"{pages} pages in {time.perf_counter() - began:.0f} s: {folder / 'html' / 'index.html'}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
