"""The pictures before they are drawn: their numbers, their words, and where things stand."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest

pytest.importorskip("altair", reason="pictures need the packages of unvanish[pictures]")
pytest.importorskip("vl_convert", reason="pictures need the packages of unvanish[pictures]")

from hypothesis import given, settings
from hypothesis import strategies as st
from made_reports import vanishing

from unvanish import UnvanishError, charts
from unvanish.charts import factors, plane, staircase, theme
from unvanish.charts.labels import Box, Label, Spot, box, place, spread
from unvanish.charts.layer_axis import layer_axis
from unvanish.charts.layout import decades, whole
from unvanish.charts.levels import levels
from unvanish.charts.measure import shorten, shorten_all, text_width, wrap
from unvanish.charts.verdicts import LOOKS, runs
from unvanish.records import VERDICTS

INF = math.inf
SMALL = staircase.tables(["in", "out"], [-3.0, -1.0])


def texts(tables: charts.Tables) -> list[str]:
    return [row["text"] for row in tables["labels"]]


def label(tables: charts.Tables, start: str) -> dict[str, Any]:
    return next(row for row in tables["labels"] if row["text"].startswith(start))


def test_decades() -> None:
    assert decades(-20.0, 0.0, 200)[0] == [-20.0, -15.0, -10.0, -5.0, 0.0]
    assert decades(-3.2, 0.4, 200) == ([-3.0, -2.0, -1.0, 0.0], ["10⁻³", "10⁻²", "10⁻¹", "1"])
    assert whole(5, 500) == ([1.0, 2.0, 3.0, 4.0, 5.0], ["1", "2", "3", "4", "5"])
    assert whole(1000, 500)[1] == ["1", "100", "200", "300", "400", "500", "600", "700", "800", "900", "1,000"]


def test_levels_give_zero_and_infinity_places_of_their_own() -> None:
    axis = levels([-7.5, None, math.nan, -INF, 0.2])
    assert (axis.low, axis.high) == (-8, 1)
    assert axis.zero == pytest.approx(-8 - 0.12 * 9)
    assert axis.infinite is None
    assert [axis.at(each) for each in (-7.5, None, math.nan, -INF)] == [-7.5, None, None, axis.zero]
    assert levels([-0.1, -0.3]).low == -4, "harmless differences must not fill the picture"
    assert levels([INF, 0.0]).infinite == pytest.approx(0.48)
    low, high = axis.range(200, 20, 20)
    assert axis.zero is not None
    assert (axis.zero - low) / (high - low) == pytest.approx(0.1)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.floats(-50, 250), max_size=12), st.floats(0, 30))
def test_spread_keeps_order_distance_and_bounds(places: list[float], apart: float) -> None:
    moved = spread(places, apart, 0.0, 200.0)
    given_room = min(apart, 200 / max(len(places) - 1, 1))
    for one, two in itertools.pairwise(sorted(moved)):
        assert two - one >= given_room - 1e-6
    assert all(-1e-6 <= each <= 200 + 1e-6 for each in moved)
    order = sorted(range(len(places)), key=places.__getitem__)
    assert all(moved[one] <= moved[two] for one, two in itertools.pairwise(order))


def test_spread_moves_as_little_as_needed() -> None:
    assert spread([10, 50, 90], 16, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 16, 0, 100) == [42, 58]
    assert spread([98, 99], 16, 0, 100) == [84, 100]


@pytest.mark.parametrize("seed", range(4))
def test_placed_labels_never_touch(seed: int) -> None:
    chance = random.Random(seed)
    bounds = Box(0, 0, 300, 150)
    wanted = [
        Label(f"layer{at}", tuple(Spot(chance.uniform(0, 300), chance.uniform(0, 150)) for _ in range(4)))
        for at in range(40)
    ]
    rows = place(wanted, [], bounds)
    assert 5 < len(rows) < 40
    boxes = [box(row["text"], Spot(row["px"], row["py"], row["align"])) for row in rows]
    assert all(one.shared(two) < 1.0 for one, two in itertools.combinations(boxes, 2))
    assert all(each.left > -0.1 and each.right < 300.1 for each in boxes)


def test_a_label_keeps_off_the_marks_and_a_needed_one_is_never_dropped() -> None:
    line = [Box(0, 48, 300, 52)]
    over, beside = Spot(10, 50), Spot(10, 80)
    assert place([Label("a", (over, beside))], line, Box(0, 0, 300, 100))[0]["py"] == 80
    crowded = [Label("a", (over,)), Label("b", (over,)), Label("c", (over,), needed=True)]
    assert [row["text"] for row in place(crowded, [], Box(0, 0, 300, 100))] == ["a", "c"]


def test_names_are_shortened_in_the_middle_and_stay_apart() -> None:
    name = "encoder.layers.17.attention.output.projection"
    short = shorten(name, 120)
    assert text_width(short) <= 120
    assert short.startswith("enco") and short.endswith("projection") and "…" in short
    assert shorten("a\x1b[31mb\u202ec\nd", 500) == r"a\x1b[31mb\u202ec\nd"
    many = [f"encoder.transformer.block.{at}.attention.self.query" for at in range(12)]
    shown = shorten_all(many, 90)
    assert len(set(shown)) == 12
    assert all(text_width(each) <= 90 for each in shown)
    assert shorten_all(["fc1", "fc2"], 90) == ("fc1", "fc2")
    assert wrap("one two three", text_width("one two")) == ["one two", "three"]


def test_the_layers_are_named_as_long_as_there_is_room() -> None:
    names = [f"layers.{at}" for at in range(1000)]
    assert [layer_axis(names[:depth], 540).style for depth in (5, 20, 40, 41, 1000)] == [
        "flat", "upright", "upright", "numbers", "numbers",
    ]  # fmt: skip
    assert layer_axis([f"deep.in.a.tree.of.modules.block{at}.weight" for at in range(20)], 540).common == (
        " of deep.in.a.tree.of.modules"
    )


def test_the_staircase_by_hand() -> None:
    lines = [(row["x"], row["y"]) for row in SMALL["lines"]]
    assert lines == [(0.5, -3.0), (1.5, -3.0), (1.5, -1.0), (2.5, -1.0)]
    assert {row["line"] for row in SMALL["lines"]} == {"0.0"}
    assert "error at the output 0.10" in texts(SMALL)
    assert "10⁻³·⁰" in texts(SMALL), "the name stands on the axis"
    frame = SMALL["frame"][0]
    assert frame["x_names"] == ["in", "out"]
    assert (frame["x_low"], frame["x_high"]) == (0.5, 2.5)
    assert label(SMALL, "error at")["align"] == "right"


def test_gaps_cliffs_and_what_is_no_number() -> None:
    signal = [-INF, -INF, None, None, math.nan, -2.0, -1.0]
    tables = staircase.tables([f"layer{at}" for at in range(7)], signal, verdicts=["dead"] * 4 + ["healthy"] * 3)
    frame = tables["frame"][0]
    zero = frame["y_ticks"][0]
    assert frame["y_names"][0] == "0"
    assert zero < -4
    assert [row["y"] for row in tables["lines"] if row["line"] == "0.0"] == [zero] * 4
    assert {row["x"] for row in tables["lines"]} == {0.5, 1.5, 2.5, 5.5, 6.5, 7.5}
    assert len({row["line"] for row in tables["lines"]}) == 2, "a line must not cross a gap"
    assert {"exactly 0", "not measured", "nan", "dead", "healthy"} <= set(texts(tables))
    assert next((row["x"], row["shape"]) for row in tables["symbols"]) == (1, "cross")
    nothing = staircase.tables(["a"], [None])
    assert nothing["lines"] == []
    assert "not measured" in texts(nothing)
    json.dumps(tables, allow_nan=False)


@pytest.mark.parametrize("count", [4, 4_000])
def test_the_line_of_a_second_network_is_not_joined_to_that_of_the_first(count: int) -> None:
    """Two networks, such as a critic and a generator, or two branches: no step leads from one to the next."""
    half = count // 2
    tables = staircase.tables([f"{at}" for at in range(count)], [-1.0] * half + [-3.0] * half, starts=[0, half])
    pieces: dict[str, set[float]] = {}
    for row in tables["lines"]:
        pieces.setdefault(row["line"], set()).add(row["x"] <= half + 0.5 and row["y"] == -1.0)
    assert list(pieces.values()) == [{True}, {False}]
    joined = staircase.tables([f"{at}" for at in range(count)], [-1.0] * half + [-3.0] * half)
    assert len({row["line"] for row in joined["lines"]}) == 1


@pytest.mark.parametrize(
    ("lowest", "dtype", "floors", "others"),
    [
        (-3.0, "float32", [], []),
        (-6.0, "float16", ["float16 ends here"], []),
        (-6.0, "float32", [], ["float16 would end here"]),
        (-60.0, "bfloat16", ["bfloat16 ends here"], ["float16 would end here"]),
        (-400.0, "float64", ["float64 ends here"], ["float16 would end here", "float32 and bfloat16 would end here"]),
    ],
)
def test_floors_only_where_they_lie_in_range(lowest: float, dtype: str, floors: list[str], others: list[str]) -> None:
    tables = staircase.tables(["a", "b", "c"], [lowest, lowest / 2, 1.0], dtype=dtype)
    labels = [text for text in texts(tables) if "end" in text]
    assert sorted(labels) == sorted(floors + others)
    assert len(tables["floors"]) == len(labels)
    for text, row in itertools.product(floors, tables["floors"]):
        if label(tables, text)["color"] == row["color"]:
            expected = {"float16": -4.2144, "float32": -37.9298, "bfloat16": -37.9298, "float64": -307.6527}[dtype]
            assert row["y"] == pytest.approx(expected, abs=1e-4)


def test_a_thousand_layers_are_one_line_with_its_ends_named() -> None:
    signal = [-1.37 * (999 - at) for at in range(1000)]
    signal[400] = -3000.0
    tables = staircase.tables([f"block.{at}" for at in range(1000)], signal, signal)
    ys = [row["y"] for row in tables["lines"] if row["line"] == "0.0"]
    assert min(ys) == -3000.0 and max(ys) == 0.0
    assert {"block.0: 10⁻¹³⁶⁹", "error at the output 1.0", "block.400: 10⁻³⁰⁰⁰"} <= set(texts(tables))
    assert tables["symbols"] == tables["weight_ticks"] == []
    deep = staircase.tables([str(at) for at in range(30_000)], [-(at % 100) / 10 for at in range(30_000)])
    assert len(deep["lines"]) < 3000
    assert {row["y"] for row in deep["lines"]} >= {-0.0, -9.9}, "thinning must keep the extremes"


def test_weight_gradients_are_ticks_and_in_a_deep_network_a_pale_line_with_its_gaps() -> None:
    few = staircase.tables(["a", "b", "c"], [-2.0, -1.0, 0.0], [-5.0, None, -6.0])
    assert [((row["x"] + row["x2"]) / 2, row["y"]) for row in few["weight_ticks"]] == [(1.0, -5.0), (3.0, -6.0)]
    assert {row["color"] for row in few["lines"]} == {theme.token("down")}
    gradients = [-5.0] * 200 + [None] + [-6.0] * 199
    many = staircase.tables([str(at) for at in range(400)], [-1.0] * 400, gradients)
    pale = [row for row in many["lines"] if row["color"] == theme.token("pale")]
    assert [{row["y"] for row in pale if row["line"] == name} for name in ("weights.0", "weights.1")] == [
        {-5.0},
        {-6.0},
    ]
    assert "pale: weight gradient" in texts(many)


def test_lines_to_compare_end_at_the_output() -> None:
    tables = staircase.tables(["a", "b"], [-2.0, -1.0], compare=[("deeper", [-5.0, -4.0, -3.0, -1.0])])
    other = [row for row in tables["lines"] if row["line"] == "1.0"]
    assert [row["x"] for row in other] == [-1.5, -0.5, -0.5, 0.5, 0.5, 1.5, 1.5, 2.5]
    assert other[0]["dash"] != tables["lines"][0]["dash"]
    assert "deeper" in texts(tables)


def test_the_plane_by_hand() -> None:
    """Distances |g| / (h ‖w‖): 10² for the first layer, 10⁻¹ for the second."""
    tables = plane.tables(
        ["far", "near", "unknown"], [-8.0, -3.0, None], [-6.0, -4.0, -4.0], ["vanished", "converged", ""]
    )
    assert [(row["x"], row["y"]) for row in tables["points"]] == [(-8.0, -6.0), (-3.0, -4.0)]
    for row in tables["diagonals"]:
        assert row["y"] - row["x"] == pytest.approx(row["y2"] - row["x2"])
    assert any(abs(row["y"] - row["x"]) < 1e-9 and row["color"] == theme.token("fg") for row in tables["diagonals"])
    for row in tables["wash"]:
        assert row["y"] >= row["x"] - 1e-9, "only the half beyond the weights' own size is shaded"
    assert {"far", "near", "vanished", "converged", "‖w‖", plane.FAR, plane.NEAR} <= set(texts(tables))
    assert any("1 of 3 layers not measured" in text for text in texts(tables))


def test_a_plane_without_curvature_is_refused() -> None:
    with pytest.raises(UnvanishError, match='effort="full"'):
        plane.tables(["a", "b"], [None, None], [-3.0, -4.0])
    with pytest.raises(UnvanishError, match="2 names, 1 curvatures"):
        plane.tables(["a", "b"], [1.0], [-3.0, -4.0])
    with pytest.raises(UnvanishError, match=r'"plane"|effort="full"'):
        vanishing(5).chart("plane")


def test_a_plane_with_exact_zeros() -> None:
    tables = plane.tables(["flat", "still", "both", "usual"], [-INF, -3.0, -INF, -4.0], [-4.0, -INF, -INF, -5.0])
    frame = tables["frame"][0]
    assert frame["x_names"][0] == frame["y_names"][0] == "0"
    left, foot = frame["x_ticks"][0], frame["y_ticks"][0]
    assert [(row["x"], row["y"]) for row in tables["points"]] == [(left, -4), (-3, foot), (left, foot), (-4, -5)]
    assert min(row["y"] for row in tables["wash"]) > foot, "a gradient of zero lies on no diagonal"


def test_the_factors_by_hand() -> None:
    weights, slopes = [None, -0.3, -0.5, -0.4], [None, -0.6, -0.6, -INF]
    gains = [None, -0.9, -1.1, -INF]
    tables = factors.tables(
        ["a", "b", "c", "d"], {"weights": weights, "slopes": slopes, "norms": [None, 0.0, 0.0, 0.0]}, gains
    )
    bars = [(row["x"], row["x2"], row["y"]) for row in tables["bars"]]
    assert [y for _, _, y in bars[:5]] == [-0.3, -0.5, -0.4, -0.6, -0.6]
    assert bars[5][2] == tables["frame"][0]["y_ticks"][0], "a factor of zero reaches down to ×0"
    assert all(row["y2"] == 0.0 for row in tables["bars"])
    assert bars[0][1] <= bars[3][0], "the bars of one layer stand side by side"
    assert [(row["x"], row["y"]) for row in tables["products"]][:2] == [(2, -0.9), (3, -1.1)]
    labels = [text for text in texts(tables) if "×" in text]
    assert labels == ["weights ×0.40", "slopes ×0.25", "product ×0.079"]
    assert not any("norms" in text for text in texts(tables)), "a factor that is one everywhere says nothing"


def test_many_factors_are_lines_and_the_step_to_blame_is_named() -> None:
    slopes = [None] + [-0.6] * 999
    slopes[300] = -5.0
    tables = factors.tables([f"m.{at}" for at in range(1000)], {"slopes": slopes}, slopes)
    assert tables["bars"] == []
    assert "m.300 ×10⁻⁵·⁰" in texts(tables)
    assert [(row["x"], row["y"]) for row in tables["products"]] == [(301, -5.0)]
    assert any(text.startswith("lines: medians of") for text in texts(tables))
    assert {row["y"] for row in tables["lines"]} == {-0.6}


@pytest.mark.parametrize("compute", [staircase.tables, plane.tables, factors.tables])
def test_lists_of_different_lengths_are_refused(compute: Any) -> None:
    wrong = ({"weights": [1.0]}, [1.0, 2.0]) if compute is factors.tables else ([1.0], [1.0, 2.0])
    with pytest.raises(UnvanishError, match="give one"):
        compute(["a", "b"], *wrong)


def test_runs_and_looks_of_verdicts() -> None:
    assert runs(["a", "a", "b", "a"]) == [("a", 1, 2), ("b", 3, 3), ("a", 4, 4)]
    assert set(LOOKS) == set(VERDICTS)
    assert len({(each.shape, each.filled) for each in LOOKS.values()}) == len(LOOKS), "never by colour alone"


def test_series_differ_without_their_colour() -> None:
    assert len({dash for _, dash in theme.SERIES}) == len(theme.SERIES)


def luminance(code: str) -> float:
    parts = [int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", theme.THEMES)
def test_text_has_contrast_in_every_theme(name: str) -> None:
    for ground, ink in itertools.product(("bg", "wash"), ("fg", "mut", "down", "up", "ok", "acc", "vio")):
        dark, light = sorted(luminance(theme.colour(each, name)) for each in (ground, ink))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)
