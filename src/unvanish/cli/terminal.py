"""How the commands answer: results on standard output or in files, the rest on standard error, and an exit status."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from unvanish.records import UnvanishError
from unvanish.report import PICTURE_SUFFIXES

HEALTHY, FOUND, FAILED, INTERRUPTED = 0, 1, 2, 130
STATUS = "exit status: 0 healthy, 1 findings of level error, 2 wrong usage or an error"
PICTURE = {suffix: f"a {suffix[1:]} picture" for suffix in sorted(PICTURE_SUFFIXES)}
"""What the suffixes of pictures mean where a report is written: no format that --format takes."""
WIDEST = 140
LEAST = 16
"""Columns that a text beside a name has at least."""


def write(stream: TextIO, text: str) -> None:
    """Text and a newline; characters the stream does not know are escaped, and a reader that has left is no error."""
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        # what is still buffered goes nowhere, or the interpreter would complain when it exits
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_bytes(data: bytes) -> None:
    """Bytes to standard output; UnvanishError where it is a terminal, which a picture would only garble."""
    if sys.stdout.isatty():
        raise UnvanishError("this format is not text, and standard output is a terminal; name a file with -o FILE")
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def look_ahead(path: Path) -> None:
    """Refuse a path that cannot be written before a long computation, not after it."""
    if path.is_dir():
        raise UnvanishError(f"cannot write {str(path)!r}: it is a directory; name a file")
    if not path.parent.is_dir():
        raise UnvanishError(f"cannot write {str(path)!r}: there is no directory {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UnvanishError(f"cannot write {str(path)!r}: permission denied")


def format_of(given: str | None, output: str | None, suffixes: Mapping[str, str]) -> str:
    """The format asked for, else the one that the suffix of the output file means, else text.

    ``suffixes``: what each suffix means. UnvanishError for an unknown one, before anything is computed.
    """
    if given is not None or output is None:
        return given or "text"
    suffix = Path(output).suffix.lower()
    if suffix not in suffixes:
        wrong = f"the suffix {suffix!r} names no known format" if suffix else "it has no suffix that names a format"
        raise UnvanishError(f"{output!r}: {wrong}; use one of {', '.join(sorted(suffixes))}, or add --format")
    return suffixes[suffix]


def pictures_ahead(format_: str) -> None:
    """Refuse a picture before a long computation where the packages that draw it are not installed."""
    for package in ("altair", "vl_convert") if format_ in PICTURE.values() else ():
        if importlib.util.find_spec(package) is None:
            raise UnvanishError(
                f"drawing a picture needs the package {package}, which is not installed; try: pip install"
                " 'unvanish[pictures]'"
            )


@contextlib.contextmanager
def stdout_to_stderr() -> Generator[None, None, None]:
    """What a user's program prints, and what its child processes print, must not get into the result."""
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


class Progress:
    """One line on standard error that is written over; where that is no terminal, nothing is shown."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._length = 0

    def __call__(self, done: float, what: str) -> None:
        """Show the share that is done, 0 to 1, and what is being worked on."""
        if self._shown:
            line = f"{done:4.0%}  {what}"[: width() - 1]
            sys.stderr.write("\r" + line.ljust(self._length))
            sys.stderr.flush()
            self._length = len(line)

    @contextlib.contextmanager
    def during(self, what: str) -> Generator[None, None, None]:
        """Say what is being done while it lasts; how much of it is done is not known."""
        if self._shown:
            sys.stderr.write(f"\r{what} …"[: width()])
            sys.stderr.flush()
            self._length = len(what) + 2
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Take the line away, so that what follows starts on an empty one."""
        if self._length:
            sys.stderr.write("\r" + " " * self._length + "\r")
            sys.stderr.flush()
            self._length = 0


def width() -> int:
    """Columns of the terminal, at most as many as a line of text is read well in."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def entries(listed: Sequence[tuple[str, str]]) -> str:
    """Names and what they are, wrapped beside the names, below them where those take more than half of the width.

    Into a pipe, where grep and cut read, an entry is one line.
    """
    names = max((len(name) for name, _ in listed), default=0) + 2
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return "\n".join(f"{name:<{names}}{text}" for name, text in listed)
    beside = 2 * names < width()
    indent = " " * (names if beside else 4)
    texts = (textwrap.wrap(text, max(width() - len(indent), LEAST)) for _, text in listed)
    heads = (f"{name:<{names}}" if beside else f"{name}\n{indent}" for name, _ in listed)
    return "\n".join(head + f"\n{indent}".join(text) for head, text in zip(heads, texts, strict=True))


def colorful() -> bool:
    """Whether colours are wanted on standard output: NO_COLOR and FORCE_COLOR decide before the terminal does."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream's encoding holds the bars and signs of the reports."""
    try:
        "▏┊⋮×…".encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
