"""The file of a run: read while it is written, whole after a kill, small however long; what is none is refused."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from unvanish import UnvanishError, load_run
from unvanish.records import Finding
from unvanish.watching import run_file
from unvanish.watching.blobs import blob, extremes, numbers
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import FIELDS, Column, Sample

SETTING = {
    "model": "M",
    "parameters": 3,
    "batch_size": 1,
    "dtype": "float32",
    "device": "cpu",
    "mode": "train",
    "effort": "live",
    "seed": 0,
}


def written(path: Path, steps: int, layers: int = 3, every: int = 1, peak: int = -1) -> RunFile:
    file = RunFile(path, {"every": every, "setting": SETTING})
    columns = [Column(f"layer{at}", "Linear", 10) for at in range(layers)]
    file.layers(columns)
    for step in range(0, steps * every, every):
        value = 5.0 if step == peak else -1.0 - 0.5 * math.sin(step)
        row = (value, -2.0, 0.5, 1e-3, 0.1, 0.0, math.nan)
        file.sample(Sample(step, dict.fromkeys(range(layers), row), {"loss": 1.0 / (1 + step), "learning_rate": 0.1}))
    return file


def test_what_was_written_is_read_while_the_writer_goes_on(tmp_path: Path) -> None:
    file = written(tmp_path / "a.unvanish", 5)
    file.flush()
    run = load_run(tmp_path / "a.unvanish")
    assert run.steps == (0, 1, 2, 3, 4)
    assert run.layers == ("layer0", "layer1", "layer2")
    assert run.metrics("loss") == tuple(1.0 / (1 + step) for step in range(5))
    signals = run.metrics("log10_signal")
    assert isinstance(signals, dict)
    assert signals["layer1"] == pytest.approx([-1.0 - 0.5 * math.sin(step) for step in range(5)], abs=1e-6)
    assert all(math.isnan(each) for each in run.metrics("underflow_fraction")["layer0"])  # type: ignore[index]
    file.event(3, Finding(code="UV101", verdict="vanished", level="error", layers=("layer0",), message="m"))
    file.over(5, "UV101", ["layer0"])
    file.close()
    found = load_run(tmp_path / "a.unvanish")
    assert found.episodes == ((3, 5, found.findings[0]),)


def test_a_run_that_has_ended_is_one_file(tmp_path: Path) -> None:
    written(tmp_path / "a.unvanish", 5).close()
    assert load_run(tmp_path / "a.unvanish").steps
    assert [each.name for each in tmp_path.iterdir()] == ["a.unvanish"]


def test_a_name_that_is_no_metric_lists_those_that_are(tmp_path: Path) -> None:
    written(tmp_path / "a.unvanish", 2).close()
    with pytest.raises(UnvanishError, match="no metric 'signal'; it has log10_signal"):
        load_run(tmp_path / "a.unvanish").metrics("signal")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.unvanish", 2)
    with pytest.raises(UnvanishError, match="already"):
        RunFile(tmp_path / "a.unvanish", {})


def test_what_is_left_of_a_run_whose_file_was_deleted_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """The first goes on writing into its deleted file, as a training does; its log is not taken for the second's."""
    path = tmp_path / "a.unvanish"
    first = written(path, 20)
    first.flush()
    path.unlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.unvanish-shm", "a.unvanish-wal"]
    second = written(path, 5, layers=2)
    second.flush()
    first.fact(of="the first")
    first.flush()
    run = load_run(path)
    assert run.steps == (0, 1, 2, 3, 4) and len(run.layers) == 2
    first.close()
    second.fact(of="the second")
    second.flush()
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("SELECT value FROM facts WHERE key = 'of'").fetchone() == ('"the second"',)
    second.close()
    assert not second.broken and load_run(path).steps == (0, 1, 2, 3, 4)
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("content", [b"", b"nothing of ours", b"SQLite format 3\x00" + bytes(100)])
def test_a_foreign_or_damaged_file_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.unvanish").write_bytes(content)
    with pytest.raises(UnvanishError, match="no run file"):
        load_run(tmp_path / "x.unvanish")


def test_another_schema_and_another_database_are_refused(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "b.unvanish")
    base.execute("CREATE TABLE facts (key TEXT, value TEXT)")
    base.execute("INSERT INTO facts VALUES ('schema', '\"unvanish.run/9\"')")
    base.commit()
    base.close()
    with pytest.raises(UnvanishError, match=r"unvanish\.run/9.*unvanish\.run/1"):
        load_run(tmp_path / "b.unvanish")
    with pytest.raises(UnvanishError, match="there is no run file"):
        load_run(tmp_path / "none.unvanish")


def test_a_cut_off_file_is_a_clear_error(tmp_path: Path) -> None:
    written(tmp_path / "a.unvanish", 3_000).close()
    whole = (tmp_path / "a.unvanish").read_bytes()
    for share in (0.05, 0.4, 0.9):
        (tmp_path / "cut.unvanish").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UnvanishError):
            run = load_run(tmp_path / "cut.unvanish")
            run.metrics("log10_signal")


def test_thinning_keeps_every_peak_and_bounds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "KEPT", 64)
    monkeypatch.setattr(run_file, "FLUSH", 0.0)
    file = written(tmp_path / "a.unvanish", 20_000, peak=777)
    file.close()
    assert file.broken == ""
    run = load_run(tmp_path / "a.unvanish")
    assert len(run.steps) < 64 * 2 * 4
    assert run.steps[0] == 0 and run.steps[-1] == 19_999
    low, high = run.by_layer("log10_signal", lowest=True), run.by_layer("log10_signal")
    assert max(high["layer2"]) == 5.0  # the one peak of 20,000 steps
    assert min(low["layer2"]) == pytest.approx(-1.5, abs=1e-4)
    assert (tmp_path / "a.unvanish").stat().st_size < 400_000


@pytest.mark.parametrize("seed", range(3))
def test_of_sixteen_rows_the_extremes_stay(seed: int) -> None:
    """Rows of different lengths, with numbers that were not measured and infinite ones, against one by one."""
    chance = random.Random(seed)
    usual = [math.nan, math.inf, -math.inf, *(chance.gauss(0.0, 1.0) for _ in range(5))]
    rows = [[chance.choice(usual) for _ in range(chance.choice([20, 24, 30]))] for _ in range(16)]
    for row in rows:
        row[3], row[4], row[5] = math.nan, math.inf, -math.inf
    packed = [(blob(row), None) for row in rows]
    low, high = (list(numbers(each)) for each in extremes(packed))
    assert len(low) == len(high) == max(len(row) for row in rows)
    for at in range(len(low)):
        known = [list(numbers(each)) for each, _ in packed]
        there = [row[at] for row in known if at < len(row) and not math.isnan(row[at])]
        if there:
            assert (low[at], high[at]) == (min(there), max(there))
        else:
            assert math.isnan(low[at]) and math.isnan(high[at])
    assert math.isnan(low[3]) and low[4] == math.inf and high[5] == -math.inf


def test_a_layer_that_came_later_has_no_numbers_before(tmp_path: Path) -> None:
    file = written(tmp_path / "a.unvanish", 2, layers=1)
    file.layers([Column("layer0", "Linear", 10), Column("late", "Linear", 10)])
    file.sample(Sample(2, dict.fromkeys(range(2), (1.0,) * len(FIELDS))))
    file.close()
    found = load_run(tmp_path / "a.unvanish").by_layer("log10_signal")
    assert len(found["layer0"]) == 3
    assert [math.isnan(each) for each in found["late"]] == [True, True, False]


def test_a_file_of_fewer_series_is_read(tmp_path: Path) -> None:
    """The last of the series came later than the others."""
    file = written(tmp_path / "a.unvanish", 2)
    file.flush()
    file.base.execute("UPDATE samples SET series = substr(series, 1, 40)")
    file.close()
    run = load_run(tmp_path / "a.unvanish")
    assert run.whole("loss") == (1.0, 0.5)
    assert all(math.isnan(each) for each in run.whole("gradient_noise_scale"))
    assert run.report().layers


def test_a_step_takes_at_most_64_bytes_a_layer(tmp_path: Path) -> None:
    layers, steps = 200, 1_000
    written(tmp_path / "a.unvanish", steps, layers).close()
    assert (tmp_path / "a.unvanish").stat().st_size / (layers * steps) <= 64


def test_a_full_disk_ends_the_writing_and_nothing_else(tmp_path: Path) -> None:
    file = written(tmp_path / "a.unvanish", 100)
    file.flush()
    pages = file.base.execute("PRAGMA page_count").fetchone()[0]
    file.base.execute(f"PRAGMA max_page_count = {pages}")
    for step in range(100, 5_000):
        file.sample(Sample(step, {0: (0.0,) * len(FIELDS)}))
    file.flush()
    assert "full" in file.broken
    file.close()
    assert load_run(tmp_path / "a.unvanish").steps == tuple(range(100))


WRITER = """
import sys, time
from pathlib import Path
from unvanish.watching import run_file
from unvanish.watching.sample import Column, Sample
run_file.FLUSH = 0.002
file = run_file.RunFile(Path(sys.argv[1]), {})
file.layers([Column("layer", "Linear", 1)])
print("go", flush=True)
for step in range(10**9):
    file.sample(Sample(step, {0: (float(step),) * 7}, {"loss": float(step)}))
    if step % 7 == 0:
        time.sleep(0.0005)
"""


@pytest.mark.slow
def test_a_kill_at_any_of_200_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    chance = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    sampled = 0
    for turn in range(200):
        path = tmp_path / f"{turn}.unvanish"
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        run = load_run(path)
        assert run.steps == tuple(range(len(run.steps)))  # no hole: only the end is missing
        assert run.whole("loss") == tuple(float(step) for step in run.steps)
        sampled += len(run.steps)
    assert sampled > 10_000  # the kills came while it wrote
