"""A page for each code: when it is said, on what numbers it rests, a network that shows it, and what brings it back."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from written import prose, table

import unvanish
from unvanish import zoo
from unvanish.remedies import get
from unvanish.report import Report
from unvanish.rules import Rule, rules
from unvanish.rules.events import EVENTS, Event
from website import navigation, remedy_pages, trainings

LABELS = {
    "Example": "An example", "Why": "Why", "Evidence": "Evidence", "What helps": "What brings it back",
    "Source": "Sources",
}  # fmt: skip


def pages() -> dict[str, str]:
    """The page of every rule and of every event of a watched training, and the table of all of them."""
    made = {f"codes/{rule.code}.md": navigation.ALONE + "\n\n".join(_rule(rule)) + "\n" for rule in rules()}
    made |= {
        f"codes/{event.code}.md": navigation.ALONE + "\n\n".join(_event(event)) + "\n" for event in EVENTS.values()
    }
    return made | {"rules.md": _index()}


def _index() -> str:
    import build

    rows = [
        (f"[{rule.code}](codes/{rule.code}.md)", rule.verdict, " or ".join(rule.levels), rule.title) for rule in rules()
    ]
    watched = [
        (f"[{event.code}](codes/{event.code}.md)", event.verdict, event.level, event.title) for event in EVENTS.values()
    ]
    heads = ("code", "verdict", "level", "what it finds")
    return "\n\n".join((
        "# Codes", build.CODES, table(heads, rows), f"## {build.WATCHED}", build.WATCHED_NOTE, table(heads, watched),
        "## Verdicts", build.verdicts_table(),
    )) + "\n"  # fmt: skip


def _rule(rule: Rule) -> Iterable[str]:
    yield f"# {rule.code} {rule.title}"
    yield f"Verdict [{rule.verdict}](../rules.md#verdicts), level {' or '.join(rule.levels)}. [All codes](../rules.md)."
    for label, text in _told(rule.doc):
        yield from ([f"## {LABELS[label]}", text] if label else [text])
        if label == "What helps" and rule.remedies:
            yield "What [a search](../fixing.md) tries first, and [what was measured of it](../remedies.md):"
            yield remedy_pages.record([get(slug) for slug in rule.remedies])
    yield "## What it looks like"
    name, effort, report = example(rule)
    option = "" if effort == "auto" else f" --effort {effort}"
    yield f"`{name}` of [the zoo](../zoo.md): {zoo.get(name).about}."
    yield f"```console\n$ unvanish zoo {name}{option}\n{report}\n```"
    yield "## Where a test holds it to its word"
    yield f"It speaks on {_names(rule.fires_on)}, and is silent on {_names(rule.silent_on)}, with five seeds each."


def example(rule: Rule) -> tuple[str, str, Report]:
    """The first network, at the least effort, on which the rule speaks: its name, the effort, the report."""
    for effort in ("auto", "full"):
        for name in rule.fires_on:
            report = unvanish.diagnose(zoo.get(name).build(0), effort=effort)
            if any(finding.code == rule.code for finding in report.findings):
                return name, effort, report
    raise SystemExit(f"{rule.code} speaks on none of {', '.join(rule.fires_on)} with seed 0")


def _event(event: Event) -> Iterable[str]:
    yield f"# {event.code} {event.title}"
    yield (
        f"Verdict [{event.verdict}](../rules.md#verdicts), level note. It is found only while a training is"
        " [watched](../watching.md), because it compares the training with its own past. [All codes](../rules.md)."
    )
    yield prose(event.doc)
    yield "## What it looks like"
    code, said = trainings.shown(event.code)
    yield f"```python\n{code}\n```"
    yield f"```text\n{said}\n```"
    yield "## What brings it back"
    yield _asked_further(event)


def _asked_further(event: Event) -> str:
    """Where to read on: a change has no remedy of its own, what it comes from has."""
    alike = ", ".join(
        f"[{rule.code} {rule.title}]({rule.code}.md)" for rule in rules() if rule.verdict == event.verdict
    )
    return (
        "A change says when something began, not why. A full check of the running batch (`run.check()`, or"
        " `check_every=`)"
        f" names the cause, and with it what helps. Its findings of the verdict {event.verdict} are: {alike}."
    )


def _told(doc: str) -> Iterable[tuple[str, str]]:
    """The paragraphs of a docstring, each with its label; "" for one without."""
    for paragraph in inspect.cleandoc(doc).split("\n\n"):
        label, _, text = paragraph.partition(": ")
        if label not in LABELS:
            yield "", prose(paragraph)
        else:
            # a name such as log10_signal keeps its small letter
            yield label, prose(text if re.match(r"\w*[\d_]", text) else text[:1].upper() + text[1:])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
