"""A sweep that is killed at any moment goes on where it was: no point is lost, none is there twice, none changed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import unvanish
from unvanish.population import sweeping

PROGRAM = """
import sys
from unvanish.population import sweeping
sweeping.stretch = lambda grid: 5
sweeping.ALONE = {alone}
import unvanish
unvanish.sweep({grid!r}, to=sys.argv[1])
"""
GRID = {
    "grid": {"depth": [4, 8, 12], "weight_variance": [round(0.1 * at, 1) for at in range(1, 41)]},
    "fixed": {"width": 24, "activation": "tanh"},
    "run": {"seeds": 2},
}


def rows_in(path: Path) -> int:
    if not path.exists():
        return 0
    base = sqlite3.connect(path, timeout=30)
    try:
        return base.execute("SELECT COUNT(*) FROM results").fetchone()[0]
    except sqlite3.OperationalError:  # killed before the tables were made
        return 0
    finally:
        base.close()


def children(pid: int) -> list[int]:
    pids: list[int] = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = each.read_text().partition(" (")
        except OSError:
            continue
        if int(rest.rpartition(")")[2].split()[1]) == pid:
            pids.append(int(number))
    return pids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for child processes in /proc")
@pytest.mark.parametrize("alone", [60.0, 0.0], ids=["in one process", "with workers"])
def test_a_killed_sweep_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, alone: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    path = tmp_path / "s.sqlite"
    program = PROGRAM.format(grid=GRID, alone=alone)
    seen, kills = 0, 0
    for _ in range(40):
        with subprocess.Popen([sys.executable, "-c", program, str(path)]) as process:
            wanted = seen + chance.randrange(1, 30)
            while process.poll() is None and rows_in(path) < wanted:
                time.sleep(chance.random() * 0.02)
            workers = children(process.pid)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        gone_by(workers)
        now = rows_in(path)
        assert now >= seen and now % 10 == 0  # whole stretches only
        seen = now
        if process.returncode == 0:
            break
    assert kills >= 2 and seen == 240
    monkeypatch.setattr(sweeping, "rows", lambda *given: pytest.fail("computed again"))
    resumed = list(unvanish.sweep(GRID, to=path).points)
    monkeypatch.undo()
    assert [(row["point"], row["seed"]) for row in resumed] == [(a, b) for a in range(120) for b in range(2)]
    whole = unvanish.sweep(GRID, to=tmp_path / "whole.sqlite").points
    for one, other in zip(resumed, whole, strict=True):
        assert one["log10_signal_ratio"] == pytest.approx(other["log10_signal_ratio"], abs=1e-3)
        assert {**one, **NUMBERS} == {**other, **NUMBERS}


NUMBERS = dict.fromkeys(
    ("log10_signal_ratio", "log10_gain", "log10_transmission", "log10_lowest_transmission", "log10_rise"), 0.0
)
"""What rounds a little differently in other company."""


def gone_by(workers: list[int], seconds: float = 20.0) -> None:
    """Workers of a killed parent end by themselves."""
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)
