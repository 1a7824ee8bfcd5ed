"""What a notebook shows of a report, a layer, a finding."""

from __future__ import annotations

import math
import re

import pytest
from made_reports import MADE, layer
from test_html import NAMES, Tree, hostile

from unvanish.records import Evidence, Record
from unvanish.report import Report
from unvanish.words.markup import visible

REPORTS = {**MADE, "hostile names": hostile()}


def shown(record: Record) -> str:
    return record._repr_html_()


def rows(page: str) -> dict[str, str]:
    """The values of a record's table by field."""
    cells = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>', page, re.DOTALL)
    return {name: re.sub("<.*?>", "|", value) for name, value in cells}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_shows_verdict_and_findings(name: str):
    report = REPORTS[name]
    tree = Tree(shown(report))
    text = tree.text()
    assert f"{visible(report.verdict).replace('_', ' ').capitalize()}:" in text
    assert all(visible(finding.code) in text for finding in report.findings)
    assert tree.elements[0][0] == "section"
    assert not [tag for tag, _ in tree.elements if tag in ("script", "img", "link", "iframe")]
    assert not [tag for tag, attributes in tree.elements if {"style", "onload", "onerror", "src"} & attributes.keys()]


def test_ids_and_what_refers_to_them_are_new_each_time():
    pages = [shown(MADE["vanishing-20"]) for _ in range(3)]
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in pages]
    assert all(ids)
    assert not ids[0] & ids[1]
    assert not (ids[0] | ids[1]) & ids[2]
    for page, ids_of_page in zip(pages, ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page)) <= ids_of_page


def test_its_rules_reach_no_other_cell():
    sheet = "".join(re.findall("<style>(.*?)</style>", shown(MADE["vanishing-20"]), re.DOTALL))
    plain = re.sub(r"@media[^{]+\{((?:[^{}]+\{[^{}]*\})*)\}", r"\1", re.sub(r":is\([^)]*\)", "", sheet))
    selectors = [each.strip() for rule in re.findall(r"([^{}]+)\{", plain) for each in rule.split(",")]
    assert selectors
    assert [each for each in selectors if ".uv" not in each] == []


def test_it_follows_the_dark_themes_of_notebooks():
    sheet = shown(MADE["healthy"])
    for mark in ('[data-jp-theme-light="false"] .uv.cell', ".vscode-dark .uv.cell"):
        assert mark in sheet


def test_a_layer_shows_its_fields_and_what_they_mean():
    made = layer("fc<1>", -27.3125, verdict="vanished", newton_decrement=None, steps_to_learn=math.inf, noise=True)
    page = shown(made)
    Tree(page)
    values = rows(page)
    assert list(values) == list(made.__struct_fields__)
    assert values["name"] == "fc&lt;1&gt;"
    assert values["log10_signal"] == "-27.3125"
    assert values["newton_decrement"] == "–"
    assert values["steps_to_learn"] == "inf"
    assert values["parameters"] == "4160"
    assert values["noise"] == "True"
    assert "Log10 of the error signal: √N times the norm" in page


def test_a_finding_shows_its_evidence():
    page = shown(MADE["vanishing-20"].findings[0])
    values = rows(page)
    assert values["code"] == "UV101"
    # 19 steps back, each times 0.11: 19 × -0.958607; 19 slopes of a quarter: 19 × -0.60206
    assert values["evidence"].split("|") == [
        "name: log10_transmission · value: -18.2135 · relation: &lt; · threshold: -2.5",
        "name: log10 gain of the slopes · value: -11.4391 · error: 0.01",
    ]
    assert "The numbers the finding rests on." in page


def test_a_long_field_is_cut_and_says_so():
    finding = MADE["vanishing-1000"].findings[0]
    names = rows(shown(finding))["layers"]
    assert names.count("fc") == 20
    assert f"and {len(finding.layers) - 20} more" in names
    assert rows(shown(finding.replace(layers=())))["layers"] == "none"


def test_names_in_records_are_shown_as_they_are_spelled():
    for name in NAMES:
        for record in (layer(name, 0.0, kind=name), Evidence(name=name, value=1.0)):
            tree = Tree(shown(record))
            tags = {tag for tag, _ in tree.elements}
            assert tags == {"div", "style", "table", "caption", "thead", "tbody", "tr", "th", "td"}
            assert visible(name) in tree.text()


def test_a_report_that_was_read_shows_itself_too():
    again = Report.from_json(MADE["dead"].to_json())
    strip = re.compile(r"uv-[0-9a-f]+-\d+")
    assert strip.sub("", shown(again)) == strip.sub("", shown(MADE["dead"]))
