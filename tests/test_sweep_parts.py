"""The parts of a sweep and of its workers, each against numbers worked by hand."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unvanish.population import store, summary
from unvanish.population.grid import Axis, Grid, read_grid
from unvanish.population.row import RESULTS, Row
from unvanish.population.store import Store
from unvanish.population.tuning import Tuned
from unvanish.records import UnvanishError
from unvanish.workers import memory, process
from unvanish.workers.process import Limits

GIB = 2**30


def row(point: int, seed: int, depth: int, **results: Any) -> Row:
    known = {"verdict": "healthy", "error": "", **results}
    return (point, seed, depth, *(known.get(name) for name in RESULTS))


def swept(path: Path, depths: list[int], seeds: int, size: int, **run: Any) -> tuple[Store, Grid]:
    grid = read_grid({"grid": {"depth": depths}, "fixed": {"width": 4}, "run": {"seeds": seeds, **run}})
    return Store(path, grid, size), grid


def test_points_that_are_done_are_counted_where_the_last_stretch_is_a_short_one(tmp_path: Path) -> None:
    """Ten points in stretches of four: 4, 4 and 2."""
    file, _ = swept(tmp_path / "a.sqlite", list(range(2, 12)), 1, 4)
    seen = [(file.done(), list(file.missing()))]
    for start in (8, 0, 4):
        file.add(start, [row(at, 0, at + 2) for at in range(start, min(start + 4, 10))])
        seen.append((file.done(), list(file.missing())))
    file.close()
    assert seen == [(0, [(0, 4), (4, 8), (8, 10)]), (2, [(0, 4), (4, 8)]), (6, [(4, 8)]), (10, [])]


def test_the_spread_of_the_table_is_in_decades_over_the_seeds(tmp_path: Path) -> None:
    """Ratios of 10^-1 and 10^-3: a mean of 10^-2, and one decade to either side of it. A dead seed has no size."""
    file, grid = swept(tmp_path / "a.sqlite", [2], 3, 1)
    ratios = (-1.0, -3.0, -math.inf)
    file.add(0, [row(0, seed, 2, log10_signal_ratio=ratio) for seed, ratio in enumerate(ratios)])
    file.close()
    (line,) = (each.split() for each in summary.text(tmp_path / "a.sqlite", grid).splitlines() if "healthy" in each
               and each.split()[0] == "2")  # fmt: skip
    assert line == ["2", "×0.010", "1.000", "healthy"]


def test_the_map_of_accuracies_has_a_digit_a_network(tmp_path: Path) -> None:
    grid = read_grid({"grid": {"depth": [2, 3], "weight_variance": [1.0, 2.0]}, "fixed": {"width": 4},
                      "run": {"train": True, "data": "digits"}})  # fmt: skip
    file = Store(tmp_path / "a.sqlite", grid, 4)
    shares = {(2, 1.0): 1.0, (2, 2.0): 0.899, (3, 1.0): 0.0999, (3, 2.0): None}
    file.add(0, [(at, 0, depth, weight, *(share if name == "accuracy" else "" if name == "error" else None
             for name in RESULTS)) for at, ((depth, weight), share) in enumerate(shares.items())])  # fmt: skip
    file.close()
    assert [line for line in summary.text(file.path, grid).splitlines() if line[:2] in ("2 ", "3 ")] == ["3 0?", "2 98"]


def test_a_file_that_cannot_be_written_to_its_end_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, grid = swept(tmp_path / "a.sqlite", [2, 3], 1, 2)
    file.add(0, [row(0, 0, 2), row(1, 0, 3)])
    file.close()
    (tmp_path / "a.csv").write_text("of an earlier sweep")
    real = store.read

    def damaged(*given: Any) -> Any:
        yield next(real(*given))
        raise UnvanishError("it is damaged")

    monkeypatch.setattr(store, "read", damaged)
    with pytest.raises(UnvanishError, match="damaged"):
        store.export(tmp_path / "a.csv", tmp_path / "a.sqlite", grid)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.csv", "a.sqlite"]
    assert (tmp_path / "a.csv").read_text() == "of an earlier sweep"


def test_whole_numbers_are_drawn_evenly() -> None:
    """2, 3 and 4 have a third each."""
    axis = Axis("depth", low=2, high=4, whole=True)
    assert [axis.at(share) for share in (0.0, 0.333, 0.334, 0.666, 0.667, 0.999, 1.0)] == [2, 2, 3, 3, 4, 4, 4]
    assert [Axis("a", ("x", "y")).at(share) for share in (0.0, 0.499, 0.5, 1.0)] == ["x", "x", "y", "y"]
    assert Axis("lr", low=0.01, high=1.0, log=True).at(0.5) == pytest.approx(0.1)


def test_of_two_rates_that_do_as_well_the_one_with_the_lower_loss_is_chosen() -> None:
    half, lower = (0.5, 0.7), (0.6, 0.6)
    losses = ((2.0, 2.0), (1.0, 1.0), (math.inf, 0.0))
    tuned = Tuned((0.1, 0.2, 0.3), (half, lower, lower), ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6)), losses)
    assert (tuned.best, tuned.rate, tuned.scores) == (1, 0.2, (0.3, 0.4))


def test_workers_share_what_is_free_in_the_machine_and_in_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_in_machine", lambda: 10.0 * GIB)
    monkeypatch.setattr(memory, "_free_in_group", lambda: 4.0 * GIB)
    assert memory.share(2) == pytest.approx(0.8 * 4 * GIB / 2)
    assert memory.share(0) == memory.share(1) == pytest.approx(0.8 * 4 * GIB)


@pytest.mark.parametrize(
    ("limit", "free"), [("1000", 650.0), ("max", math.inf)], ids=["a limit", "a group without a limit"]
)
def test_files_that_a_container_holds_in_memory_can_be_had_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: float
) -> None:
    """Of 1,000 bytes 600 are taken, 250 of them by files that nobody has touched for long: 650 are to be had."""
    for name, text in (("max", limit), ("current", "600"), ("stat", "anon 350\ninactive_file 250\nactive_file 9\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "Path", lambda folder, name: tmp_path / name if folder == "/sys/fs/cgroup" else tmp_path
                        / "none")  # fmt: skip
    assert memory._free_in_group() == free


@pytest.mark.parametrize(("taken", "ended"), [(3 * GIB, True), (2 * GIB, False)])
def test_a_process_that_takes_more_memory_than_it_may_is_ended(
    monkeypatch: pytest.MonkeyPatch, taken: int, ended: bool
) -> None:
    looked, killed, said = threading.Semaphore(0), threading.Event(), list[str]()

    def resident(pid: int) -> int:
        looked.release()
        return taken

    monkeypatch.setattr(process, "resident", resident)
    running: Any = SimpleNamespace(pid=7, kill=killed.set)
    with process._watched(running, Limits(memory=2 * GIB), said):
        if ended:
            assert killed.wait(10)
        else:
            assert looked.acquire(timeout=10) and looked.acquire(timeout=10)
    expected = ["it took 3.0 GiB of memory, 2.0 GiB at most, so its process was ended"] if ended else []
    assert (killed.is_set(), said) == (ended, expected)
