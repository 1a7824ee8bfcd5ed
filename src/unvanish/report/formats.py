"""One file a format. A format is a pure function from a record to text; its docstring says who reads it.

A format's file holds functions decorated with ``@writer(name, suffix=…)``; ``of`` says whose answer it writes: that of
``check`` (a Report), of ``fix`` (a Fixes) or of ``lab`` (an Outcome). Commands, the server and ``save`` read the
registry: nothing else has to be edited to add one.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unvanish.records import UnvanishError

Write = Callable[[Any], Any]
"""From a record to text without a newline at its end, or to the bytes of a picture."""
COMMANDS = ("check", "fix", "lab")
DECORATOR = re.compile(r"^@writer(\(.*?\))\n(?=@|def )", re.MULTILINE | re.DOTALL)
_registry: dict[tuple[str, str], Format] = {}


@dataclass(frozen=True)
class Format:
    """A registered format: its name, the suffix of its files ("" where none means it), and the function that writes.

    ``of``: the command whose answer it writes. ``media``: what it is called on the web.
    """

    name: str
    suffix: str
    write: Write
    of: str = "check"
    media: str = "text/plain; charset=utf-8"

    @property
    def doc(self) -> str:
        return self.write.__doc__ or ""


def writer(
    name: str, suffix: str = "", of: str = "check", media: str = "text/plain; charset=utf-8"
) -> Callable[[Write], Write]:
    """Register a format. What does not fit is refused when its file is imported, with what to write instead."""

    def register(write: Write) -> Write:
        if of not in COMMANDS:
            raise ValueError(f"the format {name!r} is of {of!r}; formats are of one of {', '.join(COMMANDS)}")
        if (of, name) in _registry:
            raise ValueError(f"the format {name!r} is registered twice: give one of the two another name")
        if not re.fullmatch("[a-z][a-z0-9-]*", name):
            raise ValueError(f"the format {name!r} cannot be typed behind --format: use small letters, digits and -")
        if suffix and not suffix.startswith("."):
            raise ValueError(f"the suffix {suffix!r} of the format {name!r} needs a dot in front: {'.' + suffix!r}")
        taken = [each.name for each in _registry.values() if suffix and (each.of, each.suffix) == (of, suffix)]
        if taken:
            raise ValueError(
                f"the suffix {suffix!r} is declared by the formats {taken[0]!r} and {name!r}: give one of them another"
            )
        if not write.__doc__:
            raise ValueError(f"the format {name!r} needs a docstring: it is its documentation")
        _registry[of, name] = Format(name, suffix, write, of, media)
        return write

    return register


@cache
def formats(of: str = "check") -> tuple[Format, ...]:
    """Every format of one command's answer, by name."""
    from unvanish import report

    for module in pkgutil.iter_modules(report.__path__):
        importlib.import_module(f"{report.__name__}.{module.name}")
    return tuple(sorted((each for each in _registry.values() if each.of == of), key=lambda each: each.name))


def names(of: str, folder: Path = Path(__file__).parent) -> tuple[str, ...]:
    """The names of one command's formats, text first, read from the source of the decorators.

    A command lists them in its help, for which importing every writer would take too long.
    """
    declared = {name for file in folder.glob("*.py") for name in _declared(file.read_text(encoding="utf-8"), of)}
    return tuple(sorted(declared, key=lambda name: (name != "text", name)))


def find(name: str, of: str = "check") -> Format:
    """The format of that name; UnvanishError with the names there are."""
    for each in formats(of):
        if each.name == name:
            return each
    raise UnvanishError(f"there is no format {name!r}; there are {', '.join(names(of))}")


def suffixes(of: str = "check") -> dict[str, str]:
    """The name of the format that each suffix means."""
    return {each.suffix: each.name for each in formats(of) if each.suffix}


def named_by(path: Path, of: str, what: str, *others: str) -> Format:
    """The format that the suffix of a file names; UnvanishError with the suffixes there are, and ``others``."""
    known = {each.suffix: each for each in formats(of) if each.suffix}
    suffix = path.suffix.lower()
    if suffix in known:
        return known[suffix]
    given = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
    listed = ", ".join(sorted({*known, *others}))
    raise UnvanishError(f"saving {what} to {str(path)!r}: {given} names no known format; use one of {listed}")


def _declared(source: str, of: str) -> list[str]:
    """The names in the decorators of a file that are of this command."""
    declared: list[str] = []
    for decorator in DECORATOR.finditer(source):
        call = ast.parse(f"writer{decorator[1]}", mode="eval").body
        assert isinstance(call, ast.Call)
        named = [call.args[0]] if call.args else [each.value for each in call.keywords if each.arg == "name"]
        commands = [each.value for each in call.keywords if each.arg == "of"]
        if not named or not all(isinstance(each, ast.Constant) for each in (*named, *commands)):
            raise ValueError(f"@writer{decorator[1]}: write the name and the command as texts, such as @writer('csv')")
        if (ast.literal_eval(commands[0]) if commands else "check") == of:
            declared.append(str(ast.literal_eval(named[0])))
    return declared


@writer("text", suffix=".txt")
def text(report: Any) -> str:
    """The report as it stands in a terminal, 80 columns wide and without colours."""
    return str(report)


@writer("json", suffix=".json", media="application/json")
def json(report: Any) -> str:
    """Everything that was measured, for programs; its JSON Schema comes with the package."""
    return report.to_json()
