"""One file a format. A format is a pure function from a report to text; its docstring says who reads it.

A format's file holds one function decorated with ``@writer(name, suffix=…)``; text and JSON, which a report writes by
itself, are registered here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unvanish.report import Report

Write = Callable[["Report"], str]
_registry: dict[str, Format] = {}


@dataclass(frozen=True)
class Format:
    """A registered format: its name, the suffix of its files ("" where none means it), and the function that writes."""

    name: str
    suffix: str
    write: Write

    @property
    def doc(self) -> str:
        return self.write.__doc__ or ""


def writer(name: str, suffix: str = "") -> Callable[[Write], Write]:
    """Register a format. Refuses a second one of the same name or suffix, and a missing docstring."""

    def register(write: Write) -> Write:
        if name in _registry:
            raise ValueError(f"the format {name!r} is registered twice")
        if suffix and suffix in {each.suffix for each in _registry.values()}:
            raise ValueError(f"the suffix {suffix!r} already means another format than {name!r}")
        if not write.__doc__:
            raise ValueError(f"the format {name!r} needs a docstring: it is its documentation")
        _registry[name] = Format(name, suffix, write)
        return write

    return register


@cache
def formats() -> tuple[Format, ...]:
    """Every text format, by name. The text has no newline at its end."""
    from unvanish import report

    for module in pkgutil.iter_modules(report.__path__):
        importlib.import_module(f"{report.__name__}.{module.name}")
    return tuple(sorted(_registry.values(), key=lambda each: each.name))


@writer("text", suffix=".txt")
def text(report: Report) -> str:
    """The report as it stands in a terminal, 80 columns wide and without colours."""
    return str(report)


@writer("json", suffix=".json")
def json(report: Report) -> str:
    """Everything that was measured, for programs; its JSON Schema comes with the package."""
    return report.to_json()
