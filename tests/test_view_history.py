"""A run's history as the viewer keeps it, against the rows of its file; and what its page tells of odd files."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import begun, made, stepped, vanished
from starlette.testclient import TestClient

from unvanish.server.app import application
from unvanish.server.view import site
from unvanish.server.view.export import safe
from unvanish.server.view.history import KEPT, PLACES, History
from unvanish.server.view.over_steps import lines, relative
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import SERIES

LOSS = SERIES.index("loss")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    found = TestClient(application(site(str(tmp_path)), "t", 8126), base_url="http://127.0.0.1:8126")
    with found as opened:
        assert opened.get("/?token=t", follow_redirects=True).status_code == 200
        yield opened


def state(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.get("/api/view/state", params={"run": "a.unvanish", "tables": 1, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()


def read(path: Path, history: History | None = None) -> History:
    history = History() if history is None else history
    with closing((reader := Reader(path)).base):
        history.update(reader)
    return history


@pytest.mark.parametrize("seed", range(3))
def test_of_a_stretch_the_lowest_the_highest_and_the_last_value_stay(tmp_path: Path, seed: int) -> None:
    """Followed while it grows, or read at its end: what is kept of each stretch is what its steps make of it."""
    chance, losses, signals = random.Random(seed), dict[int, float](), dict[int, float]()

    def wild(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        losses[step] = series["loss"] = chance.lognormvariate(0.0, 1.0)
        signals[step] = rows[1][0] = chance.gauss(0.0, 1.0)

    path, steps = tmp_path / "a.unvanish", 2 * PLACES + 700
    file, followed = begun(path), History()
    for step in range(steps):
        stepped(file, step, chance, wild)
        if step % 50 == 7:
            file.flush()
            read(path, followed)
    file.close(steps=steps)
    for history in (read(path, followed), read(path)):
        assert history.width == 2 and list(history.first[history.places]) == list(range(0, steps, 2))
        for place in history.places:
            mine = [step for step in (2 * place, 2 * place + 1) if step < steps]
            assert history.series[place, LOSS] == losses[mine[-1]]
            assert history.series_low[place, LOSS] == min(losses[step] for step in mine)
            assert history.series_high[place, LOSS] == max(losses[step] for step in mine)
            ends = history.low[place, 1, KEPT.index("signal")], history.high[place, 1, KEPT.index("signal")]
            assert ends == pytest.approx((min(signals[s] for s in mine), max(signals[s] for s in mine)))


def test_a_row_that_was_thinned_together_with_steps_that_were_not_known_yet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.unvanish"
    file, chance = made(path, 40, end=False), random.Random(1)
    followed = read(path)
    for step in range(40, 44):
        stepped(file, step, chance)
    file.flush()
    file.base.execute("DELETE FROM samples WHERE step > 36")  # as a thinning leaves the steps 36 to 43
    file.base.execute("UPDATE samples SET last = 43 WHERE step = 36")
    file.close(steps=44)
    late = read(path)
    assert read(path, followed).last == late.last == 43
    np.testing.assert_array_equal(followed.series, late.series)
    np.testing.assert_array_equal(followed.first, late.first)


def test_each_layer_is_told_by_the_median_of_its_own_group(tmp_path: Path) -> None:
    """Two networks in a run, as of a GAN: the gradients of one say nothing of the other's."""

    def apart(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        for at, log10 in enumerate((-1.0, -2.0, -3.0, 4.0, 5.0)):
            rows[at][1] = log10

    file = begun(tmp_path / "a.unvanish", ("g1", "g2", "g3", "d1", "d2"))
    stepped(file, 0, random.Random(0), apart)
    file.fact(order=[0, 1, 2, 3, 4], groups=[[0, 1, 2], [3, 4]])
    file.close(steps=1)
    low, high = relative(read(tmp_path / "a.unvanish"), "gradient")
    assert low[:, 0].tolist() == high[:, 0].tolist() == [1.0, 0.0, -1.0, -0.5, 0.5]


def test_layers_that_the_order_of_a_file_does_not_name_come_last_and_others_are_passed_over(tmp_path: Path) -> None:
    file = begun(tmp_path / "a.unvanish")
    stepped(file, 0, random.Random(0))
    file.fact(order=[2, 0, 9, -1], groups=[[2, 0, 9]])
    file.close(steps=1)
    layout = read(tmp_path / "a.unvanish").layout
    assert (layout.order, layout.groups, layout.ends) == ((2, 0, 1), ((2, 0),), (0, 1, 0))


def test_of_a_piece_the_lowest_and_the_highest_stand_at_its_begin_and_its_middle(tmp_path: Path) -> None:
    made(tmp_path / "a.unvanish", 450)  # five steps a piece
    history = read(tmp_path / "a.unvanish")
    steps, (values,) = lines(history, history.series_low[:, [LOSS]], history.series_high[:, [LOSS]])
    assert steps == [step for begin in range(0, 450, 5) for step in (begin, begin + 2)]
    losses = [10.0 ** (-step / 100.0) for step in range(450)]  # falling: the lowest of a piece is its last
    assert values == pytest.approx([losses[at] for begin in range(0, 450, 5) for at in (begin + 4, begin)])


def test_a_finding_that_is_over_is_news(client: TestClient, tmp_path: Path) -> None:
    file = begun(tmp_path / "a.unvanish")
    for step in range(5):
        stepped(file, step, random.Random(step))
    file.event(2, vanished())
    before = state(client)
    file.over(4, "UV101", ["in"])
    file.flush()
    after = state(client, seen=before["version"])
    assert [each["until"] for each in before["findings"]] == [None] and after["findings"][0]["until"] == 4
    file.close(steps=5)


def test_a_step_that_no_run_can_reach_is_answered_as_the_last(client: TestClient, tmp_path: Path) -> None:
    made(tmp_path / "a.unvanish", 5)
    for step in ("9" * 18, "9" * 19, "9" * 400):
        assert state(client, step=step)["step"] == 4


def test_an_address_that_names_two_runs_is_refused(client: TestClient, tmp_path: Path) -> None:
    made(tmp_path / "a.unvanish", 5)
    error = client.get("/api/view/state?run=a.unvanish&run=a.unvanish").json()["error"]
    assert error.startswith("the address names run 2 times; it takes one")


def test_layers_of_which_nothing_was_measured_are_named_below_the_table(client: TestClient, tmp_path: Path) -> None:
    def unmeasured(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        del rows[1]

    made(tmp_path / "a.unvanish", 3, unmeasured)
    found = state(client)["layers"]
    assert [row[0] for row in found["rows"]] == ["in", "out"] and found["unseen"] == ["mid"]


@pytest.mark.parametrize("first", list("=+-@\t\r"))
def test_no_name_is_a_formula_in_a_spreadsheet(first: str) -> None:
    """The characters with which a cell is taken for one. Source: OWASP, CSV injection."""
    assert safe(f"{first}1+1") == f"'{first}1+1"
    assert safe(f"layer{first}1") == f"layer{first}1"


def test_a_file_whose_times_are_no_times_is_shown(client: TestClient, tmp_path: Path) -> None:
    made(tmp_path / "a.unvanish", 3)
    with closing(sqlite3.connect(tmp_path / "a.unvanish")) as base:
        base.execute("UPDATE facts SET value = '1e300' WHERE key = 'started'")
        base.commit()
    found = state(client)["run"]
    assert found["began"] == "" and not math.isnan(found["started"])
