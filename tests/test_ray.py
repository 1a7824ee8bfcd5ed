"""Sweeps on a local Ray cluster of two workers: the same results, and nothing is lost with a worker or the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_fix_workers import FILE, assert_same, deep
from test_sweep import BAD_GRID, HOSTILE, SMALL, assert_bad_points, written
from test_sweep_killed import NUMBERS, rows_in

import unvanish
from unvanish.cli import main
from unvanish.population import sweeping

ray: Any = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster with two workers; what is started here and finds its address uses it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=2**27, logging_level="ERROR")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def workers() -> list[int]:
    """The processes in which Ray runs a task now."""
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if each.read_bytes().startswith(b"ray::_task"):
                found.append(int(each.parent.name))
        except OSError:
            continue
    return found


def assert_same_points(some: Any, others: Any) -> None:
    """Rows that differ in nothing but the rounding of float32."""
    for one, other in zip(some, others, strict=True):
        assert one["log10_signal_ratio"] == pytest.approx(other["log10_signal_ratio"], abs=1e-3)
        assert {**one, **NUMBERS} == {**other, **NUMBERS}


def test_a_sweep_on_ray_gives_what_this_machine_gives(address: str, tmp_path: Path) -> None:
    told: list[float] = []
    there = unvanish.sweep(
        SMALL, on="ray", to=tmp_path / "ray.sqlite", progress=lambda share, what: told.append(share)
    ).points
    assert_same_points(there, unvanish.sweep(SMALL, to=tmp_path / "here.sqlite").points)
    assert told[-1] == 1.0 and ray.is_initialized()  # the caller's connection stays open


LOGGED = """
import os, time, torch
from torch import nn
import unvanish

def build(number, seed):
    with open(os.environ["UNVANISH_TEST_LOG"], "a") as log:
        log.write(f"{os.getppid()} {number} {seed}\\n")
    time.sleep(0.05)
    x = torch.randn(16, 8)
    return unvanish.Problem(nn.Linear(8, 3), x, torch.arange(16) % 3, nn.CrossEntropyLoss())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for workers in /proc")
def test_a_killed_worker_loses_nothing_and_only_its_task_is_repeated(address: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "logged.py").write_text(LOGGED.replace('os.environ["UNVANISH_TEST_LOG"]', repr(str(log))))
    grid = f"[grid]\nnumber = {list(range(60))}\n[fixed]\nmodel = 'logged.py:build'\n[run]\nseeds = 2\n"
    killed: list[int] = []

    def kill(share: float, what: str) -> None:
        if share > 0.1 and not killed and (now := workers()):
            killed.append(now[0])
            os.kill(now[0], signal.SIGKILL)

    done = unvanish.sweep(written(tmp_path, grid), on="ray", to=tmp_path / "s.sqlite", progress=kill)
    assert len(killed) == 1
    assert [(row["point"], row["seed"]) for row in done.points] == [(a, b) for a in range(60) for b in range(2)]
    assert all(row["error"] == "" for row in done.points)
    first: dict[tuple[str, str], int] = {}
    again: set[int] = set()
    for line in log.read_text().splitlines():
        pid, number, seed = line.split()
        if (number, seed) in first:
            again.add(first[number, seed])
        first.setdefault((number, seed), int(pid))
    assert len(first) == 120
    assert again == set(killed)  # what was built twice was built by the killed one first


PROGRAM = """
import sys
from unvanish.cli import main
from unvanish.population import sweeping
sweeping.stretch = lambda grid: 5
import unvanish
unvanish.sweep({grid!r}, on="ray", to=sys.argv[1])
"""
GRID = {
    "grid": {"depth": [40, 80, 120], "weight_variance": [round(0.1 * at, 1) for at in range(1, 21)]},
    "fixed": {"width": 64, "activation": "tanh"},
    "run": {"seeds": 2},
}


def test_an_interrupted_driver_goes_on_where_it_was(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    run = [sys.executable, "-c", PROGRAM.format(grid=GRID), str(path)]
    with subprocess.Popen(run, env={**os.environ, "RAY_ADDRESS": address}) as process:
        while process.poll() is None and not rows_in(path):
            time.sleep(0.02)
        process.kill()
    seen = rows_in(path)
    assert 0 < seen < 120 and seen % 10 == 0  # whole stretches only
    shares: list[float] = []
    monkeypatch.setattr(sweeping, "stretch", lambda grid: 5)
    resumed = unvanish.sweep(GRID, on="ray", to=path, progress=lambda share, what: shares.append(share)).points
    assert len(shares) == (120 - seen) // 10
    assert_same_points(resumed, unvanish.sweep(GRID, to=tmp_path / "whole.sqlite").points)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched where /proc tells it")
def test_a_point_that_raises_hangs_or_eats_is_recorded_on_ray_too(address: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(HOSTILE)
    fewer = BAD_GRID.replace('"hangs holding the lock", ', "")
    done = unvanish.sweep(written(tmp_path, fewer), on="ray", to=tmp_path / "s.sqlite")
    assert_bad_points(done.points)


def test_the_trials_of_a_search_on_ray_give_the_answer_of_one_process(address: str) -> None:
    assert_same(unvanish.fix(deep(), budget=200, seeds=1, on="ray"), unvanish.fix(deep(), budget=200, seeds=1))


def test_a_file_with_functions_of_its_own_is_searched_on_ray(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.py").write_text("import torch\n\ndef rate(p):\n    return torch.optim.Adam(p, lr=1e-3)\n")
    (tmp_path / "mine.py").write_text(FILE)
    asked = ["fix", f"{tmp_path}/mine.py", "--seeds", "1", "--budget", "200", "--format", "json"]
    assert main(asked) in (0, 1)
    alone = capsys.readouterr().out
    assert main([*asked, "--on", "ray"]) in (0, 1)
    assert capsys.readouterr().out == alone
