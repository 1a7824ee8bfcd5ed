"""The HTML report as text: well formed, closed to the outside, escaped, small, and true to the record."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser

import made_reports
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_reports import MADE

from unvanish import charts
from unvanish.charts import theme
from unvanish.records import Evidence, Finding
from unvanish.report import Report
from unvanish.report.formats import formats
from unvanish.report.frame import style
from unvanish.report.html import banner, write
from unvanish.report.html_layers import COLUMNS, NAME, PRINTED, SIGNAL, VERDICT, layer_tables, table, told
from unvanish.report.sentences import evidence_fact, said
from unvanish.report.staircase import Fold
from unvanish.words.markup import VOID, Html, h, join, visible

NAMES = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "'onmouseover='alert(3)", "&lt;b&gt;&#60;",
    "</style><style>*{display:none}", "</title><svg onload=alert(4)>", "ε.层.ñ", "طبقة.0",
    "a\u202eb", "\ud800", "]]>", "--><b>",
)  # fmt: skip


def hostile() -> Report:
    """A report in which every text that can come from a program tries to be markup."""
    layers = [
        made_reports.layer(name, -float(place), kind=name, source=f"{name}.py:1", verdict="vanished", gate=name)
        for place, name in enumerate(NAMES)
    ]
    finding = Finding(
        code=NAMES[0], verdict=NAMES[1], level="error", layers=NAMES, cause=NAMES[2], message=f"{NAMES[5]} fails. So.",
        evidence=(Evidence(name=NAMES[0], value=1.0, relation=NAMES[1], threshold=2.0),), remedies=NAMES,
    )  # fmt: skip
    setting = made_reports.SETTING.replace(model=NAMES[5], device=NAMES[0], optimizer=NAMES[1], torch=NAMES[4])
    flow = made_reports.flow(*layers, setting=setting, undecided=((NAMES[0], NAMES[1]),), notes=NAMES)
    return Report.from_flow(flow, [finding])


class Tree(HTMLParser):
    """The elements of a page: fails on one that is not closed, keeps tags, attributes and the text inside each tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("style", "title"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


PAGES = {**MADE, "hostile names": hostile()}


@cache
def written(name: str) -> str:
    """The page of one of the reports; drawn once."""
    return write(PAGES[name])


EVERY = pytest.mark.parametrize("name", PAGES)


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_text_stays_text(inside: str, attribute: str):
    made = h("p", inside, title=attribute)
    parsed = Tree(made)
    assert parsed.elements == [("p", {"title": visible(attribute)})]
    assert parsed.text() == visible(inside)
    assert made.isprintable()


def test_elements():
    assert h("p", "1 < 2", class_="note", aria_label='"x"', hidden=True, title=None, open=False) == (
        '<p class="note" aria-label="&quot;x&quot;" hidden>1 &lt; 2</p>'
    )
    assert h("ul", [h("li", str(n)) for n in range(2)], None, "&") == "<ul><li>0</li><li>1</li>&amp;</ul>"
    assert h("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert join("a\nb", h("br"), ["\x1b"]) == "a\\nb<br>\\x1b"
    assert h("pre", "a\nb\x00") == "<pre>a\nb\\x00</pre>"
    assert isinstance(join(), Html)
    assert join() == ""


@EVERY
def test_the_page_is_closed_to_the_outside(name: str):
    page, tree = written(name), Tree(written(name))
    policy = next(a["content"] for a in tree.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (sheet,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    tags = Counter(tag for tag, _ in tree.elements)
    assert not tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"}
    for tag, attributes in tree.elements:
        assert not [each for each in attributes if each.startswith("on") or each in ("style", "src", "srcset")], tag
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in sheet
    assert "@import" not in sheet


@EVERY
def test_ids_are_unique_and_links_lead_somewhere(name: str):
    tree = Tree(written(name))
    ids = Counter(attributes["id"] for _, attributes in tree.elements if "id" in attributes)
    assert ids
    assert set(ids.values()) == {1}
    ends = [attributes["href"] for attributes in tree.all("a")]
    ends += [f"#{attributes['aria-labelledby']}" for _, attributes in tree.elements if "aria-labelledby" in attributes]
    assert ends
    assert {(end or "").removeprefix("#") for end in ends} <= set(ids)


@EVERY
def test_the_verdict_comes_first_and_headings_skip_no_level(name: str):
    tree = Tree(written(name))
    main = tree.elements[[tag for tag, _ in tree.elements].index("main") :]
    assert (main[2][0], main[2][1].get("role")) == ("p", "status")
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    word = PAGES[name].verdict.replace("_", " ").capitalize()
    assert f"{visible(word)}:" in tree.text()[:300]


def test_hostile_names_are_shown_as_they_are_spelled():
    tree = Tree(written("hostile names"))
    text = tree.text()
    for name in NAMES:
        assert visible(name) in text
    for spelled in ("a\\u202eb", "\\ud800"):
        assert spelled in text
    assert "\u202e" not in written("hostile names")
    assert written("hostile names").encode("utf-8")


def test_the_same_report_gives_the_same_bytes():
    for name, report in PAGES.items():
        assert write(Report.from_json(report.to_json())) == written(name)


def test_evidence_is_in_words_with_error_and_limit():
    # 19 steps back, each times 0.11: log10 is 19 × -0.9586 = -18.2
    (finding,) = MADE["vanishing-20"].findings
    assert said(finding.evidence[0]) == ("transmission", "log10_transmission", "10^-18.2", "", "< 10^-2.5")
    # 19 slopes of a quarter: 19 × log10(0.25) = -11.4
    assert said(finding.evidence[1]) == ("gain of the slopes", "", "10^-11.4", "± 0.01 decades", "")
    assert evidence_fact(finding.evidence[1]) == "gain of the slopes: 10^-11.4 ± 0.01 decades"
    text = Tree(written("vanishing-20")).text()
    for part in ("10−18.2", "< 10−2.5", "10−11.4", "± 0.01 decades", "centred-init", "slopes"):
        assert part in text


def test_everything_else_there_is_to_say():
    report = MADE["vanishing-20"].replace(notes=("the model was in eval mode",))
    text = Tree(write(report)).text()
    for part in (
        "Vanished:", "1 error", "the loss was not tried on other outputs", "the model was in eval mode", "83,210",
        "unvanish.report/1", "--effort auto --seed 0", "effort='auto', seed=0", "About UV101: vanishing gradient",
        "Hochreiter 1991", "20 Linear layers: 17 vanished, 3 healthy", "net.py:12",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("levels", "words"),
    [((), "no findings"), (("note", "error"), "1 error, 1 note"), (("error", "note", "error"), "2 errors, 1 note")],
)
def test_the_banner_counts_the_findings(levels, words):
    (finding,) = MADE["vanishing-20"].findings
    report = MADE["vanishing-20"].replace(findings=tuple(finding.replace(level=level) for level in levels))
    assert Tree(banner(report)).texts[-1] == ("span", words)


def test_a_code_this_version_does_not_know_has_no_documentation():
    (finding,) = MADE["vanishing-20"].findings
    report = MADE["vanishing-20"].replace(findings=(finding.replace(code="UV999"),))
    assert "About UV999" not in write(report)
    assert "UV999" in write(report)


def test_a_page_of_nothing():
    report = Report.from_flow(made_reports.flow(loss=None), [])
    text = Tree(write(report)).text()
    assert "nothing was found, but no layer was measured either" in text
    assert "Every layer" not in text


def test_columns_that_say_nothing_are_left_out():
    layers = MADE["vanishing-20"].layers
    headers = [column.header for column in told(layers, COLUMNS)]
    assert headers == [
        "layer", "verdict", "error signal", "step back", "by weights", "by slopes", "parameters", "called at",
    ]  # fmt: skip
    mixed = (layers[0].replace(kind="Conv2d"), *layers[1:])  # of one class the line above the table speaks
    assert "class" in [column.header for column in told(mixed, COLUMNS)]
    cells = [[column.cell(each) for column in told(layers, COLUMNS)] for each in layers]
    # 0.11 to the power of 19 is 10^-18.2; nothing lies before the first layer
    assert cells[0] == ["fc1", "vanished", "10^-18.2", "–", "–", "–", "4,160", "net.py:12"]
    assert cells[19] == ["fc20", "healthy", "1.0", "×0.11", "×0.44", "×0.25", "4,160", "net.py:12"]


def test_paper_gets_the_first_columns_of_a_broad_table_and_is_told_so():
    layers = [made_reports.layer("a", 0.0, **dict.fromkeys([each.field for each in COLUMNS[4:17]], 0.5))]
    made = "".join(layer_tables(layers))
    assert '<div class="scroll broad cards"' in made
    sheet = style("parts.css")
    assert f"nth-child(n+{PRINTED + 1}){{display:none}}" in sheet
    assert '<div class="scroll broad cards"' not in "".join(layer_tables(MADE["vanishing-20"].layers))


def test_zeros_infinities_and_what_was_not_measured_look_different():
    by_field = {column.field: column for column in COLUMNS}
    signal, steps = by_field["log10_signal"], by_field["steps_to_learn"]
    zero, absent = made_reports.layer("a", -math.inf), made_reports.layer("b", None, steps_to_learn=math.inf)
    assert [signal.cell(zero), signal.cell(absent)] == ["exactly 0", "–"]
    assert [steps.cell(absent), steps.cell(zero)] == ["inf", "–"]
    assert steps.cell(zero.replace(steps_to_learn=3.2e26)) == "10^26.5"
    assert by_field["update_to_weight_ratio"].cell(zero.replace(update_to_weight_ratio=0.0)) == "0"


def test_twenty_layers_take_at_most_200_kilobytes():
    assert len(written("vanishing-20").encode()) <= 200_000


def test_a_fold_says_how_many_layers_and_the_range_of_their_signals():
    signals = (-math.inf, math.nan, None, -3.0)
    run = Fold(tuple(made_reports.layer(str(place), signal) for place, signal in enumerate(signals)))
    tree = Tree(table([run], [NAME, VERDICT, SIGNAL], "Layers"))
    assert [data for tag, data in tree.texts if tag == "td"] == ["⋮ 4 layers", "healthy", "exactly 0 … "]
    assert tree.text().endswith("exactly 0 … 10−3.0")
    nothing = Tree(table([Fold(run.layers[2:3])], [NAME, SIGNAL], "Layers"))
    assert [data for tag, data in nothing.texts if tag == "td"] == ["⋮ 1 layers"]


def test_of_a_thousand_layers_few_are_in_view_and_all_are_there():
    page = written("vanishing-1000")
    shown = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "⋮" in shown
    assert shown.count("<tr") <= 40
    hidden = re.search(r"<summary>All 1,000 layers</summary>(.*?)</details>", page, re.DOTALL)
    assert hidden is not None
    assert hidden[1].count('<th scope="row">') == 1000
    assert len(page.encode()) <= 500_000


@pytest.mark.parametrize("shades", range(3), ids=theme.THEMES)
def test_text_stands_out_from_its_ground(shades: int):
    for ground in ("bg", "even"):
        for ink in ("fg", "mut", "down", "up"):
            ratio = contrast(theme.TOKENS[ink][shades], theme.TOKENS[ground][shades])
            assert ratio >= 4.5, f"{ink} on {ground}: {ratio:.2f}"


def contrast(a: str, b: str) -> float:
    """The ratio of luminances of WCAG 2: black on white is 21."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(code: str) -> float:
    parts = [int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_is_that_of_the_standard():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_only_colours_that_exist_are_asked_for():
    asked = set(re.findall(r"var\(--uv-(\w+)", written("vanishing-20")))
    assert asked
    assert asked <= set(theme.TOKENS)


def test_without_the_packages_that_draw_the_staircase_is_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    charts._template.cache_clear()
    page = write(MADE["vanishing-20"])
    charts._template.cache_clear()
    text = Tree(page).text()
    assert "<svg" not in page
    assert text.count("pip install 'unvanish[pictures]'") == 1
    lines = [line for line in text.splitlines() if "█" in line or "▏" in line]
    assert [line.split()[0] for line in lines] == [f"fc{place}" for place in range(1, 21)]
    assert lines[-1].count("█") == 40
    assert lines[0].count("█") < lines[10].count("█") < lines[-1].count("█")


def test_the_format_is_registered(tmp_path):
    assert {each.name: each.suffix for each in formats()}["html"] == ".html"
    MADE["healthy"].save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == write(MADE["healthy"]) + "\n"
