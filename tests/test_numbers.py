"""One spelling of a number, whoever writes it: the functions, and one value through every writer."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import made_reports
import pytest
import torch

from unvanish import lab
from unvanish.records import Evidence, Finding, Trial
from unvanish.report import Report
from unvanish.report.formats import formats
from unvanish.rules.wording import about, factor
from unvanish.trials import Fixes
from unvanish.words.numbers import (
    LARGEST,
    SMALLEST_NORMAL,
    amount,
    decade,
    exact,
    exactly,
    number,
    percent,
    raise_powers,
    score,
    times,
)  # fmt: skip

INF = math.inf
ROOT = Path(__file__).resolve().parents[1]
PRINTED = [
    ROOT / "README.md",
    *(
        path
        for part in ("src/unvanish", "docs", "examples", "benchmarks")
        for path in sorted((ROOT / part).rglob("*"))
        if path.suffix in (".py", ".js", ".md", ".json", ".toml")
    ),
]
"""What is printed, and what prints."""


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_the_ends_of_a_type_are_those_that_torch_has(name: str) -> None:
    ends = torch.finfo(getattr(torch, name))
    assert SMALLEST_NORMAL[name] == pytest.approx(math.log10(ends.smallest_normal))
    assert LARGEST[name] == pytest.approx(math.log10(ends.max), abs=5e-3)


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (0.0, "1.0"), (-1.0, "0.10"), (-1.5, "0.032"), (-2.0, "0.010"), (-2.3, "10^-2.3"), (2.0, "100"), (2.08, "120"),
        (2.9999, "10^3.0"), (-26.68, "10^-26.7"), (-99.97, "10^-100"), (-1371.3, "10^-1371"), (3.0, "10^3.0"),
        (-INF, "exactly 0"), (INF, "inf"), (math.nan, "nan"), (None, "not measured"),
    ],
)  # fmt: skip
def test_amounts(log10: float | None, text: str) -> None:
    assert amount(log10) == text


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (-26.682125394775, "10^-26.682"), (-1371.699165, "10^-1371.699"), (0.0, "1.000"), (-INF, "0"), (INF, "inf"),
        (math.nan, "nan"), (-3.5, "10^-3.500"), (2.9999999, "10^3.000"), (2.5, "316.2"), (-1.375, "0.04217"),
    ],
)  # fmt: skip
def test_the_lab_gives_four_digits_of_the_same(log10: float, text: str) -> None:
    assert exactly(log10) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "×0.25"), (1, "×1.0"), (0.0421, "×0.042"), (0.0999, "×0.10"), (12.34, "×12"), (9.999, "×10"), (340, "×340"),
     (5000, "×10^3.7"), (0.002, "×10^-2.7")],
)  # fmt: skip
def test_factors(value: float, text: str) -> None:
    assert times(math.log10(value)) == text == f"×{factor(math.log10(value))}"


def test_factors_that_are_no_numbers() -> None:
    assert [times(x) for x in (-INF, INF, math.nan, None)] == ["×0", "×inf", "×nan", "not measured"]


def test_numbers() -> None:
    assert [number(x) for x in (0.69314, 1056.0, -2.5, 1e-30, -2e12, 123456.7, 0.0, -INF, math.nan, None)] == [
        "0.6931", "1,056", "-2.5", "10^-30.0", "-10^12.3", "123,500", "0", "-inf", "nan", "not measured",
    ]  # fmt: skip
    assert number(341.2, 2) == "340"
    assert [exact(x) for x in (0.04219444, 1.5e-9, 3)] == ["0.0421944", "10^-8.824", "3"]
    assert [about(x) for x in (1_234_567, 340.2, INF)] == ["1,200,000", "340", "more than can be counted"]
    assert [score(x) for x in (0.98765, -1234.5, INF, None)] == ["0.988", "-1234", "not finite", "not finite"]


def test_shares() -> None:
    assert [percent(x) for x in (1.0, 0.0002287, 0.3333, 5.181e-9, 0.0, None)] == [
        "100%", "0.0229%", "33.3%", "10^-8.3", "0%", "not measured",
    ]  # fmt: skip


def test_pictures_raise_the_same_power() -> None:
    assert raise_powers("×10^-27.3 of 10^4") == "×10⁻²⁷·³ of 10⁴"
    assert [decade(k) for k in (-27, -1, 0, 1, 4)] == ["10⁻²⁷", "10⁻¹", "1", "10", "10⁴"]


SIGNAL = -26.68
SAID = "10^-26.7"


def report() -> Report:
    layers = (made_reports.layer("fc1", SIGNAL, verdict="vanished"), made_reports.layer("fc2", 0.0, before="fc1"))
    finding = Finding(
        code="UV101", verdict="vanished", level="error", layers=("fc1",),
        message=f"fc1 hardly learns: only {factor(SIGNAL)} arrives.",
        evidence=(Evidence(name="log10_transmission", value=SIGNAL, relation="<", threshold=-2.5),),
    )  # fmt: skip
    return Report.from_flow(made_reports.flow(*layers), [finding])


def outcome() -> lab.Outcome:
    return lab.Outcome(
        experiment="toy", title="toy", sentence=f"It is {amount(SIGNAL)}.", columns=(lab.Column("log10_g", "log10"),),
        rows=({"log10_g": SIGNAL},),
    )  # fmt: skip


def fixes() -> Fixes:
    trial = Trial(
        remedy="r", edits=("r",), change=f"It is {amount(SIGNAL)}", score=0.91, baseline=0.1, steps=9, seeds=1
    )
    return Fixes(
        verdict="repaired", trials=(trial,), best=trial, model=None, code="", before=report(), after=None,
        as_is=trial.replace(remedy="as is", score=0.1), unit="accuracy", unseen=True, split=True, planned=9, budget=99,
        spent=50, seeds=3,
    )  # fmt: skip


WRITERS = [
    pytest.param(each, made, id=f"{of}-{each.name}")
    for of, made in (("check", report()), ("lab", outcome()), ("fix", fixes()))
    for each in formats(of)
    # pictures have a test of their own, and programs and tables of numbers hold the numbers themselves
    if each.name not in ("svg", "png", "pdf", "csv", "code", "diff")
]


@pytest.mark.parametrize(("form", "made"), WRITERS)
def test_one_value_has_one_spelling_in_every_writer(form: Any, made: Any) -> None:
    text = form.write(made)
    if form.name == "json":
        text = json.dumps(strings(json.loads(text)))
    if form.name == "html":
        text = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
        text = re.sub(r"10<sup>−([\d.]+)</sup>", r"10^-\1", text)
        text = html.unescape(re.sub(r"<[^>]*>", " ", text))
    if form.name == "sarif":  # what it says of every rule is not about this report
        text = json.dumps(json.loads(text)["runs"][0]["results"])
    text = text.replace("\\\\^", "^").replace("\\^", "^")
    # "10^-27" is the end of the scale, and a table of the lab gives four digits
    powers = set(re.findall(r"10\^-2[67](?:\.\d+)?", text)) - {"10^-27"}
    table = isinstance(made, lab.Outcome) and form.name in ("text", "html")
    assert powers == ({SAID, "10^-26.680"} if table else {SAID})
    assert not re.search(r"\de-\d\d|·10⁻", text), "a second notation"


def test_a_picture_has_it_raised() -> None:
    labels = json.dumps(report().chart("staircase").tables, ensure_ascii=False)
    assert "10⁻²⁶·⁷" in labels and SAID not in labels


def strings(value: Any) -> list[str]:
    """The texts of a JSON document; its numbers are numbers."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_a_percentage_is_written_without_a_space() -> None:
    spaced = re.compile(r"[0-9}] %(?=[\s.,;:)·…]|$)", re.MULTILINE)
    assert spaced.search("76 % of it") and not spaced.search(f"{percent(0.76)} of it") and len(PRINTED) > 300
    assert not {path.name for path in PRINTED if spaced.search(path.read_text(encoding="utf-8"))}
