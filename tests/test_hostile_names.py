"""Names that would do something if they were interpreted, through every writer of check, fix and lab."""

from __future__ import annotations

import base64
import csv
import hashlib
import html.parser
import io
import json
import re
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import made_reports
import pytest
from sarif_schema import SARIF

from unvanish import lab
from unvanish.records import Evidence, Finding, Trial
from unvanish.report import Report
from unvanish.report.formats import COMMANDS, formats
from unvanish.trials import Fixes
from unvanish.words.markup import visible

LONG = "x" * 10_000
NAMES = (
    "<img src=x onerror=alert(1)>", "</style></script><script>alert(1)</script>", '" onload="alert(1)', "&lt;&#x202e;",
    "\x1b[31mred\x1b[0m", "bell\x07\x00", "line\nfeed\r", "right\u202eleft\u2066", "zero\u200bwidth\ufeff", "\ud800",
    "]]><b>", "-->", "```\n# heading", "| a | b |", "::error::x%0A", "[bold]x[/bold]", "=1+1", "größe.层", LONG,
)  # fmt: skip
ESCAPES = (r"\x1b[31mred", r"bell\x07\x00", r"right\u202eleft\u2066", r"zero\u200bwidth\ufeff", r"\ud800")
PROGRAMS = ("code", "diff")
"""Formats that are the user's program: nothing in it may be changed."""
PICTURES = ("png", "pdf")


def report() -> Report:
    layers = [
        made_reports.layer(name, -float(place), kind=name, source=f"{name}.py:1", verdict="vanished", gate=name)
        for place, name in enumerate(NAMES)
    ]
    every = ", ".join(NAMES)
    finding = Finding(
        code=NAMES[0], verdict=NAMES[4], level="error", layers=NAMES, cause=NAMES[7], message=f"{every} fails. {every}",
        evidence=tuple(Evidence(name=name, value=1.0, relation=name, threshold=2.0) for name in NAMES), remedies=NAMES,
    )  # fmt: skip
    setting = made_reports.SETTING.replace(model=every, device=NAMES[5], optimizer=NAMES[7], torch=NAMES[8])
    flow = made_reports.flow(*layers, setting=setting, undecided=tuple(zip(NAMES, NAMES, strict=True)), notes=NAMES)
    return Report.from_flow(flow, [finding, finding.replace(level="note")])


def fixes() -> Fixes:
    trials = tuple(
        Trial(remedy=name, edits=(name,), change=name, score=place / 20, score_spread=(0.0, 1.0), baseline=0.1,
              steps=9, seeds=3, judged=True, needed=0.1, helped=True, reason=name)
        for place, name in enumerate(NAMES)
    )  # fmt: skip
    every = "\n".join(NAMES)
    return Fixes(
        verdict="repaired", trials=trials, best=trials[0].replace(change=every), model=None, code=every,
        before=report(), after=None, as_is=trials[0].replace(remedy="as is"), unit=" ".join(NAMES), unseen=True,
        split=True, planned=9, budget=99, spent=50, seeds=3, refused=tuple(zip(NAMES, NAMES, strict=True)),
        cut_off=NAMES, remarks=NAMES, patch=every, patch_refused=every,
    )  # fmt: skip


def outcome(*, tall: bool) -> lab.Outcome:
    """``tall``: with a row that is a sentence, for which the text has another layout."""
    columns = (lab.Column("who"), lab.Column("log10_g", "log10", NAMES[0]), lab.Column(NAMES[1], NAMES[7], NAMES[2]))
    names = NAMES if tall else tuple(name for name in NAMES if name != LONG)
    return lab.Outcome(
        experiment="toy", title=" ".join(NAMES), sentence=" ".join(NAMES), columns=columns,
        settings={"text": " ".join(NAMES), **{f"s{place}": name for place, name in enumerate(NAMES)}},
        rows=tuple({"who": name, "log10_g": -3.0, NAMES[1]: [name, name]} for name in names),
        pictures=(lab.Drawing.of("remedies", NAMES[1], " ".join(NAMES), [
            {"name": name, "score": 0.5, "low": 0.1, "high": 0.7, "gain": None, "baseline": not place}
            for place, name in enumerate(NAMES)
        ], unit="score"),),
        checks=(lab.Check(NAMES[0], NAMES[4], NAMES[7], True), lab.Check(NAMES[8], NAMES[9], NAMES[10], False)),
        notes=NAMES,
    )  # fmt: skip


MADE: dict[str, list[Any]] = {"check": [report()], "fix": [fixes()], "lab": [outcome(tall=False), outcome(tall=True)]}
WRITTEN = [
    (of, each.name, place)
    for of in COMMANDS
    for each in formats(of)
    if each.name not in (*PROGRAMS, *PICTURES)
    for place in range(len(MADE[of]))
]
SHOWN = [*WRITTEN, *((of, "cell", 0) for of in MADE)]


@cache
def written(of: str, name: str, place: int = 0) -> str:
    """What a format makes of a record, and ``cell`` what a notebook shows; when first asked for, as some are drawn."""
    record = MADE[of][place]
    if name == "cell":
        return record._repr_html_()
    return next(each.write for each in formats(of) if each.name == name)(record)


def named(which: tuple[str, str, int]) -> str:
    return "-".join(map(str, which))


@pytest.mark.parametrize("which", SHOWN, ids=named)
def test_nothing_invisible_or_turning_is_written(which: tuple[str, str, int]) -> None:
    text = written(*which)
    assert not {c for c in text if not c.isprintable() and c != "\n"}
    text.encode("utf-8")


@pytest.mark.parametrize("which", [each for each in SHOWN if each[1] in ("html", "cell", "svg")], ids=named)
def test_names_become_no_elements_and_no_attributes(which: tuple[str, str, int]) -> None:
    elements: list[tuple[str, dict[str, str]]] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, {key: value or "" for key, value in attrs}))

    Reader(convert_charrefs=True).feed(written(*which))
    tags = {tag for tag, _ in elements}
    assert not tags & {"script", "img", "b", "iframe", "link", "base", "form", "object", "embed"}
    for _, attributes in elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "srcset")]
        if which[1] != "svg":
            assert "style" not in attributes, "the policy would not let it through"


@pytest.mark.parametrize("which", [each for each in WRITTEN if each[1] == "html"], ids=named)
def test_every_page_has_the_policy_before_anything_it_rules(which: tuple[str, str, int]) -> None:
    text = written(*which)
    (sheet,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src &#x27;none&#x27;; style-src &#x27;sha256-{digest}&#x27;; img-src data:"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri &#x27;none&#x27;; form-action'
    assert 0 < text.index(meta) < text.index("<title>") < text.index("<style>")
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    for escape in ESCAPES:
        assert escape in shown, "a name is shown as it is spelled"


@pytest.mark.parametrize("of", ["check", "fix"])
@pytest.mark.parametrize("width", [40, 80, 140])
def test_lines_of_text_stay_inside_the_page(of: str, width: int) -> None:
    from rich.cells import cell_len

    from unvanish.report import fix_text, text

    for unicode in (True, False):
        lines = text.render(MADE["check"][0], width, unicode=unicode) if of == "check" else ""
        lines = lines or fix_text.render(MADE["fix"][0], width, unicode=unicode)
        assert unicode or lines.isascii()
        if of == "check":
            # the last line names a command to copy, which is not wrapped
            assert max(map(cell_len, lines.splitlines()[:-1])) <= width
        assert "\x1b" not in lines and r"\x1b[31m" in lines


def test_what_programs_read_gives_the_names_back() -> None:
    assert json.loads(written("check", "json"))["layers"][4]["name"] == NAMES[4]
    assert json.loads(written("lab", "json"))["notes"] == list(NAMES)
    assert json.loads(written("fix", "json"))["remarks"] == list(NAMES)
    jsonschema.validate(json.loads(written("check", "sarif")), SARIF, jsonschema.Draft202012Validator)
    cases = ET.fromstring(written("check", "junit")).findall(".//testcase")
    assert [case.get("name") for case in cases[1:]] == [visible(name) for name in NAMES]
    assert all(line.startswith(("::error ", "::notice ")) for line in written("check", "github").split("\n"))
    rows = list(csv.reader(io.StringIO(written("lab", "csv"))))
    assert [row[0] for row in rows[1:]] == [visible(name) for name in NAMES if name != LONG]
    assert {len(row) for row in rows} == {3}


def test_a_listing_in_markdown_is_left_by_no_name() -> None:
    for of in ("check", "fix"):
        fence = ""
        for line in written(of, "md").split("\n"):
            ticks = re.match("`{3,}", line)
            if ticks and (not fence or line == fence):
                fence = "" if fence else ticks[0]
            assert fence or not re.match(r"<\w|# heading", line)
        assert not fence


def test_a_program_is_handed_over_as_it_is() -> None:
    assert written("fix", "code") == written("fix", "diff") == "\n".join(NAMES)
