"""What comes out of the drawing engine: SVG, files, live drawings, the pictures of a report; and when it refuses."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("altair", reason="pictures need the packages of unvanish[pictures]")
pytest.importorskip("vl_convert", reason="pictures need the packages of unvanish[pictures]")

from made_reports import MADE, flow, layer, vanishing

from unvanish import UnvanishError, charts
from unvanish.charts import labels, speeds, staircase, theme
from unvanish.report import Report
from unvanish.report.pictures import relative_gradient

INF = math.inf
SMALL = staircase.tables(["in", "out"], [-3.0, -1.0])


@pytest.mark.parametrize("each", charts.pictures(), ids=lambda each: each.name)
def test_every_picture_answers_a_question_and_carries_no_rows(each: charts.Picture) -> None:
    assert each.question.endswith("?")
    spec = json.dumps(each.template().to_dict())
    assert '"values": [{' not in spec
    assert set(re.findall(r'"data": \{"name": "(\w+)"\}', spec)) == set(each.tables) - {"frame"}


@pytest.mark.parametrize(
    ("name", "question", "tables", "sentence"),
    [
        ("staircase", "Again?", ("lines",), "registered twice: give one of the two another name"),
        ("pie", "A pie", ("slices",), "asks 'A pie': write the question that it answers"),
        ("pie", "A pie?", (), r"tables=\(\) must be a tuple"),
        ("pie", "A pie?", "slices", "tables='slices' must be a tuple"),
        ("pie", "A pie?", ("slices",), "belongs into a file of its name: pie.py of unvanish/charts"),
    ],
)
def test_a_wrong_registration_is_refused(name: str, question: str, tables: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        charts.picture(name, question, tables=tables)(lambda: None)
    assert {"staircase", "plane", "factors"} <= {each.name for each in charts.pictures()} and "pie" not in str(
        charts.pictures()
    )


def test_names_and_tables_are_checked() -> None:
    with pytest.raises(UnvanishError, match=r"'pie'.*staircase"):
        charts.draw("pie", {})
    with pytest.raises(UnvanishError, match="needs the tables lines, symbols"):
        charts.draw("staircase", {"lines": []})
    with pytest.raises(UnvanishError, match=r"placed for a width of 620.*tables"):
        charts.draw("staircase", SMALL, width=400)
    assert charts.draw("staircase", SMALL, width=620).spec["width"] == 620 - 56 - 22


def test_a_pixel_worked_out_is_that_pixel_of_the_drawing() -> None:
    tables = staircase.tables(["a", "b", "c"], [-4.5, -2.0, -1.0])
    frame = tables["frame"][0]
    drawn = charts.draw("staircase", tables, title="A title").svg()
    wide, tall = (frame["width"] - frame["left"] - frame["right"], frame["height"] - frame["top"] - frame["bottom"])
    places = re.findall(r'<path transform="translate\(([\d.]+),([\d.]+)\)"', drawn)
    assert len(places) == 3
    for at, (level, (x, y)) in enumerate(zip([-4.5, -2.0, -1.0], places, strict=True)):
        assert float(x) == pytest.approx(wide * (at + 0.5) / 3, abs=0.01)
        high, low = frame["y_high"], frame["y_low"]
        assert float(y) == pytest.approx(tall * (high - level) / (high - low), abs=0.01)
    assert f'height="{frame["height"] + 23:g}"' in drawn, "the title stands above, and moves nothing"


def test_svg_ids_description_and_colours() -> None:
    chart = charts.draw("staircase", SMALL, title="<b> & 'c'", description='5 < 6 & "7"')
    drawn = chart.svg("x1")
    assert 'role="img" aria-label="5 &lt; 6 &amp; &quot;7&quot;"' in drawn
    assert "<b>" not in drawn
    assert "&lt;b&gt; &amp;" in drawn
    assert "graphics-" not in drawn and drawn.count("aria-") == 1
    assert "style=" not in drawn, "a strict content security policy forbids it"
    assert theme.token("down") in drawn
    assert all(each.startswith("x1-") for each in re.findall(r'\bid="([^"]+)"', drawn))
    for name in theme.THEMES:
        file = chart.svg(theme=name)
        assert "var(" not in file
        assert theme.colour("down", name) in file
        assert f'<rect width="100%" height="100%" fill="{theme.colour("bg", name)}"/>' in file
    with pytest.raises(UnvanishError, match=r"theme 'sepia'.*light, dark, print"):
        chart.svg(theme="sepia")


def test_a_notebook_shows_it_inline_with_fresh_ids() -> None:
    chart = charts.draw("staircase", SMALL)
    shown = chart._repr_html_()
    assert "<svg" in shown and "http" not in shown.replace("http://www.w3.org", "")
    assert ".unvanish-chart{--uv-bg" in shown
    assert '[data-jp-theme-light="false"] .unvanish-chart' in shown


@pytest.mark.parametrize("look", theme.THEMES)
def test_a_line_of_the_grid_breaks_off_where_it_crosses_a_text(look: str) -> None:
    image = pytest.importorskip("PIL.Image", reason="the pixels of a picture are read with Pillow")
    scale, tables = 4, speeds.tables([0, 1], ["a"], [[0.0, -4.0]])
    (frame,) = tables["frame"]
    height = frame["height"] - frame["top"] - frame["bottom"]
    tick = frame["y_ticks"][1]
    down = (frame["y_high"] - tick) / (frame["y_high"] - frame["y_low"]) * height
    tables["labels"].append(labels.row("| " * 10, labels.Spot(6, down)))
    drawn = image.open(io.BytesIO(charts.draw("speeds", tables).png(look, scale))).convert("RGB")
    line = tuple(bytes.fromhex(theme.colour("grid", look)[1:]))

    def share(left: float, right: float) -> float:
        """How much of the line of the grid is to be seen between two places of the plot, in pixels."""
        row = round((frame["top"] + down) * scale)
        xs = range(round((frame["left"] + left) * scale), round((frame["left"] + right) * scale))
        return max(sum(drawn.getpixel((x, y)) == line for x in xs) / len(xs) for y in range(row - scale, row + scale))

    assert share(120, 180) > 0.9
    assert share(6, 60) < 0.6, "of bars 7 pixels apart with a rim of 1.5 on both sides, more than half is covered"


def test_files_by_suffix(tmp_path: Path) -> None:
    chart = charts.draw("staircase", SMALL, title="Where?")
    for suffix in (".svg", ".png", ".pdf", ".json"):
        chart.save(tmp_path / f"x{suffix}", theme="dark")
    png = (tmp_path / "x.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    svg = (tmp_path / "x.svg").read_text()
    height = re.search(r'height="([\d.]+)"', svg)
    assert height is not None
    assert struct.unpack(">II", png[16:24]) == (1240, round(2 * float(height[1])))
    assert png != chart.png("light")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    spec = json.loads((tmp_path / "x.json").read_text())
    assert [row["y"] for row in spec["datasets"]["lines"]] == [-3.0, -3.0, -1.0, -1.0]
    assert "var(" not in json.dumps(spec)
    with pytest.raises(UnvanishError, match=r"suffix '.gif'.*\.svg"):
        chart.save(tmp_path / "x.gif")
    with pytest.raises(UnvanishError, match="cannot write"):
        chart.save(tmp_path / "absent" / "x.svg")


def test_a_live_page_gets_compiled_vega_with_named_data() -> None:
    compiled = charts.draw("staircase", SMALL).vega()
    assert {each["name"] for each in compiled["data"]} >= set(SMALL) - {"frame"}
    assert {"x_low", "y_high", "y_ticks"} <= {each["name"] for each in compiled["signals"]}
    empty = charts.draw("staircase", {key: [] for key in SMALL}).vega()
    assert empty["autosize"] == compiled["autosize"] == "none"


@pytest.mark.parametrize("name", MADE)
def test_every_report_has_a_staircase(name: str) -> None:
    chart = MADE[name].chart("staircase", width=360)
    drawn = chart.svg()
    assert 'width="360"' in drawn
    assert "<script" not in drawn and "\x1b" not in drawn and "\u202e" not in drawn
    assert chart.title == "Where did the gradient go?"
    assert MADE[name].chart(title="").title == ""


@pytest.mark.parametrize("before", ["", "a"])
def test_a_name_of_characters_beyond_the_first_plane_is_not_cut_through_one(before: str) -> None:
    """The drawing engine counts in halves of such characters, and refuses the text if it cuts one itself."""
    name = before + "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}" * 40
    made = Report.from_flow(flow(layer(name, -1.0), layer("head", 0.0)), [])
    assert "…" in made.chart("staircase").svg()


def test_a_report_says_its_pictures_in_words_too() -> None:
    report = vanishing(20)
    assert report.chart("staircase").description == (
        "The error signal per sample is 1.0 at fc20, the layer next to the output, and 10^-18.2 at fc1, next to the "
        "input. Layers from the input: 17 vanished, 3 healthy."
    )
    assert report.chart("factors").description == (
        "The step back that shrinks the signal most starts at fc2: ×0.11, made of weights ×0.44, slopes ×0.25."
    )
    measured = [
        each.replace(log10_curvature=-9.0, log10_grad_norm=-6.0, log10_weight_norm=1.0) for each in report.layers
    ]
    assert relative_gradient(measured[0]) == -7.0
    assert relative_gradient(measured[0].replace(log10_weight_norm=-INF)) is None
    assert "×100 the size of its weights" in report.replace(layers=tuple(measured)).chart("plane").description
    with pytest.raises(UnvanishError, match="no step back"):
        MADE["nonfinite"].chart("factors")
    with pytest.raises(UnvanishError, match="no layers"):
        report.replace(layers=()).chart("staircase")
    with pytest.raises(UnvanishError, match="none of that name"):
        report.chart("pie")


def test_a_report_saves_its_staircase(tmp_path: Path) -> None:
    report = MADE["dead"]
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<svg"), (".pdf", b"%PDF")):
        report.save(tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").read_bytes().startswith(start)
    report.save(tmp_path / "dark.svg", theme="dark")
    assert theme.colour("bg", "dark") in (tmp_path / "dark.svg").read_text()
    with pytest.raises(UnvanishError, match=r"'.gif'.*\.png"):
        report.save(tmp_path / "x.gif")


FORK = """
import os, sys
from unvanish import UnvanishError, charts
from unvanish.charts import staircase
chart = charts.draw("staircase", staircase.tables(["a"], [-1.0]))
if sys.argv[1] == "parent first":
    chart.svg()
if os.fork() == 0:
    try:
        print("drawn" if "<svg" in chart.svg() else "nothing", flush=True)
    except UnvanishError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("order", "message"), [("parent first", "forked process"), ("child only", "drawn")])
def test_a_forked_child_gets_an_error_and_never_hangs(order: str, message: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, order], capture_output=True, text=True, timeout=60, check=True)
    assert message in done.stdout


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    charts._template.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnvanishError, match=rf"{package}.*pip install 'unvanish\[pictures\]'"):
        charts.draw("staircase", SMALL).svg()
    monkeypatch.undo()
    charts._template.cache_clear()
    assert "<svg" in charts.draw("staircase", SMALL).svg()


def test_numbers_are_worked_out_without_anything_heavy() -> None:
    program = (
        "from unvanish.charts import pictures, staircase; pictures(); staircase.tables(['a'], [-1.0]); import sys; "
        "print(*{'torch', 'numpy', 'altair', 'vl_convert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
