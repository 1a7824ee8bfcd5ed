"""Tables and lists in a terminal: nothing is wider than the terminal, and no row, column or word is lost."""

import pytest

from unvanish import lab
from unvanish.cli import main
from unvanish.cli.terminal import entries
from unvanish.population.grid import Axis, Grid
from unvanish.population.summary import plane
from unvanish.report import lab_text
from unvanish.report.grid import lines

GRID = [
    ["initialisation", "weight variance", "depth scale (layers)", "saturated", "phase", "left empty"],
    ["LeCun, or Xavier between equal widths", "1", "1.4427", "0.5", "vanishing", ""],
    ["He", "2", "inf", "0.5", "critical", ""],
]
LEFT = [True, False, False, False, True, False]


def words(made):
    return sorted(set(" ".join(made).split()))


def test_a_table_that_fits_stands_as_it_is():
    made = lines(GRID, LEFT, 120)
    assert made == lines(GRID, LEFT, None) and len(made) == 3
    assert made[2] == f"{'He':<37}  {'2':>15}  {'inf':>20}  {'0.5':>9}  critical"


def test_headers_and_words_give_way_first():
    made = lines(GRID, LEFT, 62)
    assert made == [
        "                                   depth",
        "                        weight     scale",
        "initialisation        variance  (layers)  saturated  phase",
        "LeCun, or Xavier             1    1.4427        0.5  vanishing",
        "between equal widths",
        "He                           2       inf        0.5  critical",
    ]


@pytest.mark.parametrize("width", range(40, 130, 7))
def test_no_line_is_wider_and_no_word_is_lost(width):
    made = lines(GRID, LEFT, width)
    assert max(map(len, made)) <= width
    assert set(words(made)) >= set(" ".join(cell for row in GRID[1:] for cell in row).split())
    assert "saturated" in words(made) and "phase" in words(made)


def test_further_tables_begin_with_the_columns_that_tell_the_rows_apart():
    grid = [["run", "layer", *(f"value {place}" for place in range(9))]]
    grid += [[run, layer, *["0.123456"] * 9] for run in "12" for layer in "12"]
    made = lines(grid, [False] * 11, 44)
    rows = [line.split()[:2] for line in made if line.strip() and "run" not in line]
    assert rows == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]] * 3


def test_the_text_of_every_quick_experiment_fits(monkeypatch, capsys):
    for words in (["theory", "relu"], ["lab", "chain", "--depth", "30"], ["lab", "width"], ["zoo"], ["lab", "--list"]):
        for width in (40, 60, 80, 120):
            monkeypatch.setenv("COLUMNS", str(width))
            assert main(words) == 0
            out = capsys.readouterr().out
            assert max(map(len, out.splitlines())) <= width, (words, width)


def test_a_list_in_a_pipe_has_one_line_an_entry(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["zoo"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert all(not line.startswith(" ") for line in out) and len(out) > 50
    monkeypatch.setenv("COLUMNS", "50")
    assert entries([("a", " ".join("b" * 30))]).splitlines() == ["a  " + "b " * 23 + "b", "   b b b b b b"]


def test_long_words_are_broken_not_left_to_the_terminal():
    outcome = lab.Outcome(sentence="x" * 200, columns=(lab.Column("a"),), rows=({"a": "y" * 55},), notes=("z" * 99,))
    assert max(map(len, lab_text.render(outcome, 40).splitlines())) <= 40
    assert lab_text.render(outcome).splitlines()[0] == "x" * 200


def test_the_two_settings_of_a_map() -> None:
    width, depth, rate = Axis("width", (8, 16, 32)), Axis("depth", (2, 4, 8, 16)), Axis("lr", (0.1, 1.0))
    others = (Axis("activation", ("relu", "tanh")), Axis("bias", (False, True)), Axis("gain", low=0.5, high=2.0))

    def names(*axes: Axis) -> tuple[str, ...] | None:
        found = plane(Grid("mlp", (*axes, *others), 1))
        return found and tuple(axis.name for axis in found)

    assert names(width, depth, rate) == ("width", "depth")  # depth is up, and the longest of the others across
    assert names(rate, width) == ("width", "lr")  # without depth, the shortest is up
    assert names(depth) is None
