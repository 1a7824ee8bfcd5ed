"""Grids, their errors, the points they make, and a sweep from its grid to its file."""

from __future__ import annotations

import csv
import itertools
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unvanish
from unvanish import UnvanishError
from unvanish.cli import main
from unvanish.population import stacked, sweeping, work
from unvanish.population.grid import Grid, read_grid
from unvanish.population.modules import network
from unvanish.population.points import points
from unvanish.population.store import column_kinds
from unvanish.population.summary import limit, plane

SMALL: dict[str, Any] = {
    "grid": {"depth": [3, 6], "activation": ["sigmoid", "tanh"], "weight_variance": [0.5, 1.5, 4.0]},
    "fixed": {"width": 12},
    "run": {"seeds": 2},
}
TOML = """\
# comment
[grid]
depth = [5, 20]
activation = ["sigmoid", "tanh"]

[fixed]
width = 16
[run]
seeds = 2
"""
BAD = [
    ("depth = [5, 20]", "dept = [5, 20]", 3, "did you mean 'depth'?"),
    ("depth = [5, 20]", "depth = []", 3, "the list is empty"),
    ("depth = [5, 20]", "depth = 5", 3, "a single value belongs to [fixed]"),
    ("depth = [5, 20]", "depth = [5, 2.5]", 3, "2.5 is not a whole number"),
    ("depth = [5, 20]", "depth = [5, true]", 3, "True is not a whole number"),
    ("depth = [5, 20]", "depth = [5, 5]", 3, "holds a value twice"),
    ("depth = [5, 20]", "points = 5", 3, "points = N is for [random]"),
    ('"tanh"]', '"thanh"]', 4, "did you mean 'tanh'?"),
    ("width = 16", "widht = 16", 7, "did you mean 'width'?"),
    ("width = 16", "width = 0", 7, "0 is not a whole number from 1"),
    ("width = 16", "width = [16]", 7, "what varies belongs to [grid]"),
    ("width = 16", "depth = 16", 7, "it stands in [grid] too"),
    ("width = 16", "seeds = 16", 7, "it belongs to [run]"),
    ("width = 16", "lr = 0.1", 7, "means nothing without training"),
    ("width = 16", "bias_variance = 0.1", 7, "needs weight_variance beside it"),
    ("width = 16", 'init = "gaussian"', 7, "needs weight_variance"),
    ("width = 16", "norm = 'batch'\nbatch = 1", 8, "at least two samples"),
    ("width = 16", "model = 'there.py:build'", 7, "there is no file"),
    ("width = 16", "model = 'there'", 7, "not of the form"),
    ("seeds = 2", "seed = 2", 9, "did you mean 'seeds'?"),
    ("seeds = 2", "seeds = 0", 9, "0 is not a whole number, 1 or more"),
    ("seeds = 2", "width = 2", 9, "it belongs to [fixed] or [grid]"),
    ("seeds = 2", "steps = 5", 9, "means nothing without training"),
    ("seeds = 2", "train = 1", 9, "1 is not true or false"),
    ("seeds = 2", "train = true\ndata = 'minst'", 10, "did you mean 'mnist'?"),
    ("[run]", "[runs]", 8, "did you mean 'run'?"),
    ("[run]", "[random]\npoints = 3\nlr = [0.1, 0.2]\n[run]", 8, "there is a [grid] already"),
    ("[fixed]", "[fixed", 6, "this is not TOML"),
    ("depth = [5, 20]", "", 2, "depth is missing"),
    ("width = 16", "'wi dth' = 16", 7, "there is no such name"),
    ("[run]", "[fixed.more]\nx = 1\n[run]", 8, "there is no such name"),
    ("[fixed]", "[[fixed]]", 6, "is not a section"),
]


def written(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("good", "bad", "line", "said"), BAD, ids=[bad for _, bad, _, _ in BAD])
def test_an_error_names_the_line_and_what_to_do(tmp_path: Path, good: str, bad: str, line: int, said: str) -> None:
    assert good in TOML
    path = written(tmp_path, TOML.replace(good, bad, 1))
    with pytest.raises(UnvanishError) as error:
        read_grid(path)
    assert f"{path}, line {line}: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "depth is missing"),
        ("\ufeff[grid]\ndepth = [5]\nwdth = [3]\n", 3, "did you mean 'width'?"),
        ("depth = [5]\n[fixed]\nwidth = 3\n", 1, "a name stands below the header of its section"),
        ("[grid]\ndepth = [3]\n[fixed]\nmodel = 'm.py:bild'\n", 4, "did you mean 'build'?"),
        ("[grid]\ndept = [3]\n[fixed]\nmodel = 'm.py:build'\n", 2, "did you mean 'depth'?"),
        ("[grid]\ndrop = [3]\n[fixed]\nmodel = 'm.py:build'\n", 4, "build() needs 'depth'"),
        ("[grid]\ndepth = [3]\n[fixed]\nmodel = 'broken.py:build'\n", 4, "ZeroDivisionError"),
        ("[grid]\ndepth = [3]\n[run]\ntrain = true\ndata = 'm.py:load'\n", 5, "has no function 'load'"),
        ("[grid]\ndepth = [3]\nbatch = [5000]\n[run]\ntrain = true\n", 3, "more than the 600 images"),
    ],
)
def test_every_error_of_a_file_names_a_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    (tmp_path / "m.py").write_text("def build(depth, drop=0): pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    path = written(tmp_path, text)
    with pytest.raises(UnvanishError) as error:
        unvanish.sweep(path, to=tmp_path / "s.sqlite")
    assert str(error.value).startswith(f"{path}, line {line}: ") and said in str(error.value)
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (
            {"grid": {"depth": [3], "weight_variance": [1.0], "init": ["he"]}},
            "sets the variances of the weights itself",
        ),
        ({"grid": {"width": [3]}}, "depth is missing"),
        ({"random": {"depth": [3, 5]}}, "give points = N"),
        ({"random": {"points": 4}}, "nothing varies"),
        ({"random": {"points": 4, "depth": [3, 5, 7]}}, "a range has two ends"),
        ({"random": {"points": 4, "depth": [5, 3]}}, "is empty"),
        ({"sobol": {"points": 4, "depth": [1, 3], "skip": {"low": 0.0, "high": 1.0, "log": True}}}, "ends above 0"),
        ({"sobol": {"points": 4, "depth": {"low": 1, "height": 3}}}, "found 'height'"),
        ({"grid": [1]}, "is not a section"),
        ({"grid": {"depth": [10**9]}}, "is not a whole number from 1 to 100,000"),
    ],
)
def test_a_dict_is_held_to_the_same(grid: dict[str, Any], said: str) -> None:
    with pytest.raises(UnvanishError) as error:
        read_grid(grid)
    assert said in str(error.value)


def test_a_file_and_a_dict_are_the_same_grid(tmp_path: Path) -> None:
    same = {"grid": {"depth": [5, 20], "activation": ["sigmoid", "tanh"]}, "fixed": {"width": 16}, "run": {"seeds": 2}}
    assert read_grid(written(tmp_path, TOML)).identity() == read_grid(same).identity()


def test_a_grid_makes_every_combination_once_and_shapes_stay_together() -> None:
    grid = read_grid(SMALL)
    made = points(grid, 0, grid.points)
    expected = itertools.product(*SMALL["grid"].values())
    assert sorted(map(str, (tuple(each.values()) for each in made))) == sorted(map(str, expected))
    assert list(made[0]) == ["depth", "activation", "weight_variance"]
    assert made[3:7] == points(grid, 3, 7)
    shapes = [(each["depth"], each["activation"]) for each in made]
    assert len(list(itertools.groupby(shapes))) == 4


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_drawn_points_lie_in_their_ranges_and_do_not_depend_on_the_stretch(design: str) -> None:
    ranges = {
        "depth": [2, 9], "weight_variance": [0.5, 4.0], "activation": ["tanh", "relu"],
        "bias_variance": {"low": 1e-4, "high": 1.0, "log": True},
    }  # fmt: skip
    grid = read_grid({design: {"points": 400, **ranges}})
    made = points(grid, 0, 400)
    assert made[130:170] == points(grid, 130, 170)
    assert {each["depth"] for each in made} == set(range(2, 10))
    assert {each["activation"] for each in made} == {"tanh", "relu"}
    assert all(0.5 <= each["weight_variance"] <= 4.0 and 1e-4 <= each["bias_variance"] <= 1.0 for each in made)
    assert sum(each["bias_variance"] < 1e-2 for each in made) == pytest.approx(200, abs=40)
    other = read_grid({design: {"points": 400, "seed": 1, **ranges}})
    assert points(other, 0, 400) != made


def test_a_million_points_are_a_few_ranges() -> None:
    grid = read_grid({"sobol": {"points": 10**9, "weight_variance": [0.5, 4.0]}, "fixed": {"depth": 100, "width": 1}})
    assert len(points(grid, 10**6, 10**6 + 5)) == 5
    assert work.stretch(grid) <= work.LARGEST


def test_a_sweep_measures_what_its_modules_do(tmp_path: Path) -> None:
    done = unvanish.sweep(SMALL, to=tmp_path / "s.sqlite")
    assert done.path == tmp_path / "s.sqlite" and len(done.points) == 24
    rows = list(done.points)
    assert [row["seed"] for row in rows[:4]] == [0, 1, 0, 1]
    assert {row["verdict"] for row in rows} <= {"healthy", "vanished", "exploding"}
    assert all(row["error"] == "" and row["accuracy"] is None and row["width"] == 12 for row in rows)
    deep = next(row for row in rows if (row["depth"], row["activation"], row["weight_variance"]) == (6, "sigmoid", 0.5))
    assert deep["verdict"] == "vanished" and deep["log10_lowest_transmission"] < -2.5
    assert deep["log10_gain"] == pytest.approx(deep["log10_signal_ratio"] / 6)
    assert deep["log10_signal_ratio"] == pytest.approx(deep["predicted_log10_signal_ratio"], abs=1.0)
    assert done.points[-1] == rows[-1] and list(done.points[2:4]) == rows[2:4]
    with pytest.raises(IndexError):
        done.points[24]
    shape, flow = stacked_flow(deep)
    assert deep["log10_signal_ratio"] == pytest.approx(flow, abs=1e-4), shape


def stacked_flow(row: Any) -> tuple[Any, float]:
    import numpy as np

    from unvanish.population.shape import numbers_of, shape_of

    names = ("depth", "width", "activation", "weight_variance")
    settings = {name: row[name] for name in names}
    shape = shape_of(settings)
    weight, bias, _ = numbers_of(settings)
    found = stacked.flows(shape, np.array([[weight], [bias]]), np.zeros(1), [row["seed"]])
    assert network(settings, row["seed"])
    return shape, float(found.ratio[0, 0])


def test_a_sweep_of_the_same_grid_computes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(unvanish.sweep(SMALL, to=tmp_path / "s.db").points)
    monkeypatch.setattr(sweeping, "rows", lambda *given: pytest.fail("computed again"))
    assert list(unvanish.sweep(SMALL, to=tmp_path / "s.db").points) == first


def test_a_file_of_another_sweep_is_refused(tmp_path: Path) -> None:
    unvanish.sweep(SMALL, to=tmp_path / "s.sqlite")
    other = {**SMALL, "grid": {**SMALL["grid"], "depth": [3, 7]}}
    with pytest.raises(UnvanishError, match=r"^'[^']*s\.sqlite' holds another sweep \(other values of depth\)"):
        unvanish.sweep(other, to=tmp_path / "s.sqlite")
    with pytest.raises(UnvanishError, match="seeds is 2 there and 3 here"):
        unvanish.sweep({**SMALL, "run": {"seeds": 3}}, to=tmp_path / "s.sqlite")
    base = sqlite3.connect(tmp_path / "other.sqlite")
    base.execute("CREATE TABLE a (b)")
    base.close()
    with pytest.raises(UnvanishError, match="another kind"):
        unvanish.sweep(SMALL, to=tmp_path / "other.sqlite")
    (tmp_path / "text.sqlite").write_text("no database, but longer than a header of one would have to be" * 20)
    with pytest.raises(UnvanishError, match="cannot use"):
        unvanish.sweep(SMALL, to=tmp_path / "text.sqlite")


def test_csv_holds_every_row(tmp_path: Path) -> None:
    done = unvanish.sweep(SMALL, to=tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as sheet:
        rows = list(csv.DictReader(sheet))
    assert len(rows) == 24 and rows[5]["verdict"] == done.points[5]["verdict"]
    assert float(rows[5]["log10_signal_ratio"]) == done.points[5]["log10_signal_ratio"]


def test_parquet_has_one_type_a_column(tmp_path: Path) -> None:
    grid = {"grid": {"depth": [3, 6], "skip": [0.5, "1/sqrt(depth)"]}, "fixed": {"width": 8}}
    kinds = column_kinds(read_grid(grid))
    done = unvanish.sweep(grid, to=tmp_path / "s.sqlite")
    assert list(kinds) == list(done.points[0])
    assert (kinds["depth"], kinds["width"], kinds["skip"], kinds["accuracy"]) == ("int", "int", "text", "float")
    parquet = pytest.importorskip("pyarrow.parquet")
    done.save(tmp_path / "s.parquet")
    read = parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["skip"] for row in read] == [str(row["skip"]) for row in done.points]
    assert [row["log10_signal_ratio"] for row in read] == [row["log10_signal_ratio"] for row in done.points]


def test_files_that_cannot_be_written_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "rows", lambda *given: pytest.fail("it ran"))
    for name, said in (("s.txt", "the suffix '.txt'"), ("s", "no suffix"), ("no/s.csv", "there is no directory")):
        with pytest.raises(UnvanishError, match=said):
            unvanish.sweep(SMALL, to=tmp_path / name)
    with pytest.raises(UnvanishError, match="'ray://HOST:PORT'"):
        unvanish.sweep(SMALL, on="rya")


def test_missing_packages_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnvanishError, match="needs pyarrow"):
        unvanish.sweep(SMALL, to=tmp_path / "s.parquet")
    with pytest.raises(UnvanishError, match="needs pandas"):
        unvanish.sweep(SMALL, to=tmp_path / "s.sqlite").to_pandas()


def test_training_gives_accuracy_loss_and_speeds(tmp_path: Path) -> None:
    grid = {
        "grid": {"depth": [1, 4], "lr": [0.5, 0.01], "optimizer": ["sgd", "adam"]},
        "fixed": {"width": 12, "activation": "sigmoid"},
        "run": {"seeds": 2, "train": True, "steps": 40},
    }
    rows = list(unvanish.sweep(grid, to=tmp_path / "s.sqlite").points)
    assert len(rows) == 16 and all(row["error"] == "" for row in rows)
    assert all(0.0 <= row["accuracy"] <= 1.0 and row["training_loss"] > 0 for row in rows)
    assert {len(row["log10_speeds"].split(",")) for row in rows} == {2, 5}
    learned = {(r["depth"], r["lr"], r["optimizer"]): r["accuracy"] for r in rows if r["seed"] == 0}
    assert learned[1, 0.01, "adam"] > 0.4 > learned[4, 0.01, "sgd"]
    deep = next(row for row in rows if row["depth"] == 4)
    speeds = [float(each) for each in deep["log10_speeds"].split(",")]
    assert speeds[0] < speeds[-1]  # the first layers of a sigmoid network are slower


def test_data_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef two():\n    x = torch.randn(50, 2, 2)\n    return x, (x.sum((1, 2)) > 0).long()\n"
        "def wrong():\n    return 5\n"
    )
    text = "[grid]\ndepth = [1]\n[fixed]\nwidth = 8\n[run]\ntrain = true\nsteps = 5\ndata = 'mine.py:{}'\n"
    done = unvanish.sweep(written(tmp_path, text.format("two")), to=tmp_path / "s.sqlite")
    assert done.points[0]["accuracy"] is not None
    with pytest.raises(UnvanishError, match=r"must return \(inputs, labels\)"):
        unvanish.sweep(written(tmp_path, text.format("wrong")), to=tmp_path / "t.sqlite")
    large = text.format("two").replace("width = 8", "width = 8\nbatch = 31")
    with pytest.raises(UnvanishError, match="batch = 31 is more than the 30 images"):
        unvanish.sweep(written(tmp_path, large), to=tmp_path / "t.sqlite")
    with pytest.raises(UnvanishError, match="did you mean 'two'"):
        unvanish.sweep(written(tmp_path, text.format("tow")), to=tmp_path / "t.sqlite")


def test_a_point_that_raises_is_recorded_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = read_grid(SMALL)
    real = stacked.flows

    def sometimes(shape: Any, variances: Any, *more: Any) -> Any:
        if 1.5 in variances[0]:
            raise MemoryError("too large")
        return real(shape, variances, *more)

    monkeypatch.setattr(stacked, "flows", sometimes)
    found = work.rows(grid, 0, grid.points)
    failed = [row for row in found if row[-1]]
    assert len(failed) == 8 and all(row[-1] == "MemoryError: too large" for row in failed)
    assert all(row[4] == 1.5 for row in failed) and all(row[5] is not None for row in found if not row[-1])


FACTORY = """
import os, torch
from torch import nn
import unvanish

def build(depth, phi="Sigmoid"):
    if phi == "crash":
        os._exit(3)
    if phi == "wrong":
        return nn.Linear(2, 2)
    print("this must not get into the results")
    layers = [m for _ in range(depth) for m in (nn.Linear(8, 8), getattr(nn, phi)())]
    x = torch.randn(16, 8)
    return unvanish.Problem(nn.Sequential(*layers, nn.Linear(8, 3)), x, torch.arange(16) % 3, nn.CrossEntropyLoss())
"""


def test_a_factory_of_ones_own_is_checked_point_by_point(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    text = (
        "[grid]\ndepth = [2, 12]\nphi = ['Sigmoid', 'crash', 'Nonsense', 'wrong']\n[fixed]\nmodel = 'mine.py:build'\n"
    )
    done = unvanish.sweep(written(tmp_path, text), to=tmp_path / "s.sqlite")
    found = {(row["depth"], row["phi"]): row for row in done.points}
    assert found[2, "Sigmoid"]["verdict"] != "vanished" and found[12, "Sigmoid"]["verdict"] == "vanished"
    assert found[12, "Sigmoid"]["log10_signal_ratio"] < -4
    assert found[12, "Sigmoid"]["predicted_log10_signal_ratio"] is None
    assert "died" in found[2, "crash"]["error"] and "AttributeError" in found[2, "Nonsense"]["error"]
    assert "must return an unvanish.Problem" in found[12, "wrong"]["error"]
    said = str(done)
    assert "6 failed" in said and said.count("(and 1 more of the same)") == 3


HOSTILE = """
import time, torch
from torch import nn
import unvanish

def build(ill):
    if ill == "hangs":
        time.sleep(600)
    if ill == "hangs holding the lock":
        import re
        re.match("(a|a)+$", "a" * 60 + "b")
    if ill == "eats":
        held = []
        while True:
            held.append(b"x" * 2**24)
    if ill == "raises":
        raise ArithmeticError("no such network")
    x = torch.randn(16, 8)
    return unvanish.Problem(nn.Linear(8, 3), x, torch.arange(16) % 3, nn.CrossEntropyLoss())
"""
BAD_GRID = """
[grid]
ill = ["no", "hangs", "hangs holding the lock", "eats", "raises", "not at all"]
[fixed]
model = "bad.py:build"
[run]
timeout = 20
memory = 1
"""


def assert_bad_points(rows: Any) -> None:
    found = {row["ill"]: row["error"] for row in rows}
    assert found["no"] == found["not at all"] == ""
    hung = {error for ill, error in found.items() if ill.startswith("hangs")}
    assert hung == {"it took more than 20 s, so its process was ended"}
    assert "GiB of memory, 1.0 GiB at most" in found["eats"]
    assert found["raises"] == "ArithmeticError: no such network"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched where /proc tells it")
def test_a_point_that_hangs_or_eats_its_memory_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(HOSTILE)
    assert_bad_points(unvanish.sweep(written(tmp_path, BAD_GRID), to=tmp_path / "s.sqlite").points)


def test_the_limits_of_a_point_are_checked(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(HOSTILE)
    for line, said in (("timeout = 0", "seconds that a network"), ("memory = 'all'", "GiB that the process")):
        text = BAD_GRID.replace("memory = 1", "").replace("timeout = 20", line)
        with pytest.raises(UnvanishError, match=f"line 7.*{said}" if "timeout" in line else said):
            read_grid(written(tmp_path, text))
    with pytest.raises(UnvanishError, match="for networks of your own"):
        read_grid({**SMALL, "run": {"timeout": 5}})


def test_a_factory_that_does_not_take_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    text = "[grid]\n{} = [2, 12]\n[fixed]\nmodel = 'mine.py:build'\n"
    with pytest.raises(UnvanishError, match="did you mean 'depth'"):
        unvanish.sweep(written(tmp_path, text.format("depht")), to=tmp_path / "s.sqlite")
    with pytest.raises(UnvanishError, match="needs 'depth'"):
        unvanish.sweep(written(tmp_path, text.format("phi")), to=tmp_path / "s.sqlite")
    trained = text.format("depth") + "[run]\ntrain = true\n"
    with pytest.raises(UnvanishError, match=r"line 6: .*are checked, not trained"):
        unvanish.sweep(written(tmp_path, trained), to=tmp_path / "s.sqlite")


def test_workers_give_the_same_rows_as_this_process() -> None:
    grid = read_grid(SMALL)
    stretches = [(0, 5), (5, 9), (9, 12)]
    found = dict(sweeping.spread(grid, iter(stretches), 2))
    assert {start: found[start] for start, _ in stretches} == {a: work.rows(grid, a, b) for a, b in stretches}


def test_progress_says_how_much_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "stretch", lambda grid: 4)
    told: list[tuple[float, str]] = []
    unvanish.sweep(SMALL, to=tmp_path / "s.sqlite", progress=lambda share, what: told.append((share, what)))
    assert [share for share, _ in told] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert told[0][1].startswith("4 of 12 points, ") and told[0][1].endswith(" left")
    assert [sweeping.duration(each) for each in (8, 200, 9000)] == ["8 s", "3 min", "2.5 h"]


def test_the_summary_has_a_table_and_a_map(tmp_path: Path) -> None:
    done = unvanish.sweep(SMALL, to=tmp_path / "s.sqlite")
    said = str(done)
    assert "12 points × 2 seeds" in said and "depth up, weight_variance across" in said
    assert said.count("sigmoid") == 7 and "predicted" in said and "accuracy" not in said
    assert [each.name for each in tmp_path.iterdir()] == ["s.sqlite"], "a finished sweep is one file, read or not"


def test_the_limit_of_training_is_six_depth_scales() -> None:
    grid = read_grid({
        "grid": {"depth": [5, 50], "weight_variance": [1.0, 2.0]}, "fixed": {"activation": "tanh"},
    })  # fmt: skip
    axes = plane(grid)
    assert axes is not None and [axis.name for axis in axes] == ["weight_variance", "depth"]
    curve = dict(limit(grid, *axes))
    assert curve[2.0] == pytest.approx(6 / abs(math.log(chi_of_tanh(2.0))), rel=1e-6)
    assert limit(read_grid({**SMALL, "grid": {**SMALL["grid"], "init": ["gaussian"]}}), *axes) == []


def chi_of_tanh(weight: float) -> float:
    from unvanish.theory import activation
    from unvanish.theory.meanfield import fixed_point

    return fixed_point(activation("tanh"), weight, 0.0).chi1


def test_the_command_writes_a_file_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[grid]\ndepth = [2, 4]\nweight_variance = [0.5, 1.0, 4.0]\n[fixed]\nwidth = 8\n"
    path = written(tmp_path, text)
    assert main(["sweep", str(path), "-o", str(tmp_path / "m.svg")]) == 0
    shown = capsys.readouterr()
    assert "6 points" in shown.out and "all 6 networks are in" in shown.err
    assert (tmp_path / "m.svg").read_text().startswith("<svg") and (tmp_path / "m.sqlite").exists()
    assert main(["sweep", str(path), "-o", str(tmp_path / "m.html")]) == 2
    assert "names no known format" in capsys.readouterr().err
    assert main(["sweep", str(path), "--on", "there", "-o", str(tmp_path / "n.csv")]) == 2
    assert "it runs on 'local'" in capsys.readouterr().err


def test_a_finished_sweep_is_written_in_other_formats_without_being_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unvanish.sweep(SMALL, to=tmp_path / "s.sqlite")
    monkeypatch.setattr(sweeping, "rows", None)
    again = unvanish.sweep(SMALL, to=tmp_path / "s.csv")
    assert list(again.points) == list(first.points)
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 1 + len(first.points)
    with pytest.raises(UnvanishError, match="other values of depth"):
        unvanish.sweep({**SMALL, "grid": {**SMALL["grid"], "depth": [9]}}, to=tmp_path / "s.csv")


WIDE = """[random]
points = 6
depth = [2, 9]
weight_variance = [0.5, 3.0]
bias_variance = {low = 1e-3, high = 1.0, log = true}
activation = ["tanh", "relu"]
width = [4, 8]
skip = [0.0, 1.0]
norm = ["none", "layer"]
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_text_fits_the_terminal_and_tells_every_point(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = written(tmp_path, WIDE)
    assert main(["sweep", str(path), "-o", str(tmp_path / "s.sqlite")]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    for point in unvanish.sweep(path, to=tmp_path / "s.sqlite").points:
        assert f"{point['weight_variance']:.4g}" in shown and f"{point['skip']:.4g}" in shown


def test_a_map_that_cannot_be_drawn_is_refused_before_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "[grid]\ndepth = [2, 3]\n[fixed]\nwidth = 4\n")
    assert main(["sweep", str(path), "-o", str(tmp_path / "s.svg")]) == 2
    assert "a map needs two settings" in capsys.readouterr().err
    assert not (tmp_path / "s.sqlite").exists()
    path = written(tmp_path, "[grid]\ndepth = [2, 3]\nwidth = [4, 8]\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["sweep", str(path), "-o", str(tmp_path / "s.svg")]) == 2
    assert "pip install 'unvanish[pictures]'" in capsys.readouterr().err
    assert not (tmp_path / "s.sqlite").exists()


def test_an_interrupted_sweep_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    path = written(tmp_path, TOML)
    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "rows", interrupted)
        assert main(["sweep", str(path), "-o", str(tmp_path / "s.csv")]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()
    assert main(["sweep", str(path), "-o", str(tmp_path / "s.csv")]) == 0 and (tmp_path / "s.csv").exists()


def test_a_map_of_shares_has_no_lines_across_its_cells() -> None:
    from unvanish.charts.map import tables

    places: list[Any] = [[1, 2], [1, 2], [[0.1, 0.9], [0.5, 1.0]]]
    assert tables(*places, across="a", up="b", share=True)["hatching"] == []
    assert tables(*places, across="a", up="b")["hatching"]


def test_every_example_grid_can_be_read() -> None:
    found = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
    assert found and all(isinstance(read_grid(each), Grid) for each in found)


def test_importing_the_package_loads_no_sweep() -> None:
    program = "import unvanish, sys; print('unvanish.population' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
