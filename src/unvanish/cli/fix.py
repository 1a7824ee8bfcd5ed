"""``unvanish fix FILE.py[:NAME]``: try remedies on copies, and hand over the smallest change that repairs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.cli.check import add_target, quiet
from unvanish.cli.terminal import (
    FOUND,
    HEALTHY,
    INTERRUPTED,
    Progress,
    colorful,
    format_of,
    look_ahead,
    speaks_unicode,
    width,
    write,
)
from unvanish.records import UnvanishError
from unvanish.report.formats import names, suffixes
from unvanish.words.numbers import score

if TYPE_CHECKING:
    from unvanish.trials import Fixes, Standing

STATUS = "exit status: 0 repaired or nothing to repair, 1 only improved or no remedy found, 2 wrong usage or an error"


def add(commands: Any) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "fix", help="try remedies on copies of a network and hand over what repairs it", epilog=STATUS,
        description="Try remedies on copies of the network, measure them, and hand over the smallest one that repairs.",
    )  # fmt: skip
    add_target(command)
    endings = " ".join(sorted({*suffixes("fix"), ".diff"}))
    command.add_argument(
        "--budget", type=int, metavar="STEPS", help="optimizer steps for all trials (default: 3 × steps)"
    )
    command.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings that judge the choice (default: %(default)s)"
    )
    command.add_argument(
        "--on",
        default="local",
        metavar="WHERE",
        help="where trials run: local, ray, or ray://HOST:PORT (default: %(default)s)",
    )
    command.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes of this machine that train (default: %(default)s)",
    )
    command.add_argument(
        "--format", choices=names("fix"), help="format of the answer (default: by the suffix of -o, else text)"
    )
    command.add_argument("-o", "--output", metavar="FILE", help=f"write the answer to FILE: {endings}")
    command.add_argument(
        "--write",
        metavar="FILE",
        help="write the repaired program, or a snippet where it cannot be made, to a new FILE",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the search (default: %(default)s)")
    command.add_argument("--resume", metavar="FILE", help="keep the state of the search in FILE, and go on from it")
    command.add_argument("--anyway", action="store_true", help="search even where nothing is wrong")
    command.set_defaults(run=_fix)


def _fix(args: argparse.Namespace) -> int:
    from unvanish.cli.problem_file import loaded_problem, split_target

    path, name = split_target(args.target)
    for target in (args.output, args.write):
        if target is not None:
            look_ahead(Path(target))
            _spare(Path(target), path)
    _refuse_early(args)
    args.format = format_of(args.format, args.output, {**suffixes("fix"), ".diff": "diff"})
    progress = Progress()
    with quiet(), progress.during("importing torch"):
        from unvanish.trials import fix
    with quiet(), loaded_problem(path, name, args.program) as problem:
        try:
            fixes = fix(
                problem, budget=args.budget, seeds=args.seeds, on=args.on, seed=args.seed, resume=args.resume,
                anyway=args.anyway, workers=args.workers, progress=lambda standing: progress(*_told(standing)),
            )  # fmt: skip
        finally:
            progress.clear()
    _deliver(args, fixes)
    if args.write is not None:
        _write_program(args, fixes, path)
    if fixes.interrupted:
        return INTERRUPTED
    return FOUND if fixes.verdict in ("improved", "no remedy found") else HEALTHY


def _spare(target: Path, original: Path) -> None:
    if target.exists() and original.exists() and target.samefile(original):
        raise UnvanishError(f"{str(target)!r} is the file that is being repaired, and it is never written over")


def _refuse_early(args: argparse.Namespace) -> None:
    """What can be known before the search to go wrong after it."""
    if args.write is None:
        return
    if Path(args.write).exists():
        raise UnvanishError(f"{args.write!r} exists already, and fix never overwrites a file; name a new one")
    if args.output is not None and Path(args.output).resolve() == Path(args.write).resolve():
        raise UnvanishError(f"-o and --write both name {args.write!r}; the answer and the program need a file each")


def _write_program(args: argparse.Namespace, fixes: Fixes, path: Path) -> None:
    from unvanish.trials.patch import write_repaired

    if fixes.best is None:
        write(sys.stderr, f"unvanish: {args.write} was not written: {fixes.verdict}")
        return
    try:
        write_repaired(fixes, args.write, path)
    except UnvanishError:
        if args.format == "text":
            write(sys.stdout, f"\n{fixes.patched or fixes.code}")  # a long search must not end with nothing
        raise
    what = "repaired program" if fixes.patched else "snippet to put into your program"
    write(sys.stderr, f"unvanish: the {what} is in {args.write}")


def _told(standing: Standing) -> tuple[float, str]:
    """The share of the budget that is spent, and who leads."""
    leader = ""
    if standing.ranking:
        title, best, _ = standing.ranking[0]
        leader = f" · best so far {title}, {score(best)} {standing.unit}"
    share = standing.spent / max(1, standing.budget)
    return share, f"{standing.spent:,} of {standing.budget:,} steps · {standing.doing}{leader}"


def _deliver(args: argparse.Namespace, fixes: Fixes) -> None:
    from unvanish.report import write_text
    from unvanish.report.fix_text import render
    from unvanish.report.formats import find

    if args.format == "text" and args.output is None:
        text = render(fixes, width(), colorful(), speaks_unicode(sys.stdout))
    else:
        text = find(args.format, "fix").write(fixes)
    text = text or f"# no {args.format}: {fixes.patch_refused or fixes.verdict}"
    if args.output is not None:
        try:
            write_text(Path(args.output), text)
        except UnvanishError:
            write(sys.stdout, text)
            raise
        write(sys.stderr, f"unvanish: {fixes.verdict}; the answer is in {args.output}")
    else:
        write(sys.stdout, text)
