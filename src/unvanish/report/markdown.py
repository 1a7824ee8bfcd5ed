"""Markdown as code hosts show it, for a comment, an issue or a page of a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from unvanish.records import Finding
from unvanish.report.formats import writer
from unvanish.report.index import index
from unvanish.report.sentences import beyond_headline, called, checked, evidence_fact, headline, places, title
from unvanish.report.text import STAIRCASE, backward_staircase
from unvanish.report.through_time import TITLE, shown
from unvanish.words.markup import visible

if TYPE_CHECKING:
    from unvanish.report import Report

WIDTH = 110
"""Cells of the staircase: what a code block of a pull request shows without scrolling."""


@writer("md", suffix=".md")
def write(report: Report) -> str:
    """Markdown: the verdict, the backward staircase as text, the findings with their evidence, what was not decided."""
    return "\n\n".join(_blocks(report))


def _blocks(report: Report) -> Iterator[str]:
    word = called(report)
    yield f"## {_plain(word)}: {_plain(headline(report))}"
    yield "\n".join(f"- {_plain(fact)}" for fact in checked(report))
    drawn = backward_staircase(report, WIDTH)
    if drawn:
        yield f"### {STAIRCASE}"
        yield listing(drawn)
    if report.time:
        yield f"### {TITLE}"
    for name, bars, sentence in shown(report.time, report.setting.dtype):
        yield _plain(f"{name}: {sentence}")
        if bars:
            yield listing(bars)
    if report.findings:
        yield "### Findings"
        yield _table(("code", "what", "level", "layers"), (_row(report, finding) for finding in report.findings))
    for finding in report.findings:
        yield from _finding(report, finding)
    if report.undecided:
        yield "### Not decided"
        yield "\n".join(f"- {_plain(what)}: {_plain(why)}" for what, why in report.undecided)
    if report.notes:
        yield "### Notes"
        yield "\n".join(f"- {_plain(note)}" for note in report.notes)


def _row(report: Report, finding: Finding) -> tuple[str, ...]:
    return finding.code, title(finding), finding.level, index(report).span(finding) or "the network as a whole"


def _finding(report: Report, finding: Finding) -> Iterator[str]:
    yield f"#### {_plain(finding.code)} {_plain(title(finding))}"
    beyond = beyond_headline(report, finding)
    if beyond:
        yield _plain(beyond)
    facts = [
        ("cause", _plain(finding.cause)),
        *(("measured", _plain(evidence_fact(each))) for each in finding.evidence),
        ("called at", _plain(places(report, finding))),
        ("worth trying", ", ".join(_code(slug) for slug in finding.remedies)),
    ]
    told = [f"- {label}: {fact}" for label, fact in facts if fact]
    if told:
        yield "\n".join(told)


def _plain(text: str) -> str:
    """The text with nothing in it that Markdown or HTML would interpret."""
    safe = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~!$])|^([+-]|\d+[.)])(?=\s)", _escaped, safe)


def _escaped(match: re.Match[str]) -> str:
    text = match[0]
    return f"{text[:-1]}\\{text[-1]}"


def _code(text: str) -> str:
    """A code span; a text with backticks in it gets longer fences."""
    fence = "`" * (_longest_ticks(text) + 1)
    blank = " " if "`" in text else ""
    return f"{fence}{blank}{visible(text)}{blank}{fence}"


def listing(text: str) -> str:
    """The text as a code block, whatever backticks it has."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    drawn = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(map(_plain, row)) for row in rows)]
    return "\n".join(f"| {row} |" for row in drawn)
