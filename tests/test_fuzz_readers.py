"""Whatever a file holds, reading it gives an answer or one UnvanishError: reports, runs, sweeps, searches, grids."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import made_reports
import pytest
from damage import damaged, mistaken
from run_files import made, vanished

import unvanish
from unvanish import UnvanishError, load_run
from unvanish.population.grid import Grid, read_grid
from unvanish.population.sweeping import opened
from unvanish.records import Evidence, Finding, from_builtins
from unvanish.report import Report
from unvanish.report.formats import formats
from unvanish.trials import state
from unvanish.watching.against import against

ROOT = Path(__file__).resolve().parents[1]
WRITERS = [each for each in formats() if each.name not in ("html", "svg", "png", "pdf")]
"""All but those that draw: a picture takes as long as a thousand texts."""


def tried(count: int, one: Callable[[int], object]) -> tuple[int, int]:
    """How many came through and how many were refused, each with one line; any other error is the test's."""
    fine = 0
    for at in range(count):
        try:
            one(at)
            fine += 1
        except UnvanishError as error:
            assert str(error).strip(), at
    return fine, count - fine


@pytest.mark.parametrize("seed", range(2))
def test_a_report_with_other_values_is_refused_or_can_be_written_in_every_format(seed: int) -> None:
    chance = random.Random(seed)
    texts = [each.to_json() for each in made_reports.MADE.values()]

    def one(_: int) -> None:
        report = Report.from_json(mistaken(chance.choice(texts), chance))
        for each in WRITERS:
            each.write(report)
        again = report.to_json()
        assert Report.from_json(again).to_json() == again

    fine, refused = tried(120, one)
    assert fine > 15 and refused > 15  # both happen


def test_half_a_character_where_a_word_belongs_is_one_error() -> None:
    with pytest.raises(UnvanishError, match="no Unicode"):
        from_builtins({"name": "x", "value": "\ud800"}, Evidence)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "whole.unvanish"
    file = made(path, 300, end=False)
    file.event(5, vanished())
    file.report(7, "asked", made_reports.MADE["dead"].to_json())
    file.close(steps=300)
    return path


def every_answer(path: Path, whole: Path) -> None:
    """All that can be asked of a run, in numbers and text."""
    run = load_run(path)
    assert run.metrics("loss") is not None and run.metrics("log10_signal") is not None
    assert all(isinstance(step, int) for step in run.steps)
    assert run.findings == tuple(each for _, _, each in run.episodes)
    for report in (run.report(), run.full_report(), run.last_report()):
        assert report is None or (str(report) and report.to_json())
    assert against(run, load_run(whole)).to_json()


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_run_file_is_refused_or_read(seed: int, run: Path, tmp_path: Path) -> None:
    chance, whole = random.Random(seed), run.read_bytes()
    every_answer(run, run)

    def one(_: int) -> None:
        (tmp_path / "x.unvanish").write_bytes(damaged(whole, chance))
        every_answer(tmp_path / "x.unvanish", run)

    fine, refused = tried(150, one)
    assert fine > 20 and refused > 20


OTHER_VALUES = [
    ("facts", "value", ["1", "[", "null", '"x"', '["a"]', "[[1, 99]]", "[-1]", "{}", 5, None, b"\xff"]),
    ("layers", "name", [5, None, b"x", "\x1b[31m"]),
    ("layers", "parameters", ["many", None, -1, 1.5, 2**62]),
    ("samples", "last", [None, -1, "x", 2**62, 0]),
    ("samples", "lowest", [None, b"", b"123", bytes(28), bytes(28 * 50), "x", 5]),
    ("samples", "highest", [b"", b"123", bytes(28), 5]),
    ("samples", "series", [None, b"", b"123", bytes(8), bytes(8 * 50), "x"]),
    ("events", "finding", [None, "", "[", "{}", "[1]", '{"code": 5}', b"\xff", "[" * 100_000]),
    ("events", "step", ["x", None, -1]),
    ("reports", "report", [None, "", "{", "{}", "[1]", '{"schema": "unvanish.report/1"}', b"\xff"]),
    ("reports", "step", ["x", None]),
]


@pytest.mark.parametrize(("table", "column", "values"), OTHER_VALUES, ids=lambda each: each if each is str else None)
def test_a_run_file_of_other_values_is_refused_or_read(
    table: str, column: str, values: list[object], run: Path, tmp_path: Path
) -> None:
    def one(at: int) -> None:
        (tmp_path / "x.unvanish").write_bytes(run.read_bytes())
        base = sqlite3.connect(tmp_path / "x.unvanish")
        rows = [row for (row,) in base.execute(f"SELECT rowid FROM {table}")]
        row = rows[at % len(rows)]
        base.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (values[at % len(values)], row))
        base.commit()
        base.close()
        every_answer(tmp_path / "x.unvanish", run)

    _, refused = tried(len(values) * (13 if table == "facts" else 1), one)
    assert refused > 1  # of each column some values cannot be read


@pytest.mark.parametrize("statements", ["", "CREATE TABLE facts (x)", "CREATE TABLE facts (key, value)"])
def test_a_database_of_another_program_is_refused(statements: str, tmp_path: Path) -> None:
    path = tmp_path / "x.unvanish"
    base = sqlite3.connect(path)
    base.executescript(f"CREATE TABLE other (x); {statements}")
    base.close()
    with pytest.raises(UnvanishError, match=r"no run file|has the schema None"):
        load_run(path)
    with pytest.raises(UnvanishError, match=r"not the \.sqlite file of a sweep"):
        opened(path)
    with pytest.raises(UnvanishError, match="of another kind"):
        unvanish.sweep(GRID, to=path.rename(tmp_path / "x.sqlite"))


GRID = {"grid": {"depth": [2, 3], "weight_variance": [1.0, 2.0]}, "fixed": {"width": 8, "activation": "tanh"}}


def test_a_damaged_sweep_is_refused_or_read_or_gone_on_with(tmp_path: Path) -> None:
    chance = random.Random(0)
    unvanish.sweep(GRID, to=tmp_path / "whole.sqlite")
    whole = (tmp_path / "whole.sqlite").read_bytes()

    def one(at: int) -> None:
        path = tmp_path / f"{at}.sqlite"
        path.write_bytes(damaged(whole, chance))
        sweep = opened(path) if at % 2 else unvanish.sweep(GRID, to=path)
        assert str(sweep) and len(list(sweep.points)) <= len(sweep.points)
        sweep.save(tmp_path / "x.csv")

    fine, refused = tried(150, one)
    assert fine > 15 and refused > 15


SEARCH = {
    "schema": state.SCHEMA, "problem": "p",
    "measures": [{"edits": ["a", "b"], "seed": 0, "steps": 5, "score": 0.5, "fall": 0.1, "judged": [1.0], "spent": 5}],
}  # fmt: skip


def test_the_state_of_a_search_with_other_values_is_refused_or_read(tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "state.json"
    path.write_text(json.dumps(SEARCH))
    ((key, (measure, spent)),) = state.load(path, "p").items()
    assert (key, measure.judged, spent) == ((("a", "b"), 0, 5), (1.0,), 5)

    def one(_: int) -> None:
        path.write_text(mistaken(json.dumps(SEARCH), chance), errors="surrogateescape")
        state.load(path, "p")

    fine, refused = tried(1_000, one)
    assert fine > 20 and refused > 200


PIECES = (
    "[grid]", "[fixed]", "[run]", "[random]", "[sobol]", "[grid.depth]", "[[grid]]", "depth = ", "width = ",
    "points = ", "seed = ", "log = ", "activation = ", "lr = ", "train = ", "data = ", "steps = ", "seeds = ",
    "timeout = ", "model = ", "'a b' = ", "x.y = ", "norm = ", "init = ", "weight_variance = ", "[1, 2]", "[0.5, 4.0]",
    "1", "-1", "nan", "inf", "1e400", "99999999999999999999", '"tanh"', '""', "true", "[]", "[[1]]",
    "{low=1,high=2,log=true}",
    "[1, 'a']", "{low=1,high=nan}", "2026-01-01", "[true, 1]", "\x00", "é", '"""', "#",
)  # fmt: skip


def test_a_grid_put_together_at_random_is_refused_or_the_same_after_a_round_trip(tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "g.toml"
    whole = [each.read_text("utf-8").split("\n") for each in sorted((ROOT / "examples").rglob("*.toml"))]
    assert whole

    def one(_: int) -> None:
        lines = list(chance.choice(whole))
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.randrange(len(lines))
            change = chance.random()
            if change < 0.4:
                lines[at] = lines[at].partition("=")[0] + "= " + chance.choice(PIECES)
            elif change < 0.7:
                lines.insert(at, chance.choice(PIECES) + chance.choice(("\n", "1", "[1, 2]", '"x"')))
            else:
                lines[at] = damaged(lines[at].encode("utf-8", "surrogateescape") or b" ", chance).decode(
                    "utf-8", "surrogateescape"
                )
        path.write_text("\n".join(lines), "utf-8", errors="surrogateescape")
        grid = read_grid(path)
        assert Grid.of(json.loads(json.dumps(grid.identity()))).identity() == grid.identity()

    fine, refused = tried(2_000, one)
    assert fine > 100 and refused > 1_000


def test_a_finding_of_a_run_is_what_was_written(run: Path) -> None:
    """The checks on reading take nothing away."""
    assert load_run(run).findings == (vanished(),)
    assert isinstance(load_run(run).findings[0], Finding)
