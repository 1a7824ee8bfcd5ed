"""The command line: ``unvanish check FILE.py[:NAME]``, ``unvanish zoo``, ``unvanish explain``.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from unvanish.records import UnvanishError

if TYPE_CHECKING:
    from unvanish.report import Report

HEALTHY, FOUND, FAILED, INTERRUPTED = 0, 1, 2, 130
STATUS = "exit status: 0 healthy, 1 findings of level error, 2 wrong usage or an error"
EFFORTS = ("quick", "auto", "full")
FORMATS = ("text", "json")
WIDEST = 140


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every error is one message on standard error."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    try:
        return args.run(args)
    except KeyboardInterrupt:
        _write(sys.stderr, "unvanish: interrupted")
        return INTERRUPTED
    except UnvanishError as error:
        return _fail(str(error))
    except SystemExit as stop:
        return _fail(f"the checked program called sys.exit({stop.code!r}), so there is no report")
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (UNVANISH_TRACEBACK=1 shows where)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unvanish",
        description="Where did the gradient go, why, and what brings it back?",
        epilog=STATUS,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    check = commands.add_parser(
        "check", help="check a training problem in a Python file", epilog=STATUS,
        description="Check a training problem: how much of the error signal arrives at each layer, and why.",
    )  # fmt: skip
    check.add_argument(
        "target", metavar="FILE.py[:NAME]",
        help="NAME is a Problem or a function without arguments that returns one (default: problem)",
    )  # fmt: skip
    check.add_argument("--select", metavar="CODES", type=_codes, default=(), help="only these, such as UV1,UV302")
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

    explain = commands.add_parser(
        "explain", help="what a code, a verdict or a term means",
        description="What a code (UV101), a verdict (vanished), a term or a field of a report means.",
    )  # fmt: skip
    explain.add_argument("topic", metavar="CODE|VERDICT|TERM", nargs="*", help="without it: what can be explained")
    explain.set_defaults(run=_explain)
    for command in (check, zoo):
        _add_how(command)
    return parser


def _add_how(command: argparse.ArgumentParser) -> None:
    """The options of every command that checks a problem."""
    command.add_argument("--effort", choices=EFFORTS, default="auto", help="how much to measure (default: %(default)s)")
    command.add_argument("--format", choices=FORMATS, default="text", help="of the report (default: %(default)s)")
    command.add_argument("-o", "--output", metavar="FILE", help="write the report to FILE, not to standard output")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the check (default: %(default)s)")


def _codes(text: str) -> tuple[str, ...]:
    codes = tuple(code.strip().upper() for code in text.split(",") if code.strip())
    wrong = [code for code in codes if not re.fullmatch(r"UV\d{0,3}", code)]
    if wrong or not codes:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of codes or their beginnings, such as UV1,UV302")
    return codes


def _no_command(args: argparse.Namespace) -> int:
    if not args.version:
        _parser().print_help(sys.stderr)
        return FAILED
    from unvanish import __version__

    _write(sys.stdout, f"unvanish {__version__}")
    return HEALTHY


def _explain(args: argparse.Namespace) -> int:
    from unvanish.explain import explain

    _write(sys.stdout, explain(" ".join(args.topic)))
    return HEALTHY


def _check(args: argparse.Namespace) -> int:
    from unvanish.problem_file import loaded_problem, split_target

    path, name = split_target(args.target)
    return _judge(args, lambda: loaded_problem(path, name))


def _zoo(args: argparse.Namespace) -> int:
    from unvanish import zoo

    if args.name:
        network = zoo.get(args.name)
        return _judge(args, lambda: contextlib.nullcontext(network.build(args.seed)))
    names = zoo.names()
    width = max(map(len, names))
    _write(sys.stdout, "\n".join(f"{name:<{width}}  {zoo.describe(name)}" for name in names))
    return HEALTHY


def _judge(args: argparse.Namespace, problem: Callable[[], AbstractContextManager[Any]]) -> int:
    """Check the problem, write the report, and say by the exit status how it went."""
    from unvanish.report import filter_findings

    if args.output is not None:
        _look_ahead(Path(args.output))
    # torch works without numpy but says at its first use that it has none: no news for who checks a network.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    with _stdout_to_stderr(), problem() as given:
        from unvanish.pipeline import diagnose

        report = diagnose(given, effort=args.effort, seed=args.seed)
    report = filter_findings(report, args.select, args.ignore)
    _deliver(args, report)
    return HEALTHY if report.healthy or args.exit_zero else FOUND


def _deliver(args: argparse.Namespace, report: Report) -> None:
    from unvanish.report import write_text
    from unvanish.report.text import render

    if args.output is not None:
        write_text(Path(args.output), report.to_json() if args.format == "json" else render(report))
        _write(sys.stderr, f"unvanish: {report.verdict}; the report is in {args.output}")
    elif args.format == "json":
        _write(sys.stdout, report.to_json())
    else:
        _write(sys.stdout, render(report, _width(), _colorful(), _speaks_unicode(sys.stdout)))


def _look_ahead(path: Path) -> None:
    """Refuse a path that cannot be written before a long check, not after it."""
    if path.is_dir():
        raise UnvanishError(f"cannot write {str(path)!r}: it is a directory; name a file")
    if not path.parent.is_dir():
        raise UnvanishError(f"cannot write {str(path)!r}: there is no directory {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UnvanishError(f"cannot write {str(path)!r}: permission denied")


@contextlib.contextmanager
def _stdout_to_stderr() -> Generator[None, None, None]:
    """What a user's program prints, and what its child processes print, must not get into the report."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a closed descriptor has nothing to protect
        saved = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def _write(stream: TextIO, text: str) -> None:
    """Text and a newline; characters the stream does not know are escaped, and a reader that has left is no error."""
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        # what is still buffered goes nowhere, or the interpreter would complain when it exits
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _colorful() -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def _speaks_unicode(stream: TextIO) -> bool:
    try:
        "▏┊⋮×…".encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def _fail(message: str) -> int:
    """Say what went wrong; in an ``except`` clause, with the traceback where UNVANISH_TRACEBACK asks for it."""
    if os.environ.get("UNVANISH_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
    _write(sys.stderr, f"unvanish: error: {message}")
    return FAILED
