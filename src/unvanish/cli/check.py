"""``unvanish check FILE.py[:NAME]`` and ``unvanish zoo``: look at a training problem, and report."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unvanish.cli.terminal import (
    FOUND,
    HEALTHY,
    PICTURE,
    STATUS,
    Progress,
    colorful,
    entries,
    format_of,
    look_ahead,
    pictures_ahead,
    speaks_unicode,
    stdout_to_stderr,
    width,
    write,
)
from unvanish.report.formats import names, suffixes

if TYPE_CHECKING:
    from unvanish.report import Report

EFFORTS = ("quick", "auto", "full")


def add(commands: Any) -> None:
    """Describe the two commands."""
    check = commands.add_parser(
        "check", help="check a training problem in a Python file", epilog=STATUS,
        description="Check a training problem: how much of the error signal arrives at each layer, and why.",
    )  # fmt: skip
    add_target(check)
    check.add_argument(
        "--init", action="store_true", help="write TARGET_problem.py beside a training script: a Problem to fill in"
    )
    check.add_argument(
        "--select", metavar="CODES", type=_codes, default=(), help="only these findings, such as UV1,UV302"
    )
    check.add_argument("--ignore", metavar="CODES", type=_codes, default=(), help="all findings but these")
    check.add_argument("--exit-zero", action="store_true", help="exit with 0 whatever is found")
    check.set_defaults(run=_check)

    zoo = commands.add_parser(
        "zoo", help="list the reference networks, or check one", epilog=STATUS,
        description="Networks whose state is known: list them, or check one.",
    )  # fmt: skip
    which = zoo.add_mutually_exclusive_group()
    which.add_argument("name", metavar="NAME", nargs="?", help="the network to check")
    which.add_argument("--list", action="store_true", help="list the networks (also without NAME)")
    zoo.set_defaults(run=_zoo, select=(), ignore=(), exit_zero=False)
    formats = names("check")
    endings = " ".join(sorted({*suffixes(), *PICTURE}))
    for command in (check, zoo):
        command.add_argument(
            "--effort", choices=EFFORTS, default="auto", help="how much to measure (default: %(default)s)"
        )
        command.add_argument(
            "--format", choices=formats, help="format of the report (default: by the suffix of -o, else text)"
        )
        command.add_argument("-o", "--output", metavar="FILE", help=f"write the report to FILE: {endings}")
        command.add_argument(
            "--seed", type=int, default=0, metavar="N", help="seed of the check (default: %(default)s)"
        )


def add_target(command: argparse.ArgumentParser) -> None:
    """The argument that names a problem in a file."""
    command.add_argument(
        "target", metavar="TARGET",
        help="FILE.py[:NAME] or package.module[:NAME]; NAME is a Problem or a function without arguments that returns"
        " one (default: problem); what stands behind -- goes to the file as its sys.argv",
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Any:
    """While the user's own program runs: what it prints goes to standard error, and torch's word on numpy nowhere."""
    # torch works without numpy but says at its first use that it has none: no news for who checks a network.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    with stdout_to_stderr():
        yield


def _codes(text: str) -> tuple[str, ...]:
    codes = tuple(code.strip().upper() for code in text.split(",") if code.strip())
    wrong = [code for code in codes if not re.fullmatch(r"UV\d{0,3}", code)]
    if wrong or not codes:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of codes or their beginnings, such as UV1,UV302")
    return codes


def _check(args: argparse.Namespace) -> int:
    if args.init:
        from unvanish.cli.skeleton import write_skeleton

        made = write_skeleton(Path(args.target))
        write(sys.stdout, f"{made} is to be filled in where it says FILL IN; then: unvanish check {made}")
        return HEALTHY
    from unvanish.cli.problem_file import loaded_problem, split_target

    path, name = split_target(args.target)
    return _judge(args, lambda: loaded_problem(path, name, args.program))


def _zoo(args: argparse.Namespace) -> int:
    from unvanish import zoo

    if args.name:
        network = zoo.get(args.name)
        return _judge(args, lambda: contextlib.nullcontext(network.build(args.seed)))
    write(sys.stdout, entries([(name, zoo.describe(name)) for name in zoo.names()]))
    return HEALTHY


def _judge(args: argparse.Namespace, problem: Callable[[], AbstractContextManager[Any]]) -> int:
    """Check the problem, write the report, and say by the exit status how it went."""
    from unvanish.report import filter_findings

    if args.output is not None:
        look_ahead(Path(args.output))
    args.format = format_of(args.format, args.output, {**suffixes(), **PICTURE})
    pictures_ahead(args.format)
    progress = Progress()
    with quiet(), progress.during("importing torch"):
        from unvanish.pipeline import diagnose
    with quiet(), problem() as given, progress.during("checking"):
        report = diagnose(given, effort=args.effort, seed=args.seed)
    report = filter_findings(report, args.select, args.ignore)
    deliver(args, report)
    return HEALTHY if report.healthy or args.exit_zero else FOUND


def deliver(args: argparse.Namespace, report: Report) -> None:
    """Write the report in ``args.format``, to ``args.output`` or to standard output."""
    from unvanish.report import write_text
    from unvanish.report.formats import find
    from unvanish.report.sentences import words
    from unvanish.report.text import render

    if args.format in PICTURE.values():
        report.save(args.output)
    elif args.output is not None:
        write_text(Path(args.output), find(args.format).write(report))
    elif args.format == "text":
        write(sys.stdout, render(report, width(), colorful(), speaks_unicode(sys.stdout)))
    else:
        write(sys.stdout, find(args.format).write(report))
    if args.output is not None:
        write(sys.stderr, f"unvanish: {words(report.verdict)}; the report is in {args.output}")
