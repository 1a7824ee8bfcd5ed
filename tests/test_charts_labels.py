"""Where labels stand when room is short: none struck through, none cut off, and lines on each other both seen."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from unvanish import lab
from unvanish.charts import Tables, paths, plane, remedies, speeds, staircase
from unvanish.charts.labels import Box, Label, Spot, along, between, box, place, slid
from unvanish.charts.theme import token
from unvanish.lab.outcome import drawn_at
from unvanish.lab.readable import readable

WEIGHTS = "pale: weight gradient"
WIDTHS = (360, 390, 620, 1000)


def texts(tables: Tables) -> list[str]:
    return [each["text"] for each in tables["labels"]]


def room_of(tables: Tables, text: str) -> Box:
    found = next(each for each in tables["labels"] if each["text"] == text)
    return box(text, Spot(found["px"], found["py"], found["align"]), bold=found["weight"] == "bold")


def test_a_label_that_must_be_clear_is_left_out_where_it_would_cover_a_mark():
    mark, bounds = [Box(0, 40, 300, 60)], Box(0, 0, 300, 100)
    over, beside = Spot(10, 50), Spot(10, 80)
    assert place([Label("a", (over,), clear=True)], mark, bounds) == []
    assert place([Label("a", (over, beside), clear=True)], mark, bounds)[0]["py"] == 80
    assert place([Label("a", (over,))], mark, bounds)[0]["py"] == 50


@pytest.mark.parametrize("seed", range(5))
def test_the_place_chosen_covers_least_of_the_marks_and_is_the_first_of_equals(seed):
    dice = random.Random(seed)
    marks = [Box(x, y, x + 20, y + 8) for x, y in ((dice.uniform(0, 280), dice.uniform(0, 90)) for _ in range(60))]
    spots = tuple(Spot(dice.uniform(5, 250), dice.uniform(10, 90)) for _ in range(12))
    found = place([Label("text", spots)], marks, Box(0, 0, 300, 100))[0]
    covered = [sum(box("text", spot).shared(mark) for mark in marks) for spot in spots]
    best = spots[covered.index(min(covered))]
    assert (found["px"], found["py"]) == (round(best.x, 1), round(best.y, 1))


def test_a_centred_text_slides_no_farther_than_it_must():
    bounds = Box(0, 0, 100, 20)
    half = (box("words", Spot(0, 0)).right - box("words", Spot(0, 0)).left) / 2
    assert slid("words", Spot(50, 5, "center"), bounds) == Spot(50, 5, "center")
    assert slid("words", Spot(95, 5, "center"), bounds).x == pytest.approx(100 - half)
    assert slid("words", Spot(-9, 5, "center"), bounds).x == pytest.approx(half)
    assert slid("words", Spot(95, 5), bounds) == Spot(95, 5)


def test_boxes_along_a_line_leave_no_gap():
    assert list(between([(0, 0), (12, 6)])) == [(0, 0), (6, 3), (12, 6)]
    assert along([(0, 0), (0, 6)], pen=1) == [Box(-1, -1, 1, 1), Box(-1, 5, 1, 7)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("apart", [-0.3, 0.0, 0.3])
def test_the_weight_gradients_are_named_and_no_line_runs_through_the_name(width, apart):
    """20 sigmoid layers, whose ticks lie on the line of the error signal."""
    signal = [-0.85 * (19 - at) for at in range(20)]
    tables = staircase.tables([str(at) for at in range(20)], signal, [each + apart for each in signal], width=width)
    frame = tables["frame"][0]
    name = room_of(tables, WEIGHTS)
    plot_width, plot_height = frame["width"] - 78, frame["height"] - frame["top"] - frame["bottom"]

    def pixel(row: dict[str, float]) -> tuple[float, float]:
        across = (row["x"] - frame["x_low"]) / (frame["x_high"] - frame["x_low"])
        return across * plot_width, (frame["y_high"] - row["y"]) / (frame["y_high"] - frame["y_low"]) * plot_height

    corners = [pixel(row) for row in tables["lines"]]
    assert not any(name.shared(each) for each in along(corners, pen=2))
    assert not any(name.shared(room_of(tables, each)) for each in texts(tables) if "10⁻" in each)


def test_weight_gradients_without_free_room_beside_them_are_named_in_the_corner():
    corner = f"error signal per sample; {WEIGHTS}"
    ways: set[bool] = set()
    for seed in range(20):
        dice = random.Random(seed)
        noise = [dice.uniform(-30, 0) for _ in range(100)]
        said = texts(staircase.tables([str(at) for at in range(100)], noise, noise[::-1]))
        assert (corner in said) != (WEIGHTS in said)
        ways.add(corner in said)
    assert ways == {False, True}
    assert "error signal per sample" in texts(staircase.tables(["a", "b"], [-1.0, 0.0]))


@pytest.mark.parametrize("width", (300, *WIDTHS))
def test_what_the_plane_shows_across_stays_in_the_picture(width):
    tables = plane.tables(["a", "b"], [-3.0, 0.0], [-2.0, -1.0], width=width)
    said = next(each for each in texts(tables) if each.startswith("curvature"))
    name = room_of(tables, said)
    assert name.left >= -56.1 and name.right <= width - 55.9
    assert ("Gauss" in said) == (width >= 360)


@pytest.mark.parametrize("width", (300, *WIDTHS))
def test_a_long_unit_of_remedies_is_broken_rather_than_cut(width):
    unit = "accuracy on 512 samples after 400 steps of the optimizer, seed by seed"
    rows = [{"name": "one", "score": 0.5, "low": 0.4, "high": 0.6}, {"name": "as it is", "score": 0.1, "low": 0.1,
            "high": 0.1, "baseline": True}]  # fmt: skip
    tables = remedies.tables(rows, unit=unit, width=width)
    frame = tables["frame"][0]
    below = [each for each in tables["labels"] if each["py"] > frame["height"] - frame["top"] - frame["bottom"]]
    assert " ".join(each["text"] for each in below).replace(";", "").startswith(unit)
    for each in below:
        line = room_of(tables, each["text"])
        assert line.left >= -frame["left"] - 0.1 and line.right <= width - frame["left"] + 0.1
        assert line.bottom <= frame["height"] - frame["top"]
    assert (len(below) == 1) == (width >= 800)
    assert frame["bottom"] == 42 + 15 * (len(below) - 1)


def straight(steps: int) -> list[tuple[float, float]]:
    return [(1 - at / steps, 1 - at / steps) for at in range(steps + 1)]


def test_of_paths_on_each_other_the_one_below_is_wider_and_the_shortest_lies_on_top():
    tried = {"one step": straight(1), "slow": straight(100), "apart": [(1 - at / 50, 1.0) for at in range(51)]}
    given = [{"optimizer": name, "points": points} for name, points in tried.items()]
    tables = paths.tables([], given, (0.0, 0.0))
    thick = {row["line"]: row["thick"] for row in tables["lines"]}
    assert thick[1] - thick[0] == pytest.approx(2.8)
    assert thick[2] == thick[0] == 1.7
    assert list(dict.fromkeys(row["line"] for row in tables["lines"])) == [1, 2, 0]
    assert {"one step after 1 step", "slow after 100 steps", "apart after 50 steps"} <= set(texts(tables))


def test_dots_are_as_many_steps_apart_from_beginning_to_end():
    points = [(0.99**at, 0.0) for at in range(1001)]
    tables = paths.tables([], [{"optimizer": "slowing", "points": points}], (0.0, 0.0))
    steps = [round(math.log(row["x"]) / math.log(0.99)) for row in tables["dots"]]
    assert len(steps) > 10
    assert {two - one for one, two in pairwise(steps)} == {steps[1]}
    # most of these steps move less than a pixel: the line has few of them, its last one among them
    orders = [row["order"] for row in tables["lines"]]
    assert len(orders) < 600 and orders[-1] == 1000


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_paths_that_end_at_one_place_cover_no_path(width):
    names = ("gd", "momentum", "adagrad", "rmsprop", "adam", "newton")
    given = [{"optimizer": name, "points": straight(4**rank)} for rank, name in enumerate(names)]
    tables = paths.tables([], given, (0.0, 0.0), width=width)
    frame = tables["frame"][0]
    plot_width = frame["width"] - frame["left"] - frame["right"]
    plot_height = frame["height"] - frame["top"] - frame["bottom"]
    ends = [
        ((x - frame["x_low"]) / (frame["x_high"] - frame["x_low"]) * plot_width,
         (frame["y_high"] - y) / (frame["y_high"] - frame["y_low"]) * plot_height)
        for x, y in ((1.0, 1.0), (0.0, 0.0))
    ]  # fmt: skip
    named = [room_of(tables, text) for text in texts(tables) if text.endswith((" step", " steps"))]
    assert len(named) == 6
    assert not any(name.shared(each) for name in named for each in along(ends, pen=1))


@pytest.mark.parametrize("width", (620, 820, 1000))
def test_in_the_ravine_each_name_stands_beside_its_own_path(width):
    with drawn_at(width):
        tables = lab.run("ravine").pictures[0].tables
    frame = tables["frame"][0]
    plot_width = frame["width"] - frame["left"] - frame["right"]
    plot_height = frame["height"] - frame["top"] - frame["bottom"]
    points = {}
    for each in tables["lines"]:
        x = (each["x"] - frame["x_low"]) / (frame["x_high"] - frame["x_low"]) * plot_width
        y = (frame["y_high"] - each["y"]) / (frame["y_high"] - frame["y_low"]) * plot_height
        points.setdefault(each["color"], []).append((x, y))
    named = {each["color"]: each["text"] for each in tables["labels"] if " after " in each["text"]}
    assert len(named) == 6 and set(named) == set(points)
    for color, text in named.items():
        room = room_of(tables, text)
        near = Box(room.left - 20, room.top - 20, room.right + 20, room.bottom + 20)
        assert any(near.shared(Box(x - 1, y - 1, x + 1, y + 1)) for x, y in between(points[color], 3)), text


def test_the_only_point_of_a_verdict_has_its_word_beside_it():
    given = (["a", "b", "c"], [-12.0, 0.0, -6.0], [0.0, 0.0, -6.0], ["vanished", "healthy", "plateau"])
    for joined in (True, False):
        tables = plane.tables(*given, joined=joined)
        assert bool(tables["path"]) is joined
        frame = tables["frame"][0]
        for verdict, x, y in zip(given[3], given[1], given[2], strict=True):
            across = (x - frame["x_low"]) / (frame["x_high"] - frame["x_low"])
            down = (frame["y_high"] - y) / (frame["y_high"] - frame["y_low"])
            px = across * (frame["width"] - frame["left"] - frame["right"])
            py = down * (frame["height"] - frame["top"] - frame["bottom"])
            room = room_of(tables, verdict)
            assert room.shared(Box(px - 40, py - 32, px + 40, py + 32)), verdict


def test_with_others_beside_it_a_staircase_says_its_own_name():
    names, signal = ["a", "b", "c"], [-2.0, -1.0, 0.0]
    tables = staircase.tables(names, signal, compare=[("weights 4", [-6.0, -3.0, 0.0])], line="weights 6")
    said = texts(tables)
    assert [text for text in said if text.startswith("weights 6: ")] and "weights 4" in said
    assert not [text for text in texts(staircase.tables(names, signal)) if ":" in text]


def test_the_axis_of_speeds_says_what_it_counts_and_so_do_its_rows():
    given = ([16, 32], ["one weight"], [[-1.0, -2.0]])
    assert "training step" in texts(speeds.tables(*given))
    assert "units a layer" in texts(speeds.tables(*given, across="units a layer"))
    rows = readable("speeds", speeds.tables, given, {"across": "units a layer"})
    assert rows == [{"units a layer": 16, "log10 one weight": -1.0}, {"units a layer": 32, "log10 one weight": -2.0}]


def test_contours_do_not_look_like_the_grid():
    colors = [layer["mark"]["stroke"] for layer in paths.template().to_dict()["layer"] if "stroke" in layer["mark"]]
    assert token("pale") in colors and token("grid") not in colors
