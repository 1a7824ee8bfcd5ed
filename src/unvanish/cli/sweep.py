"""``unvanish sweep GRID.toml``: thousands of networks over a grid of settings, measured and, where asked, trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from unvanish.cli.terminal import HEALTHY, PICTURE, Progress, look_ahead, pictures_ahead, stdout_to_stderr, width, write
from unvanish.records import UnvanishError

DATA = (".sqlite", ".db", ".csv", ".parquet")
EPILOG = "exit status: 0 done, 2 wrong usage or an error; an interrupted sweep goes on when it is called again"


def add(commands: Any) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "sweep", help="measure or train many networks over a grid of settings", epilog=EPILOG,
        description="Where does a network train? The flow at initialisation, and accuracy where asked, of every point.",
    )  # fmt: skip
    command.add_argument("grid", metavar="GRID.toml", help="what varies, what is fixed, and how it is run")
    command.add_argument(
        "--on",
        default="local",
        metavar="WHERE",
        help="where it runs: local, ray, or ray://HOST:PORT (default: %(default)s)",
    )
    command.add_argument(
        "-o", "--output", metavar="FILE",
        help="the results, .sqlite, .csv or .parquet, or the map, .svg, .png or .pdf (default: GRID.sqlite here)",
    )  # fmt: skip
    command.set_defaults(run=_sweep)


def _sweep(args: argparse.Namespace) -> int:
    from unvanish.population.store import SUFFIXES
    from unvanish.population.sweeping import sweep

    output = Path(args.output or f"{Path(args.grid).stem}.sqlite")
    look_ahead(output)
    suffix = output.suffix.lower()
    if suffix not in (*DATA, *PICTURE):
        wrong = f"the suffix {output.suffix!r}" if suffix else "no suffix"
        raise UnvanishError(
            f"{str(output)!r}: {wrong} names no known format; use one of {', '.join((*DATA, *PICTURE))}"
        )
    picture = suffix in PICTURE
    if picture:
        _picture_ahead(args.grid, output)
    file = output.with_suffix(".sqlite") if picture else output
    progress = Progress()
    try:
        with stdout_to_stderr():
            swept = sweep(args.grid, on=args.on, to=file, progress=progress)
    except KeyboardInterrupt:
        progress.clear()
        kept = output if suffix in SUFFIXES else output.with_suffix(".sqlite")
        write(sys.stderr, f"unvanish: the results so far are in {kept}; the same command goes on from there")
        raise
    finally:
        progress.clear()
    if picture:
        swept.save(output)
    write(sys.stdout, swept.text(width()))
    drawn = f", their map in {output}" if picture else ""
    write(sys.stderr, f"unvanish: all {len(swept.points):,} networks are in {swept.path}{drawn}")
    return HEALTHY


def _picture_ahead(grid: str, output: Path) -> None:
    """Refuse a map that cannot be drawn before the networks are measured, not after it."""
    from unvanish.population.grid import read_grid
    from unvanish.population.summary import NO_MAP, plane

    if plane(read_grid(grid)) is None:
        raise UnvanishError(f"{grid}: {NO_MAP}")
    pictures_ahead(PICTURE[output.suffix.lower()])
