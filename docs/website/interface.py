"""The page of the interface: every public name with its signature and docstring, read by Sphinx from the package."""

from __future__ import annotations

import importlib

import unvanish

SHOWN = {
    "Checking": ("diagnose", "Problem", "Report", "assert_healthy"),
    "Repairing": ("fix", "trials.Fixes"),
    "Watching": ("watch", "watching.watch.Watch", "load_run", "watching.run.Run"),
    "Many networks": ("sweep", "population.sweeping.Sweep"),
    "The lab and the zoo": ("lab.run", "lab.experiments", "lab.Outcome", "zoo.get", "zoo.names", "zoo.Network"),
    "Pictures": ("charts.Chart",),
    "Errors": ("UnvanishError",),
}


def pages() -> dict[str, str]:
    """One page."""
    shown = {name for names in SHOWN.values() for name in names}
    if missing := set(unvanish.__all__) - shown:
        raise SystemExit(f"the page of the interface does not show {', '.join(sorted(missing))}")
    parts = [
        "# Python interface",
        "Everything here is imported from `unvanish`; importing it loads neither torch nor numpy, which come with the"
        " first use. Wrong arguments raise one `UnvanishError`, which says what was asked, what was found and what to"
        " try. Shapes: N is the batch, the first axis of every input. The fields of the records are in the"
        " [glossary](glossary.md), the callbacks of frameworks on [a page of their own](integrations.md).",
    ]
    for heading, names in SHOWN.items():
        parts += [f"## {heading}", *map(_entry, names)]
    return {"api.md": "\n\n".join(filter(None, parts)) + "\n"}


def _entry(name: str) -> str:
    """What Sphinx writes about a function, a class with its members, or an error."""
    module, _, last = f"unvanish.{name}".rpartition(".")
    found = getattr(importlib.import_module(module), last)
    if not isinstance(found, type):
        kind, more = "function", []
    elif issubclass(found, Exception):
        kind, more = "exception", []
    else:
        kind, more = "class", ["   :members:"]
    return "\n".join(("```{eval-rst}", f".. auto{kind}:: unvanish.{name}", *more, "```"))
