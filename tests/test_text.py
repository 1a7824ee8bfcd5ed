"""The text report. ``python tests/test_text.py`` writes the golden reports anew; read them before you keep them."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import made_reports
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from unvanish.records import Evidence, Finding, LayerFlow
from unvanish.report import Report
from unvanish.report.page import Page
from unvanish.report.staircase import Fold, Scale, bar, bar_scale, fold, marks
from unvanish.report.text import render

MADE = made_reports.MADE
GOLDEN = Path(__file__).parent / "golden_reports"
PAGES = [(name, width) for name in MADE for width in (80, 120)]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def layers(*signals: float | None) -> list[LayerFlow]:
    return [made_reports.layer(str(place), signal) for place, signal in enumerate(signals)]


def test_the_scale_takes_whole_decades_and_at_least_four():
    assert bar_scale(layers(-13.9, -0.2, None, -math.inf, math.nan)) == Scale(-14, 0)
    assert bar_scale(layers(-0.3, -0.2)) == Scale(-4, 0)
    assert bar_scale(layers(2.0, 8.5)) == Scale(2, 9)
    assert bar_scale(layers(None, -math.inf, math.inf)) is None


def test_a_bar_is_as_long_as_its_logarithm_says():
    scale = Scale(-4, 0)  # 8 cells: half a decade a cell
    assert bar(-2.0, scale, 8) == ("████", "    ")
    assert bar(-1.75, scale, 8) == ("████▌", "   ")
    assert bar(0.0, scale, 8) == ("████████", "")
    assert bar(-4.0, scale, 8) == ("▏", "       ")
    assert bar(math.inf, scale, 8) == ("████████", "")
    for nothing in (-math.inf, math.nan, None):
        assert bar(nothing, scale, 8) == ("", "        ")


def test_the_smallest_normal_numbers_are_marked_where_they_lie():
    # 2^-14 = 10^-4.21 and 2^-126 = 10^-37.93; on 40 cells from 10^-40 a decade is one cell
    types = ("float16", "float32", "float64")
    assert [name for name, _ in marks(Scale(-40, 0, types))] == ["float16", "float32"]
    assert bar(-40.0, Scale(-40, 0, types), 40)[1] == " " * 1 + "┊" + " " * 32 + "┊" + " " * 4
    assert marks(Scale(-4, 0, types)) == []
    assert [name for name, _ in marks(Scale(-320, -100, types))] == ["float64"]


def test_only_number_types_in_use_are_marked():
    assert [name for name, _ in marks(Scale(-40, 0, ("float32",)))] == ["float32"]
    mixed = MADE["vanishing-20"].replace(setting=made_reports.SETTING.replace(autocast="float16"))
    assert "10^-4.2 float16" in render(mixed) and "float16" not in render(MADE["vanishing-20"])


def test_a_short_network_is_not_folded():
    short = layers(*[-1.0] * 24)
    assert fold(short) == short


def test_a_long_network_keeps_ends_extremes_and_changes():
    signals: list[float | None] = [-1.0] * 1000
    signals[200], signals[300], signals[500], signals[501] = -9.0, 4.0, -math.inf, -math.inf
    long = layers(*signals)
    long[700] = long[700].replace(verdict="vanished")
    rows = fold(long)
    shown = [int(row.name) for row in rows if isinstance(row, LayerFlow)]
    assert shown == [0, 1, 2, 200, 300, 499, 500, 501, 502, 699, 700, 701, 997, 998, 999]
    folds = [row for row in rows if isinstance(row, Fold)]
    assert [len(each.layers) for each in folds] == [197, 99, 198, 196, 295]
    assert sum(len(each.layers) for each in folds) + len(shown) == 1000


def test_a_long_network_that_changes_all_the_time_stays_short():
    words = ("healthy", "vanished", "dead")
    rows = fold([each.replace(verdict=words[place % 3]) for place, each in enumerate(layers(*[-1.0] * 600))])
    assert sum(isinstance(row, LayerFlow) for row in rows) == 24
    assert "mixed" in {row.verdict for row in rows if isinstance(row, Fold)}


def test_a_fold_says_what_it_spans():
    assert Fold(tuple(layers(-9.31, -1.1, None, -math.inf))).span == "10^-9.3 … 0.079"
    assert Fold(tuple(layers(-2.0, -2.0))).span == "0.010"
    assert Fold(tuple(layers(None, -math.inf))).span == ""


@pytest.mark.parametrize(("name", "width"), PAGES)
def test_golden(name, width):
    assert render(MADE[name], width) + "\n" == golden(name, width).read_text(encoding="utf-8")


def golden(name: str, width: int) -> Path:
    return GOLDEN / f"{name}-{width}.txt"


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize("width", [1, 40, 57, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_page(made, width):
    for unicode in (True, False):
        assert max(cell_len(line) for line in render(made, width, unicode=unicode).splitlines()) <= max(width, 40)


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_colour_only_repeats_what_the_words_say(made):
    coloured = render(made, 80, color=True)
    assert COLOUR.search(coloured)
    plain = [line.rstrip() for line in COLOUR.sub("", coloured).splitlines()]
    assert plain == render(made, 80).splitlines()


def test_the_verdict_of_a_row_has_its_colour_and_its_name_has_none():
    lines = render(MADE["vanishing-20"], 120, color=True).splitlines()
    rows = [line for line in lines if re.match(r"fc(1|20) ", COLOUR.sub("", line))]
    colours = [re.findall(r"\x1b\[(38;5;\d+)m *(vanished|healthy)", row) for row in rows]
    assert [word for ((_, word),) in colours] == ["vanished", "healthy"] and colours[0][0][0] != colours[1][0][0]
    assert not any(re.match(r"\x1b\[38", row) for row in rows)


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_the_ascii_page_is_ascii(made):
    text = render(made, 80, unicode=False)
    assert text.isascii()
    assert made is MADE["hostile"] or "\\" not in text, "what the report itself says needs no escapes"


def test_names_are_shown_and_never_interpreted():
    text = render(MADE["hostile"], 120)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    for shown in (
        "[red]x[/red]",
        "a\\nb",
        "\\x1b[31mred\\x1b[0m",
        "right\\u202eleft",
        "größe.层",
        "[i]what[/i]: \\x07why",
    ):
        assert shown in text
    assert "[bold]all[/bold] \\x1b[2J of them" in text


@given(st.text(max_size=60), st.text(max_size=60), st.integers(40, 130), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_name_leaves_the_page_in_order(name, source, width, unicode):
    made = made_reports.layer(name, -1.0, source=source, kind=name, before=name, log10_gain=0.1, log10_join_gain=0.1)
    report = Report.from_flow(made_reports.flow(made, made), [])
    lines = render(report, width, unicode=unicode).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if "healthy" in line and "0.10" in line]) == 2


PAGE = Page(Console(file=io.StringIO()), 80, True)


@pytest.mark.parametrize(
    ("name", "width", "text"),
    [
        ("head", 20, "head"),
        ("transformer.h.0.attn.c_attn", 20, "…h.0.attn.c_attn"),
        ("layers.40.self_attn.out_proj", 20, "layers.40…out_proj"),
        ("encoder." + "x" * 30, 20, "encoder.x…xxxxxxxxxx"),
        ("a." * 30 + "b", 9, "a.a.….a.b"),
    ],
)
def test_a_long_module_path_keeps_its_numbers_and_its_end(name, width, text):
    assert PAGE.path(name, width) == text


def test_layers_called_in_one_line_are_listed_once():
    layers = [made_reports.layer(f"fc{i}", -3.0 * i, source="a/long/path/to/net.py:7") for i in range(4)]
    layers.append(made_reports.layer("head", -12.0, source="a/long/path/to/net.py:8"))
    flat = "It is flat."
    finding = Finding(code="UV703", verdict="flat_loss", level="error", message=flat)
    report = Report.from_flow(made_reports.flow(*layers), [finding])
    lines = render(report, 48).splitlines()
    assert lines[lines.index("Where the layers are called") + 2 :][:2] == [
        "a/long/path/to/net.py:7  fc0 … fc3 (4 layers)",
        "a/long/path/to/net.py:8  head",
    ]
    assert "Where" not in render(report, 120), "a column has room for it"
    assert "Where" not in render(Report.from_flow(made_reports.flow(*layers), []), 48), "nobody asks in health"


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        (
            Evidence(name="log10_transmission", value=-15.35, relation="<", threshold=-2.5),
            "transmission: 10^-15.3 (log10_transmission, limit < 10^-2.5)",
        ),
        (
            Evidence(name="underflow_fraction", value=1.0, relation=">", threshold=0.5),
            "lost to underflow: 100% (underflow_fraction, limit > 50%)",
        ),
        (Evidence(name="log10 gain of the joins", value=1.327), "gain of the joins: 21"),
        (
            Evidence(name="log10_jacobian_norm", value=-math.inf, relation="=", threshold=-math.inf),
            "dependence of the outputs on the weights: exactly 0 (log10_jacobian_norm)",
        ),
        (Evidence(name="layers judged", value=3.0, relation="of", threshold=10.0), "layers judged: 3 of 10"),
        (Evidence(name="steps needed", value=123456.7, error=5.0), "steps needed: 123,500 ± 5"),
    ],
)
def test_evidence_is_said_in_words_first(evidence, text):
    finding = Finding(code="UV101", verdict="vanished", level="error", message="It is so.", evidence=(evidence,))
    assert f"  measured      {text}\n" in render(Report.from_flow(made_reports.flow(), [finding]), 120)


def test_kinds_are_a_column_only_where_they_differ():
    made = [made_reports.layer("a", -1.0), made_reports.layer("b", -1.0)]
    assert "2 Linear layers: healthy" in render(Report.from_flow(made_reports.flow(*made), []), 120)
    made[1] = made[1].replace(kind="LayerNorm")
    assert "kind" in render(Report.from_flow(made_reports.flow(*made), []), 120)


def test_the_verdict_comes_first_in_the_words_of_the_first_error():
    lines = render(MADE["vanishing-20"], 120).splitlines()
    assert lines[0] == "Vanished: fc1 to fc17 hardly learn: the error signal shrinks at every step back."
    assert lines[-1] == "More: unvanish explain UV101"
    assert lines.count("  It starts at 1.") == 1


def test_without_findings_it_says_what_was_judged():
    assert render(MADE["healthy"]).startswith("Healthy: no fault was found; the error signal reaches every layer")
    unjudged = MADE["healthy"].layers[0].replace(verdict="undecided")
    assert "but 1 of 1 layers could not be judged" in render(MADE["healthy"].replace(layers=(unjudged,)))
    assert "no layer was measured either" in render(MADE["healthy"].replace(layers=()))


def test_layers_of_one_verdict_without_a_signal_need_no_table():
    """The line above says all there is; with a second verdict, or one signal, it does not."""
    first, *rest = (a.replace(log10_signal=None, verdict="nonfinite") for a in MADE["vanishing-20"].layers)
    for layers, rows in (
        ([first, *rest], 0),
        ([first.replace(verdict="frozen"), *rest], 1),
        ([first.replace(log10_signal=-3.0), *rest], 1),
    ):
        made = MADE["vanishing-20"].replace(layers=tuple(layers))
        assert len(re.findall(r"^layer +signal", render(made, 120), re.MULTILINE)) == rows


def test_steps_back_stand_with_their_factors():
    rows = [line.split() for line in render(MADE["vanishing-20"], 120).splitlines()]
    row = next(row for row in rows if row[:1] == ["fc2"])
    # ×0.44 times ×0.25 is ×0.11, and 18 steps of 0.11 are 10^-17.3
    assert row[1] == "10^-17.3"
    assert [each for each in row if each.startswith("×")] == ["×0.11", "×0.44", "×0.25"]
    assert row[-2:] == ["vanished", "net.py:12"]


@pytest.mark.parametrize("size", [80, 120])
def test_an_empty_factor_is_explained_where_a_layer_has_one(size):
    made = MADE["vanishing-20"]
    explained = "weights × slopes (empty: ×1, or no layer before)"
    # the first layer has no step back, which needs no word: nothing lies before it
    assert "weights × slopes" in render(made, size) and explained not in render(made, size)
    linear = made.layers[1].replace(log10_gain=made_reports.WEIGHTS, log10_slope_gain=0.0)  # no activation behind fc2
    text = render(made.replace(layers=(made.layers[0], linear, *made.layers[2:])), size)
    assert explained in " ".join(text.split())
    row = next(words for line in text.splitlines() if (words := line.split())[:1] == ["fc2"])
    assert [each for each in row if each.startswith("×")] == ["×0.44", "×0.44"]


def test_a_thousand_layers_fold_into_a_page():
    text = render(MADE["vanishing-1000"], 80)
    assert "10^-958" in text
    assert "1,000 Linear layers: 997 vanished, 3 healthy" in text
    assert len(text.splitlines()) < 60


def test_exact_zeros_are_said_to_be_exact():
    assert len(re.findall(r"^[02] +exactly 0", render(MADE["dead"]), re.MULTILINE)) == 2


def test_printing_a_report_shows_it():
    made = MADE["vanishing-20"]
    assert str(made) == repr(made) == render(made, 80)


if __name__ == "__main__":
    for page, cells in PAGES:
        golden(page, cells).write_text(render(MADE[page], cells) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("lr_too_large", "learning rate too large"), ("lr_too_small", "learning rate too small"), ("slow", "slow"),
     ("dead_units", "dead units"), ("no_signal", "no signal")],
)  # fmt: skip
def test_a_verdict_is_said_in_words(verdict: str, words: str) -> None:
    finding = Finding(
        code="UV704", verdict=verdict, level="error", layers=(), cause="", message="It is so.", evidence=()
    )
    report = Report.from_flow(made_reports.flow(made_reports.layer("0", 0.0)), [finding])
    assert render(report).startswith(f"{words.capitalize()}: It is so.")
    assert report.verdict == verdict
