"""The pictures of remedies, speeds, heat, activations, paths and phases: their columns by hand, and that they draw."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from unvanish.charts import (
    Chart,
    Tables,
    activations,
    diverging,
    draw,
    factors,
    find,
    heat,
    map,
    paths,
    phase,
    pictures,
    remedies,
    speeds,
    staircase,
)
from unvanish.charts.labels import Box, Spot, box
from unvanish.charts.linear import ends, linear
from unvanish.charts.theme import DIVERGING, token
from unvanish.lab.readable import readable
from unvanish.records import UnvanishError

WIDTHS = (360, 620, 1000)
INF, NAN = math.inf, math.nan


def remedy_rows(count: int = 9) -> list[dict[str, Any]]:
    dice = random.Random(count)
    names = ["as it is", "centred init", "batch norm before every activation", "ReLU", "a remedy with a long name " * 4]
    rows = [{"name": "as it is", "score": 0.11, "low": 0.1, "high": 0.12, "gain": -17.3, "baseline": True}]
    for place in range(1, count):
        score = dice.uniform(0.1, 0.95)
        low, high = score - dice.uniform(0, 0.1), score + dice.uniform(0, 0.04)
        rows.append(
            {"name": f"{names[place % 5]} {place}", "score": score, "low": low, "high": high, "gain": -place / 3}
        )
    return [*rows, {"name": "rate ×1,000", "score": NAN, "low": NAN, "high": NAN, "gain": None}]


def speed_lines(layers: int, steps: int) -> tuple[list[int], list[str], list[list[float | None]]]:
    dice = random.Random(layers)
    values = [[at - layers + dice.gauss(0, 0.1) - step / steps for step in range(steps)] for at in range(layers)]
    return list(range(steps)), [f"encoder.blocks.{at}.mlp.fc" for at in range(layers)], [list(each) for each in values]


def curve(name: str, **more: Any) -> dict[str, Any]:
    x = [place / 20 for place in range(-100, 101)]
    return {"name": name, "x": x, "phi": [math.tanh(v) for v in x], "slope": [1 - math.tanh(v) ** 2 for v in x], **more}


def descent(rate: float, steps: int = 40) -> list[tuple[float, float]]:
    """w ← w − rate · h · w for curvatures 0.002 and 2, from (−1, 1)."""
    return [(-((1 - 0.002 * rate) ** step), (1 - 2 * rate) ** step) for step in range(steps + 1)]


ELLIPSES = [
    [(r * math.cos(turn / 10) * 20, r * math.sin(turn / 10)) for turn in range(64)] for r in (0.1, 0.3, 0.6, 1.0)
]
GRID = [0.25 * step for step in range(1, 17)], [0.05 * step for step in range(13)]


def phase_tables(width: float = 620) -> Tables:
    weights, biases = GRID
    chi = [[w / (1.5 + 3 * b) for w in weights] for b in biases]
    networks = [(1.0, 0.05, "this network"), (2.0, 0.3, "He, as torch does it"), (1.0, 0.1, "the one before")]
    return phase.tables(weights, biases, chi, [(1.5 + 3 * b, b) for b in biases], networks, width=width)


def map_tables(width: float = 620) -> Tables:
    """A signal that falls off on both sides of 2, with a curve that leaves through the top."""
    across, up = [0.25 * at for at in range(2, 17)], [5.0, 10.0, 20.0, 50.0]
    factors = [[depth * (x - 2.0) / 20 for x in across] for depth in up]
    curve = [(0.5 + 0.02 * at, 2 / abs(0.5 + 0.02 * at - 2.001)) for at in range(176)]
    return map.tables(
        across, up, factors, across="weight variance", up="depth", quantity="error signal, first layer over last",
        line=curve, line_name="6 depth scales (predicted)", width=width,
    )  # fmt: skip


def path_tables(width: float) -> Tables:
    tried = [("gradient descent", 0.9), ("a slow one", 0.1), ("one that diverges", 1.2)]
    return paths.tables(ELLIPSES, [{"optimizer": n, "points": descent(rate)} for n, rate in tried], (0, 0), width=width)


def heat_tables(layers: int, steps: int, width: float) -> Tables:
    return heat.tables(*speed_lines(layers, steps), quantity="error signal, over that at the start", width=width)


def activation_tables(width: float) -> Tables:
    names = ("tanh", "an activation with quite a long name of its own", "[red]x[/red]", "no histogram")
    given = [curve(name, density=[math.exp(-(v**2)) for v in curve("")["x"]]) for name in names[:3]]
    return activations.tables([*given, curve(names[3])], width=width)


PICTURES: dict[str, tuple[str, Callable[[float], Tables]]] = {
    "remedies": ("remedies", lambda width: remedies.tables(remedy_rows(), 0.126, 0.11, width=width)),
    "remedies, close": ("remedies", lambda width: remedies.tables(remedy_rows(3), 0.111, 0.11, width=width)),
    "speeds, 4 layers": ("speeds", lambda width: speeds.tables(*speed_lines(4, 60), quantity="‖δ‖", width=width)),
    "speeds, 200 layers": ("speeds", lambda width: speeds.tables(*speed_lines(200, 900), width=width)),
    "heat, 5 layers": ("heat", lambda width: heat_tables(5, 12, width)),
    "heat, 20 layers": ("heat", lambda width: heat_tables(20, 100, width)),
    "heat, 200 layers": ("heat", lambda width: heat_tables(200, 300, width)),
    "activations": ("activations", activation_tables),
    "paths": ("paths", path_tables),
    "phase": ("phase", phase_tables),
    "map": ("map", map_tables),
}
PICTURES |= {each.name: (each.name, each.example) for each in pictures() if each.example}
EACH = pytest.mark.parametrize("kind", PICTURES)


def made(kind: str, width: int = 620) -> Chart:
    name, tables = PICTURES[kind]
    return draw(name, tables(width), title=find(name).question)


def texts(tables: Tables) -> list[str]:
    return [each["text"] for each in tables["labels"]]


@EACH
@pytest.mark.parametrize("width", WIDTHS)
def test_no_two_labels_touch_and_none_leaves_the_picture(kind, width):
    tables = made(kind, width).tables
    frame = tables["frame"][0]
    room = Box(-frame["left"], -frame["top"], width - frame["left"], frame["height"] - frame["top"])
    boxes: list[tuple[str, Box]] = []
    for each in tables["labels"]:
        flat = box(each["text"], Spot(each["px"], each["py"], each["align"]), bold=each["weight"] == "bold")
        if each["angle"]:
            across, up = (flat.right - flat.left) / 2, 7
            flat = Box(each["px"] - up, each["py"] - across, each["px"] + up, each["py"] + across)
        boxes.append((each["text"], flat))
    outside = [
        text for text, each in boxes if each.shared(room) < 0.97 * (each.right - each.left) * (each.bottom - each.top)
    ]
    assert not outside
    # boxes are two pixels wider than their text on both sides, and text is measured generously
    clashes = [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.shared(two) > 4 * 14]
    assert not clashes


@pytest.mark.slow
@EACH
def test_every_theme_draws_ink_in_its_own_colours_only(kind):
    chart = made(kind)
    plain = chart.svg()
    assert "NaN" not in plain
    assert "undefined" not in plain
    assert plain.count("<path") > 10
    assert "var(--uv-" in plain
    for theme in ("light", "dark", "print"):
        drawn = chart.svg(theme=theme)
        assert "var(" not in drawn
        assert plain.count("<path") == drawn.count("<path")
    for text in texts(chart.tables):
        assert re.sub(r"[&<>]", "", text)[:12] in re.sub(r"&(amp|lt|gt);", "", plain)


@EACH
def test_a_picture_is_data_over_a_drawing_without_expressions_on_rows(kind):
    spec = made(kind).spec
    assert "transform" not in json.dumps({key: value for key, value in spec.items() if key != "datasets"})
    # one empty row is a thing drawn once; the numbers come by name
    assert all("name" in layer["data"] or layer["data"] == {"values": [{}]} for layer in spec["layer"])
    json.dumps(spec["datasets"], allow_nan=False)


GAPS: list[float | None] = [-1.0, None, NAN, -INF, -2.0, INF, -3.0]
WITH_GAPS = {
    "speeds": speeds.tables([*range(7)], ["a", "b"], [GAPS, GAPS[::-1]]),
    "staircase": staircase.tables([*"abcdefg"], GAPS, GAPS, compare=[("b", GAPS[::-1])]),
    "factors": factors.tables([f"{at}" for at in range(420)], {"weights": 60 * GAPS}, 60 * GAPS),
}


@pytest.mark.parametrize("kind", [*PICTURES, *WITH_GAPS])
def test_a_line_is_made_of_numbers_and_a_gap_begins_another(kind):
    """The page of a server draws a line without asking of each of its points whether it is a number."""
    chart = draw(kind, WITH_GAPS[kind], title=kind) if kind in WITH_GAPS else made(kind)
    for layer in chart.spec["layer"]:
        if (layer["mark"]["type"] if isinstance(layer["mark"], dict) else layer["mark"]) != "line":
            continue
        fields = [layer["encoding"][axis]["field"] for axis in ("x", "y")]
        rows = chart.spec["datasets"][layer["data"]["name"]]
        assert rows or layer["data"]["name"] != "lines"
        assert all(isinstance(row[each], int | float) and math.isfinite(row[each]) for row in rows for each in fields)


def test_round_numbers_on_a_linear_axis():
    ticks, names = linear(0.03, 1.02, 300, 50)
    assert names == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ticks == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert linear(-1.1, 1.1, 200, 40)[1] == ["−1.0", "−0.5", "0.0", "0.5", "1.0"]
    assert linear(0, 3, 500, 50, 1)[1] == ["0", "1", "2", "3"], "never between whole steps"
    assert linear(0, 5000, 400, 56)[1] == ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]
    assert ends([1.0, 3.0, NAN, INF], 0.5) == (0.0, 4.0)
    assert ends([0.0, 0.0]) == (-1.0, 1.0)
    with pytest.raises(UnvanishError, match="no finite number"):
        ends([NAN])


def test_remedies_are_sorted_and_told_apart_by_shape_too():
    rows = [
        {"name": "as it is", "score": 0.5, "low": 0.5, "high": 0.5, "gain": -3.0, "baseline": True},
        {"name": "unsure", "score": 0.6, "low": 0.4, "high": 0.8, "gain": 0.0},
        {"name": "helps", "score": 0.9, "low": 0.8, "high": 0.95, "gain": None},
        {"name": "diverged", "score": NAN, "low": NAN, "high": NAN},
    ]
    tables = remedies.tables(rows, chance=0.1, as_is=0.5)
    assert [(each["x"], each["y"], each["shape"]) for each in tables["dots"]] == [
        (0.9, 1, "circle"), (0.6, 2, "diamond"), (0.5, 3, "circle"),
    ]  # fmt: skip
    assert [each["fill"] for each in tables["dots"]] == [token("down"), token("bg"), token("bg")]
    assert [(each["x"], each["x2"]) for each in tables["ranges"]] == [(0.8, 0.95), (0.4, 0.8), (0.5, 0.5)]
    assert [each["x"] for each in tables["rules"]] == [0.1, 0.5]
    said = texts(tables)
    assert [name for name in said if name in ("helps", "unsure", "as it is", "diverged")] == [
        "helps", "unsure", "as it is", "diverged",
    ]  # fmt: skip
    assert {"×1.0", "×10⁻³·⁰", "0.90", "no score", "chance", "as is", remedies.GAINS} <= set(said)
    assert any("filled dot: all seeds above" in text for text in said)


def test_remedies_without_gains_have_no_column_for_them():
    tables = remedies.tables([{"name": "a", "score": 1.0, "low": 0.9, "high": 1.1}])
    assert remedies.GAINS not in texts(tables)
    assert not tables["rules"]
    with pytest.raises(UnvanishError, match="no rows"):
        remedies.tables([])
    with pytest.raises(UnvanishError, match="no finite number"):
        remedies.tables([{"name": "a", "score": NAN, "low": NAN, "high": NAN}])


def test_of_many_layers_eight_speeds_are_drawn_and_the_picture_says_so():
    tables = speeds.tables(*speed_lines(30, 20), quantity="‖δ‖")
    numbers = [int(text.split(".")[-3]) for text in texts(tables) if text.endswith("mlp.fc")]
    assert numbers == [0, 4, 8, 12, 17, 21, 25, 29]
    assert "‖δ‖: 8 of 30 layers, evenly spaced" in texts(tables)
    assert len({each["color"] + str(each["dash"]) for each in tables["lines"]}) == 8, "colour and dash together differ"
    few = speeds.tables(*speed_lines(8, 20))
    assert not any("evenly spaced" in text for text in texts(few))


def test_a_spike_among_many_steps_stays_and_a_gap_breaks_the_line():
    values: list[float | None] = [0.0] * 10_000
    values[7_003] = 5.0
    values[2_000] = values[2_001] = None
    tables = speeds.tables(range(10_000), ["a"], [values])
    drawn = tables["lines"]
    assert (7_003, 5.0) in [(each["x"], each["y"]) for each in drawn]
    assert len(drawn) <= 2 * speeds.MOST_BUCKETS
    left = {each["line"] for each in drawn if each["x"] < 1_900}
    right = {each["line"] for each in drawn if each["x"] > 2_100}
    assert len(left) == len(right) == 1
    assert left != right


def test_exactly_zero_stands_below_the_powers_of_ten():
    tables = speeds.tables([0, 1, 2], ["a"], [[-1.0, -3.0, -INF]])
    frame = tables["frame"][0]
    assert frame["y_names"][0] == "0"
    assert tables["lines"][-1]["y"] == frame["y_ticks"][0] < -3
    assert tables["ends"] == [{"x": 2, "y": frame["y_ticks"][0], "color": token("down")}]


def test_numbers_that_are_no_logarithms_stand_on_a_linear_axis():
    tables = speeds.tables([0, 1, 2], ["loss"], [[-1.0, 3.0, INF]], log=False)
    frame = tables["frame"][0]
    assert [row["y"] for row in tables["lines"]] == [-1.0, 3.0]  # what is not finite has no place there
    assert frame["y_low"] < -1.0 < 3.0 < frame["y_high"]
    assert frame["y_names"] == ["−1", "0", "1", "2", "3"]
    flat = speeds.tables([0, 1], ["rate"], [[0.0, 0.0]], log=False)["frame"][0]
    assert flat["y_low"] < 0.0 < flat["y_high"]
    assert list(readable("speeds", speeds.tables, ([0], ["loss"], [[-1.0]]), {"log": False})[0]) == ["step", "loss"]


@pytest.mark.parametrize("make", [speeds.tables, heat.tables])
@pytest.mark.parametrize(
    ("steps", "names", "values"),
    [([], ["a"], [[]]), ([0], [], []), ([0, 1], ["a"], [[1.0]]), ([0], ["a", "b"], [[1.0]])],
)
def test_what_is_not_one_number_a_layer_and_step_is_refused(make, steps, names, values):
    with pytest.raises(UnvanishError, match="give each layer one number or None for each step"):
        make(steps, names, values)


def test_names_of_layers_at_one_place_are_spread():
    tables = speeds.tables([0, 1], ["a", "b", "c"], [[0.0, 0.0]] * 3)
    ys = sorted(each["py"] for each in tables["labels"] if each["text"] in "abc")
    assert [two - one for one, two in itertools.pairwise(ys)] == [speeds.LINE_HEIGHT] * 2


@pytest.mark.parametrize(
    ("log10", "shade"),
    [
        (0.0, 0),
        (0.49, 0),
        (0.51, 1),
        (-0.51, -1),
        (1.49, 1),
        (4.0, 4),
        (-9.0, -4),
        (INF, 4),
        (-INF, -4),
        (NAN, None),
        (None, None),
    ],
)
def test_a_factor_gets_the_colour_of_its_decade(log10, shade):
    assert diverging.Shades(1.0).of(log10) == shade


@pytest.mark.parametrize(
    ("largest", "unit"), [(0.0, 0.05), (0.2, 0.05), (0.21, 0.1), (4.0, 1.0), (4.1, 2.0), (27.0, 10.0), (1371.0, 500.0)]
)
def test_the_colours_reach_as_far_as_the_factors(largest, unit):
    assert diverging.shades([largest, -largest / 2, None, -INF, NAN]).unit == pytest.approx(unit)


def test_a_few_factors_far_out_do_not_take_the_colour_from_the_others():
    values = [0.4] * 99 + [1371.0]
    assert diverging.shades(values).unit == 500
    assert diverging.shades(values, 0.98).unit == 0.1


@pytest.mark.parametrize(
    ("share", "shade"), [(0.0, 0), (0.12, 0), (0.13, 1), (0.5, 2), (1.0, 4), (-1.0, -4), (NAN, None), (None, None)]
)
def test_a_share_gets_the_colour_of_its_quarter(share, shade):
    assert diverging.Shares().of(share) == shade


def test_shares_use_the_upper_colours_and_their_differences_all():
    names, steps = ["a", "b"], [0, 1]
    said = texts(heat.tables(steps, names, [[0.0, 0.5], [1.0, None]], share=True))
    assert {"0%", "100%"} <= set(said) and "×1" not in said
    both = heat.tables(steps, names, [[0.0, -0.5], [1.0, None]], share=True)
    assert {"−100%", "0", "100%"} <= set(texts(both))
    colours = {each["color"] for each in both["cells"]}
    assert {token(name) for name in DIVERGING} <= colours  # the key shows each


def test_the_ends_of_the_key_are_where_the_outermost_colours_begin():
    assert diverging.Shades(1.0).ends == ("≤ ×10⁻³·⁵", "≥ ×10³·⁵")


def test_cells_of_one_colour_are_joined_and_those_above_one_hatched():
    cells, hatching = diverging.cells([[1, 1, 0], [None, -4, -4]], [0, 1, 2, 3], [0, 10, 20])
    warm, cold = token(DIVERGING[5]), token(DIVERGING[0])
    assert cells == [
        {"x": 0, "x2": 2, "y": 0, "y2": 10, "color": warm},
        {"x": 2, "x2": 3, "y": 0, "y2": 10, "color": token("even")},
        {"x": 1, "x2": 3, "y": 10, "y2": 20, "color": cold},
    ]
    assert hatching == [{"x": 0, "x2": 2, "y": 5}]


def test_a_large_heat_map_is_put_together_from_medians():
    assert [list(each) for each in heat.pieces(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert heat.pieces(2, 60) == [range(1), range(1, 2)]
    assert heat.middle([3.0, None, 1.0, NAN, 2.0]) == 2.0
    assert heat.middle([1.0, 2.0]) == 1.0
    assert heat.middle([-INF, -INF, 5.0]) == -INF
    assert heat.middle([None, NAN]) is None
    chart = draw("heat", heat_tables(1000, 1000, 620))
    assert "a cell: median of up to 17 layers × 9 steps" in texts(chart.tables)
    assert len(chart.tables["cells"]) <= heat.MOST_ROWS * heat.MOST_COLUMNS + len(DIVERGING)
    frame = chart.tables["frame"][0]
    assert (frame["x_low"], frame["x_high"], frame["y_high"], frame["y_low"]) == (-0.5, 999.5, 0.5, 1000.5)
    assert len(chart.svg()) < 200_000


def test_the_cells_of_a_heat_map_cover_what_was_measured_once():
    steps, names, values = speed_lines(7, 130)
    values[3] = [None] * 130
    tables = heat.tables(steps, names, values)
    inside = [each for each in tables["cells"] if each["y"] > 0]
    assert sum((each["x2"] - each["x"]) * (each["y2"] - each["y"]) for each in inside) == pytest.approx(130 * 6)
    assert not [each for each in inside if each["y"] < 4 < each["y2"]], "the layer that was not measured stays blank"
    assert "blank: not measured" in texts(tables)


def test_curves_leave_the_panel_and_come_back_as_another_line():
    x = [-2.0, -1.0, 0.0, 1.0, 2.0]
    tables = activations.tables([{"name": "cube", "x": x, "phi": [v**3 for v in x], "slope": [1.0] * 5}])
    phi = [each for each in tables["curves"] if ".phi." in each["line"]]
    assert [each["order"] for each in phi] == [1, 2, 3]
    assert len({each["line"] for each in phi}) == 1
    assert not tables["areas"]
    assert texts(tables)[-1] == "pre-activation; φ: the activation, φ′: its slope"


def test_the_histogram_stands_on_zero_and_its_tallest_bar_reaches_half_way_up():
    peak = [0.0] * 201
    peak[100], peak[101] = 7.0, NAN
    tables = activations.tables([curve("tanh", density=peak)])
    tall = max(tables["areas"], key=lambda each: each["y2"] - each["y"])
    assert len({each["y2"] for each in tables["areas"]}) == 1
    rules = sorted({each["y"] for each in tables["rules"]})
    assert tall["y2"] == rules[1], "the rule of zero"
    assert 0.5 * (rules[1] - rules[0]) < tall["y2"] - tall["y"] < 0.62 * (rules[1] - rules[0])


def test_long_curves_are_thinned_with_both_ends_kept():
    x = [place / 1000 for place in range(5001)]
    tables = activations.tables([{"name": "identity", "x": x, "phi": [0.5] * 5001, "slope": [1.0] * 5001}])
    phi = [each["x"] for each in tables["curves"] if ".phi." in each["line"]]
    assert len(phi) == activations.MOST_POINTS
    assert (phi[0], phi[-1]) == (0.0, tables["frame"][0]["x_high"])


def test_activations_without_points_are_refused():
    with pytest.raises(UnvanishError, match="found none"):
        activations.tables([])
    with pytest.raises(UnvanishError, match=r"'tanh'.*\[201, 201, 201, 3\]"):
        activations.tables([curve("tanh", density=[1.0, 2.0, 3.0])])


def test_a_path_ends_at_its_last_finite_point_and_one_that_runs_away_says_so():
    tables = paths.tables(
        ELLIPSES,
        [
            {"optimizer": "stays", "points": descent(0.9, 20)},
            {"optimizer": "runs", "points": descent(1.5, 20)},
            {"optimizer": "breaks", "points": [(-1.0, 1.0), (-0.5, 0.5), (NAN, 0.0), (0.0, 0.0)]},
            {"optimizer": "waits", "points": [(-1.0, 0.5)]},
        ],
        (0.0, 0.0),
    )
    said = texts(tables)
    assert {
        "stays after 20 steps",
        "runs leaves the picture",
        "breaks leaves the picture",
        "waits after 0 steps",
    } <= set(said)
    by_line = {series: [each for each in tables["lines"] if each["line"] == series] for series in range(4)}
    assert [len(by_line[series]) for series in (0, 2, 3)] == [21, 2, 1]
    frame = tables["frame"][0]
    assert len(by_line[1]) < 6
    assert all(abs(each["y"]) < 20 for each in by_line[1])
    assert frame["y_low"] >= -4 and frame["y_high"] <= 4
    assert all(frame["y_low"] <= each["y"] <= frame["y_high"] for each in tables["dots"])


def test_paths_without_points_are_refused():
    for given in ([], [{"optimizer": "none", "points": []}]):
        with pytest.raises(UnvanishError, match="without points"):
            paths.tables(ELLIPSES, given, (0.0, 0.0))


def test_the_two_sides_of_the_critical_line_have_their_words_and_colours():
    tables = phase_tables()
    frame = tables["frame"][0]
    for text, sign in ((phase.SHRINK, -1), (phase.GROW, 1)):
        (label,) = [each for each in tables["labels"] if each["text"] == text]
        plot = frame["width"] - frame["left"] - frame["right"], frame["height"] - frame["top"] - frame["bottom"]
        w = frame["x_low"] + label["px"] / plot[0] * (frame["x_high"] - frame["x_low"])
        b = frame["y_high"] - label["py"] / plot[1] * (frame["y_high"] - frame["y_low"])
        assert math.log10(w / (1.5 + 3 * b)) * sign > 0
    inside = [each for each in tables["cells"] if each["y"] < frame["y_high"]]
    warm = {token(name) for name in DIVERGING[5:]}
    for each in inside:
        w, b = (each["x"] + each["x2"]) / 2, (each["y"] + each["y2"]) / 2
        if abs(math.log10(w / (1.5 + 3 * b))) > 0.2:
            assert (each["color"] in warm) == (w > 1.5 + 3 * b)
    assert {"this network", "He, as torch does it", "the one before"} <= set(texts(tables))
    assert len(tables["plates"]) == 6


def test_a_phase_diagram_leaves_blank_what_has_no_value():
    tables = phase.tables([1.0, 2.0], [0.0, 1.0], [[0.0, NAN], [1.0, 10.0]])
    assert "blank: no value" in texts(tables)
    colors = [each["color"] for each in tables["cells"][:3]]
    assert colors == [token("cold4"), token("even"), token("warm4")]
    with pytest.raises(UnvanishError, match="a row for each bias variance"):
        phase.tables([1.0, 2.0], [0.0], [[1.0, 1.0]])


def test_the_curve_of_a_map_ends_at_its_upper_edge_and_goes_on_behind_it():
    tables = map_tables()
    frame = tables["frame"][0]
    parts = {row["part"] for row in tables["line"]}
    assert len(parts) == 2
    for part in parts:
        heights = [row["y"] for row in tables["line"] if row["part"] == part]
        assert max(heights) == pytest.approx(frame["y_high"]) and min(heights) >= frame["y_low"]
    assert "6 depth scales (predicted)" in texts(tables)


def test_a_map_needs_a_row_for_each_place_up_and_leaves_blank_what_is_missing():
    with pytest.raises(UnvanishError, match="at least 2 × 2"):
        map.tables([1.0, 2.0], [0.0], [[1.0, 1.0]], across="a", up="b")
    tables = map.tables([1.0, 2.0], [0.0, 1.0], [[None, 1.0], [1.0, 1.0]], across="a", up="b")
    assert "blank: no value" in texts(tables)
    assert map.tables([1.0, 2.0], [0.0, 1.0], [[1.0, 1.0]] * 2, across="a", up="b")["line"] == []


def test_numbers_without_names_are_rows_by_their_place() -> None:
    def tables(log10_values: list[float], *, width: float = 1.0) -> None: ...

    rows = readable("ladder", tables, ([-1.0, -2.0],), {})
    assert rows == [{"number": 1, "log10 values": -1.0}, {"number": 2, "log10 values": -2.0}]
    assert readable("ladder", tables, (3.0,), {}) == []


def test_an_unknown_colour_is_said_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no colour 'dwn'; there are bg, fg"):
        token("dwn")
