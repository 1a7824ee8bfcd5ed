"""The command line: one file a command, and here what they share.

A command's file has ``add(commands)``, which describes its arguments and names the function that runs it. Nothing heavy
is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from unvanish.cli import check, explain, fix, lab
from unvanish.cli.terminal import FAILED, HEALTHY, INTERRUPTED, STATUS, write
from unvanish.records import UnvanishError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every error is one message on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(words).parse_args(lab.joined(words))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except UnvanishError as error:
        return _fail(str(error))
    try:
        return args.run(args)
    except KeyboardInterrupt:
        write(sys.stderr, "unvanish: interrupted")
        return INTERRUPTED
    except UnvanishError as error:
        return _fail(str(error))
    except SystemExit as stop:
        return _fail(f"the checked program called sys.exit({stop.code!r}), so there is no report")
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (UNVANISH_TRACEBACK=1 shows where)")


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unvanish",
        description="Where did the gradient go, why, and what brings it back?",
        epilog=STATUS,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    check.add(commands)
    fix.add(commands)
    lab.add(commands, words)
    explain.add(commands)
    return parser


def _no_command(args: argparse.Namespace) -> int:
    if not args.version:
        _parser().print_help(sys.stderr)
        return FAILED
    from unvanish import __version__

    write(sys.stdout, f"unvanish {__version__}")
    return HEALTHY


def _fail(message: str) -> int:
    """Say what went wrong; in an ``except`` clause, with the traceback where UNVANISH_TRACEBACK asks for it."""
    if os.environ.get("UNVANISH_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
    write(sys.stderr, f"unvanish: error: {message}")
    return FAILED
