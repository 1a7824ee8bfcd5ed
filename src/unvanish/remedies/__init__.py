"""One file a remedy. A remedy changes a draft, a copy of a training problem, and hands over the code of what it did.

A remedy's file holds functions decorated with ``@remedy(slug, title, …)``; their docstrings say what they do, where
they help and where they do not. ``cures_on`` and ``no_help_on`` name networks of the zoo, as they are
("sigmoid-20") or with another optimizer ("relu-he-20 with SGD 0.1"); one generic test proves every remedy on them, in
both directions.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from unvanish import zoo
from unvanish.records import UnvanishError
from unvanish.remedies.draft import Change, Draft, Recipe, Refused, script
from unvanish.rules import refuse_unknown

__all__ = ["Change", "Draft", "Recipe", "Refused", "Remedy", "get", "remedies", "remedy", "script"]

KINDS = ("init", "activation", "normalisation", "residual", "output", "data", "optimizer", "rate", "clip")
Apply = Callable[[Draft], Change]
_registry: dict[str, Remedy] = {}


@dataclass(frozen=True)
class Remedy:
    """A registered remedy: its slug, what kind of edit it is, the findings it answers, and the function that acts.

    ``apply(draft)`` changes the draft and returns the Change; it raises Refused, and leaves the draft as it was, where
    the remedy does not apply.
    """

    slug: str
    title: str
    kind: str
    apply: Apply
    answers: tuple[str, ...]
    cures_on: tuple[str, ...]
    no_help_on: tuple[str, ...]
    doc: str


def remedy(
    slug: str,
    title: str,
    *,
    kind: str,
    answers: Iterable[str],
    cures_on: Iterable[str],
    no_help_on: Iterable[str],
) -> Callable[[Apply], Apply]:
    """Register a remedy. Refuses a second one of the same slug, an unknown kind, no documentation, and no proof."""

    def register(apply: Apply) -> Apply:
        text = apply.__doc__ or ""
        if slug in _registry:
            raise ValueError(f"{slug} is registered twice")
        if kind not in KINDS:
            raise ValueError(f"{slug} is of no known kind: {kind!r}")
        missing = [word for word in ("What:", "Helps:", "Does not help:", "Source:") if word not in text]
        if missing:
            raise ValueError(f"the documentation of {slug} lacks {', '.join(missing)}")
        proof = tuple(cures_on), tuple(no_help_on)
        if not all(proof):
            raise ValueError(f"{slug} needs networks it cures and networks it does not help")
        _registry[slug] = Remedy(slug, title, kind, apply, tuple(answers), *proof, text)
        return apply

    return register


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
    near = difflib.get_close_matches(slug, [each.slug for each in remedies()], n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "unvanish.remedies.remedies() lists them all"
    raise UnvanishError(f"there is no remedy {slug!r}; {hint}")
