"""One file a remedy. A remedy changes a draft, a copy of a training problem, and hands over the code of what it did.

A remedy's file holds functions decorated with ``@remedy(slug, title, …)``; their docstrings say what they do, where
they help and where they do not. ``cures_on`` and ``no_help_on`` name networks of the zoo, as they are
("sigmoid-20") or with another optimizer ("relu-he-20 with SGD 0.1"); one generic test proves every remedy on them, in
both directions.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from unvanish import zoo
from unvanish.records import UnvanishError
from unvanish.remedies.draft import Change, Draft, Recipe, Refused, script
from unvanish.rules import near, refuse_unknown, rules

__all__ = ["Change", "Draft", "Recipe", "Refused", "Remedy", "get", "remedies", "remedy", "script"]

KINDS = (
    "init",
    "activation",
    "normalisation",
    "residual",
    "output",
    "data",
    "noise",
    "numbers",
    "optimizer",
    "rate",
    "clip",
)
Apply = Callable[[Draft], Change]
_registry: dict[str, Remedy] = {}


@dataclass(frozen=True)
class Remedy:
    """A registered remedy: its slug, what kind of edit it is, the findings it answers, and the function that acts.

    ``apply(draft)`` changes the draft and returns the Change; it raises Refused, and leaves the draft as it was, where
    the remedy does not apply. ``only_for``: "" where it applies to most networks; "kind" where it is refused on all
    but one kind of them; "fault" where it looks for the fault that it repairs and is refused without it. Of the latter
    two a search leaves out what does not apply, and what saw its fault it tries first.
    """

    slug: str
    title: str
    kind: str
    apply: Apply
    answers: tuple[str, ...]
    cures_on: tuple[str, ...]
    no_help_on: tuple[str, ...]
    doc: str
    only_for: str = ""


def remedy(
    slug: str,
    title: str,
    *,
    kind: str,
    answers: Iterable[str],
    cures_on: Iterable[str],
    no_help_on: Iterable[str],
    only_for: str = "",
) -> Callable[[Apply], Apply]:
    """Register a remedy. What does not fit is refused when its file is imported, with what to write instead."""

    def register(apply: Apply) -> Apply:
        for name, given in (("answers", answers), ("cures_on", cures_on), ("no_help_on", no_help_on)):
            if isinstance(given, str):
                raise ValueError(f"{slug}: {name}={given!r} is a text; write a tuple, with a comma for a single name")
        proofs = tuple(cures_on), tuple(no_help_on)
        made = Remedy(slug, title, kind, apply, tuple(answers), *proofs, apply.__doc__ or "", only_for)
        if fault := _fault(made) or _unknown(made):
            raise ValueError(fault)
        _registry[slug] = made
        return apply

    return register


def _fault(made: Remedy) -> str:
    """What is missing in a registration and what to write; "" where nothing is."""
    if made.slug in _registry:
        return f"{made.slug} is registered twice: give one of the two remedies another name"
    if made.kind not in KINDS:
        return f"{made.slug} is of no known kind: {made.kind!r}; choose one of {', '.join(KINDS)}"
    if made.only_for not in ("", "kind", "fault"):
        return f'{made.slug}: only_for={made.only_for!r} must be "", "kind" or "fault"'
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9.]+)*", made.slug) or not made.title.strip():
        return f"{made.slug!r} needs a name of small letters, digits, - and . only, and a title"
    if missing := [word for word in ("What:", "Helps:", "Does not help:", "Source:") if word not in made.doc]:
        return f"the documentation of {made.slug} lacks {', '.join(missing)}: its docstring needs a line for each"
    if "FILL IN" in made.doc:
        return f"{made.slug}: its text still says FILL IN"
    if not made.cures_on or not made.no_help_on:
        return f"{made.slug} needs networks it cures and networks it does not help: name some of `unvanish zoo --list`"
    if not made.answers:
        return f"{made.slug} answers nothing: name in answers the codes of the findings that it is worth trying for"
    return ""


def _unknown(made: Remedy) -> str:
    """The first code, network or optimizer that a registration names and that there is not, with the nearest."""
    codes = [each.code for each in rules()]
    for code in made.answers:
        if code not in codes:
            return f"{made.slug} answers {code!r}, but no rule has that code;{near(code, codes)} see docs/rules.md"
    for name in (*made.cures_on, *made.no_help_on):
        network, _, how = name.partition(" with ")
        if network not in zoo.names():
            like = near(network, zoo.names())
            return f"{made.slug}: the zoo has no network {network!r};{like} `unvanish zoo --list` shows them all"
        if how and not re.fullmatch(r"[A-Z]\w+ [\d.e-]+", how):
            return (
                f"{made.slug}: {name!r} must be a network with an optimizer and its rate, such as 'lstm with SGD 0.1'"
            )
    return ""


@cache
def remedies() -> tuple[Remedy, ...]:
    """Every remedy, by kind and slug. Here it is known too what the rules may name: a misspelt name is refused."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    refuse_unknown(remedies=_registry, networks=zoo.names())
    return tuple(sorted(_registry.values(), key=lambda r: (KINDS.index(r.kind), r.slug)))


def get(slug: str) -> Remedy:
    """The remedy of that name; UnvanishError with the nearest names where there is none."""
    for each in remedies():
        if each.slug == slug:
            return each
    like = near(slug, [each.slug for each in remedies()]) or " unvanish.remedies.remedies() lists them all"
    raise UnvanishError(f"there is no remedy {slug!r};{like}")
