"""The command line: one file a command, and here what they share.

A command's file has ``add(commands)``, which describes its arguments and names the function that runs it. Nothing heavy
is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence

from unvanish.cli import check, explain, fix, lab, run, sweep, view
from unvanish.cli.terminal import FAILED, HEALTHY, INTERRUPTED, write
from unvanish.records import UnvanishError

MEANT = {"watch": "did you mean run? unvanish run SCRIPT.py watches a training; unvanish.watch is for your own code"}
"""Words that are spelt like no command, and that a reader of the library's own names would try."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every error is one message on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parsed(words)
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
    except OSError as error:  # a name that is too long, a disk that has gone: no fault of the program's
        named = f"{str(error.filename)[:200]!r}: " if error.filename is not None else ""
        return _fail(f"{named}{error.strerror or error}")
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (UNVANISH_TRACEBACK=1 shows where)")


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; misspelt names are answered with the nearest one and the usage of their command."""
    program: Sequence[str] = ()
    if words[:1] in (["check"], ["fix"]) and "--" in words:
        at = list(words).index("--")
        words, program = words[:at], words[at + 1 :]
    parser = _parser(words)
    commands = _commands(parser)
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(f"there is no command {words[0]!r}; {MEANT.get(words[0]) or _nearest(words[0], commands)}")
    args, unknown = parser.parse_known_args(lab.joined(words))
    if unknown:
        command = commands.get(words[0], parser)
        options = [option for action in command._actions for option in action.option_strings]  # pyright: ignore[reportPrivateUsage]
        wrong = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
        command.error(
            f"it does not take {wrong}; {_nearest(wrong, options)}" if wrong else f"too many arguments: {unknown}"
        )
    args.program = program
    return args


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    commands: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action.choices, dict):
            commands.update(action.choices)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return commands


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}"


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unvanish",
        description="Where did the gradient go, why, and what brings it back?",
        epilog="To begin with: unvanish zoo sigmoid-20. What a command takes and returns: unvanish COMMAND --help.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    check.add(commands)
    fix.add(commands)
    run.add(commands)
    view.add(commands)
    lab.add(commands, words)
    sweep.add(commands)
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
    with contextlib.suppress(OSError):  # where standard error cannot be written to either, the status says it
        write(sys.stderr, f"unvanish: error: {message}")
    return FAILED
