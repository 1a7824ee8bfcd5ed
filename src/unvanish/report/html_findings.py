"""A finding as HTML: the message, the layers, the numbers it rests on, what helps, and the rule's documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unvanish.records import Finding
from unvanish.report.html_layers import disclosed, listing, scrolling, tone
from unvanish.report.index import index
from unvanish.report.sentences import beyond_headline, places, said, words
from unvanish.rules import Event, Rule, known
from unvanish.words.markup import Child, Html, h, prose

if TYPE_CHECKING:
    from unvanish.report import Report

LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
LEAD = re.compile(r"(Example|Why|Evidence|What helps|Source)(?=:)")


def finding_article(report: Report, finding: Finding, *, brief: bool = False) -> Html:
    """One finding; a brief one stands close to the headline, does not repeat it, and leaves the rule's own page out."""
    word = words(finding.verdict)
    level = h("span", finding.level, class_="level")
    head = h(
        "h4" if brief else "h3",
        h("code", finding.code),
        " ",
        h("span", word, class_=f"word {tone(finding.verdict)}"),
        " ",
        level,
    )
    text = beyond_headline(report, finding) if brief else finding.message
    facts = (
        ("layers", index(report).span(finding)),
        ("cause", finding.cause),
        ("called at", places(report, finding)),
    )
    listed = [[h("dt", label), h("dd", fact)] for label, fact in facts if fact]
    if finding.remedies:
        slugs = [[" ", h("li", h("code", slug))] for slug in finding.remedies]
        listed.append([h("dt", "worth trying"), h("dd", h("ul", slugs, class_="slugs"))])
    return h(
        "article",
        head,
        h("p", prose(text)) if text else None,
        h("dl", listed, class_="facts") if listed else None,
        _evidence(finding),
        None if brief else _documentation(finding.code),
        class_=f"finding {finding.level}",
    )


def _evidence(finding: Finding) -> Html | None:
    """The numbers the finding rests on, with their errors and limits."""
    numbers = [said(each) for each in finding.evidence]
    if not numbers:
        return None
    heads = ["measured", "value", "± error", "limit"]
    rows = [
        [[each.words, " ", h("code", each.field)] if each.field else each.words, each.value, each.error, each.limit]
        for each in numbers
    ]
    shown = [place for place in range(len(heads)) if place < 2 or any(row[place] for row in rows)]
    label = f"Evidence for {finding.code}"
    body = [
        h("tr", h("th", row[0], scope="row"), [_number(row[place], heads[place]) for place in shown[1:]])
        for row in rows
    ]
    head = h("tr", [h("th", heads[place], scope="col", class_=place > 0 and "n") for place in shown])
    return scrolling(label, h("caption", label, class_="unseen"), h("thead", head), h("tbody", body), cards=True)


def _number(said: Child, head: str) -> Html:
    return h("td", prose(str(said)), class_="n", data_h=head if said else None)


def _documentation(code: str) -> Html | None:
    """What the rule says about itself; None for a code that is not known here."""
    rule = next((each for each in known() if each.code == code), None)
    if rule is None:
        return None
    return disclosed(f"About {code}: {rule.title}", *_paragraphs(rule))


def _paragraphs(rule: Rule | Event) -> Iterator[Html]:
    for text in inspect.cleandoc(rule.doc).split("\n\n"):
        if "\n " in text:  # a formula or a listing stays as it is
            yield listing(text.split("\n"))
            continue
        lead = LEAD.match(text)
        bold = h("b", lead[0]) if lead else None
        parts = LITERAL.split(" ".join(text[lead.end() if lead else 0 :].split()))
        yield h("p", bold, [h("code", part) if place % 2 else part for place, part in enumerate(parts)])
