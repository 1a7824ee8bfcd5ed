"""Where in the source a finding points: the lines at which its layers are called, or its numbers were born."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from unvanish.records import LIVE, Finding
from unvanish.report.index import index

if TYPE_CHECKING:
    from unvanish.report import Report


BORN = re.compile(r" at (\S+:[1-9][0-9]*)\b")
"""How the message of numbers that are not finite names the line of a call."""


class Place(NamedTuple):
    """A line of a source file; a relative path is meant from the folder the check ran in."""

    file: str
    line: int

    @property
    def absolute(self) -> bool:
        return self.file.startswith("/") or re.match(r"[A-Za-z]:[/\\]", self.file) is not None


def place(source: str) -> Place | None:
    """The place that a ``source`` field "file:line" names; None where it names none."""
    match = re.fullmatch(r"(.+):([1-9][0-9]{0,8})", source, re.DOTALL)
    return Place(match[1], int(match[2])) if match else None


def lines(report: Report, finding: Finding) -> list[tuple[Place, tuple[str, ...]]]:
    """The source lines a finding points at, input side first, each with the layers that are called there.

    First stands the call in which numbers that are not finite were born, where the finding names one. A finding about
    the network as a whole points at the call its outputs come from, with no layers.
    """
    called: dict[Place, list[str]] = {}
    if finding.verdict == "nonfinite" and (born := BORN.search(finding.message)) and (where := place(born[1])):
        called[where] = []
    for layer in index(report).named(finding.layers):
        where = place(layer.source)
        if where is not None:
            called.setdefault(where, []).append(layer.name)
    if called or finding.layers:
        return [(where, tuple(names)) for where, names in called.items()]
    watched = report.layers if report.asked == LIVE else ()  # a run knows no other calls
    ends = [where for call in reversed(report.calls or watched) if (where := place(call.source)) is not None]
    return [(ends[0], ())] if ends else []
