"""The viewer's server: what it answers of a run, live and late, and that nothing a visitor or a file holds harms it."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
import random
import re
import signal
import string
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import FALL, begun, made, stepped, vanished
from starlette.testclient import TestClient

from unvanish import UnvanishError, diagnose
from unvanish.cli import main
from unvanish.records import Finding
from unvanish.report import Report
from unvanish.server.app import application
from unvanish.server.view import folder as view_folder
from unvanish.server.view import site
from unvanish.server.view.history import KEPT, PLACES, History
from unvanish.server.view.over_steps import SEEN
from unvanish.watching import run_file
from unvanish.watching.run_file import Reader, RunFile
from unvanish.zoo import get

PORT = 8124
BASE = f"http://127.0.0.1:{PORT}"
TOKEN = "the-token"
Ask = Callable[..., Any]


def opened(place: Path) -> TestClient:
    client = TestClient(application(site(str(place)), TOKEN, PORT), base_url=BASE, raise_server_exceptions=False)
    assert client.get(f"/?token={TOKEN}", follow_redirects=True).status_code == 200
    return client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with opened(folder) as found:
        yield found


def state(client: TestClient, run: str, **more: Any) -> dict[str, Any]:
    answer = client.get("/api/view/state", params={"run": run, "tables": 1, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def cells(heat: dict[str, Any]) -> Any:
    flat = np.frombuffer(base64.b64decode(heat["cells"]), np.uint8)
    return flat.reshape(heat["rows"], heat["columns"])


def test_without_the_token_or_under_another_name_nothing_is_answered(folder: Path) -> None:
    stranger = TestClient(application(site(str(folder)), TOKEN, PORT), base_url=BASE)
    for path in (
        "/",
        "/api/view/runs",
        "/api/view/state?run=a",
        "/static/view.js",
        "/lab",
        "/api/view/table.csv?run=a",
    ):
        assert stranger.get(path).status_code == 403
    with opened(folder) as client:
        assert client.get("/api/view/runs", headers={"host": "example.org"}).status_code == 421
        assert client.get("/api/view/runs", headers={"origin": "http://example.org"}).status_code == 403


def test_every_answer_carries_the_strict_policy_and_the_page_no_inline_script(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish")
    for path in ("/", "/lab", "/api/view/runs", "/api/view/state?run=a.unvanish", "/static/view.css", "/no/such/page",
                 "/api/view/page.html?run=a.unvanish"):  # fmt: skip
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
    page = client.get("/").text
    assert not re.findall(r"<script(?![^>]*\bsrc=\"/)", page) and not re.findall(r"\bon\w+=|style=|https?://", page)


def test_a_run_that_is_being_written_is_shown_as_it_is_now(client: TestClient, folder: Path) -> None:
    assert client.get("/api/view/runs").json()["runs"] == []
    file = begun(folder / "a.unvanish")
    file.flush()
    found = state(client, "a.unvanish")
    assert "No step was sampled yet" in found["sentence"] and found["run"]["step"] is None
    chance = random.Random(0)
    for step in range(3):
        stepped(file, step, chance)
        file.flush()
        found = state(client, "a.unvanish", seen=found["version"])
        assert found["step"] == found["run"]["step"] == found["heat"]["end"] == step
        assert found["run"]["state"] == "running" and "running" in found["status"]
        assert state(client, "a.unvanish", seen=found["version"]) == {"same": True}
    file.close(steps=3)
    found = state(client, "a.unvanish", seen=found["version"])
    assert found["run"]["state"] == "ended" and "ended after 3 steps" in found["status"]


def test_the_numbers_of_the_answer_are_those_of_the_file(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 40)
    found = state(client, "a.unvanish", step=20)
    assert found["step"] == 20
    assert {each["name"]: each["value"] for each in found["values"]}["loss"] == "0.631"  # 10^-0.2
    layers = found["layers"]
    assert layers["columns"][:4] == ["layer", "class", "verdict", "error signal"]
    assert [row[0] for row in layers["rows"]] == ["in", "mid", "out"] and layers["rows"][2][3] == "0.10"
    stair = next(each for each in found["pictures"] if each["name"] == "staircase")
    assert [row["log10 signal"] for row in stair["data"]] == pytest.approx([-2.0, -1.5, -1.0])
    assert [each["title"] for each in found["pictures"][2:]] == ["The loss", "The learning rate", "The gradient's norm"]
    assert state(client, "a.unvanish", step=10**12)["step"] == 39


def test_tables_that_nobody_reads_are_not_sent(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 60)
    without = client.get("/api/view/state?run=a.unvanish").json()
    found = state(client, "a.unvanish", seen=without["version"])  # a table was opened: that is another question
    assert not found.get("same") and found["layers"]["rows"] and found["heat"]["table"]["rows"]
    assert all(each["data"] for each in found["pictures"])
    del found["layers"], found["heat"]["table"], found["version"], without["version"]
    for each in found["pictures"]:
        del each["data"]
    assert found == without


def test_the_map_shows_each_layer_over_the_output_of_the_same_step(client: TestClient, folder: Path) -> None:
    def dies(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step >= 50:
            rows[0][0] = -9.0

    made(folder / "a.unvanish", 100, dies)
    heat = state(client, "a.unvanish")["heat"]
    shades = cells(heat)
    assert shades.shape == (3, 100) and heat["steps"] == list(range(100)) and heat["names"] == ["in", "mid", "out"]
    assert (shades[2] == 4).all()  # the output over itself
    assert (shades[0, 50:] == 0).all() and (shades[0, :50] > 0).all()
    assert heat["table"]["rows"][0][0] == "×0.10" and heat["table"]["rows"][0][-1] == "×10⁻⁸·⁰"
    shares = state(client, "a.unvanish", map="dead")["heat"]
    assert (shares["low"], shares["high"]) == ("0%", "100%") and (cells(shares) == 4).all()
    assert "the map shows one of" in client.get("/api/view/state?run=a.unvanish&map=x").json()["error"]


def test_findings_stand_with_their_steps_and_the_step_that_was_run_again(client: TestClient, folder: Path) -> None:
    file = begun(folder / "a.unvanish")
    chance = random.Random(0)
    for step in range(30):
        stepped(file, step, chance)
    report = diagnose(get("stuck-sigmoid-10").build(0), effort="quick")
    file.event(5, vanished())
    file.event(9, vanished("mid"))
    file.report(9, "nonfinite", report.to_json(indent=None))
    file.over(20, "UV101", ["in"])
    file.report(25, "check", report.to_json(indent=None))
    file.close(steps=30)
    found = state(client, "a.unvanish")["findings"]
    assert [(each["code"], each["from"], each["until"], each["report"]) for each in found] == [
        ("UV101", 5, 20, None), ("UV101", 9, None, 1), ("", 25, 25, 2),
    ]  # fmt: skip
    page = client.get("/api/view/report.html?run=a.unvanish&made=1")
    assert page.status_code == 200 and "Gradient report on" in page.text
    assert "no full report 7" in client.get("/api/view/report.html?run=a.unvanish&made=7").json()["error"]
    # what came later is no part of an earlier step's report
    early = Report.from_json(client.get("/api/view/report.json?run=a.unvanish&step=7").text)
    assert [each.layers for each in early.findings if each.code == "UV101"] == [("in",)]


def test_opened_late_it_shows_the_whole_history_and_no_peak_is_lost(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_file, "KEPT", 64)
    monkeypatch.setattr(run_file, "FLUSH", 0.0)

    def peak(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step == 777:
            rows[1][0], series["loss"] = 5.0, 99.0

    made(folder / "a.unvanish", 9_000, peak)
    found = state(client, "a.unvanish")
    heat = found["heat"]
    assert heat["steps"][0] == 0 and heat["end"] == 8_999 and heat["columns"] <= 320
    at = max(place for place, step in enumerate(heat["steps"]) if step <= 777)
    assert set(np.flatnonzero(cells(heat)[1] == 8)) & {at - 1, at, at + 1}
    # the loss of a stretch that was thinned is that of its last step: a peak of it is gone, one of a layer is not
    assert found["step"] == 8_999


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_up_to_date_is_what_is_read_at_once(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history that followed the writing holds, stretch by stretch, what one has that opens the file at its end."""
    monkeypatch.setattr(run_file, "KEPT", 400)
    chance = random.Random(seed)
    file = begun(tmp_path / "a.unvanish", every=3)
    followed = History()

    def wild(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        for row in rows.values():
            row[0] = chance.gauss(0.0, 1.0) if chance.random() < 0.95 else math.nan

    for step in range(0, 3 * 2_600, 3):
        stepped(file, step, chance, wild)
        if chance.random() < 0.02:
            file.flush()
            with closing((reader := Reader(tmp_path / "a.unvanish")).base):
                followed.update(reader)
    file.close()
    late = History()
    with closing((reader := Reader(tmp_path / "a.unvanish")).base):
        followed.update(reader)
        late.update(reader)
    assert followed.width == late.width == 12 and followed.last == late.last
    assert list(followed.places) == list(late.places) and len(late.places) <= 2 * PLACES
    at = KEPT.index("signal")
    # where the file was thinned, a stretch may hold its neighbours' extremes, too, never less
    low = np.nan_to_num(late.low[late.places][:, :, at], nan=99.0)
    assert (low <= np.nan_to_num(followed.low[late.places][:, :, at], nan=99.0)).all()
    recent = late.places[-90:]
    np.testing.assert_array_equal(late.high[recent], followed.high[recent])
    np.testing.assert_array_equal(late.series[recent], followed.series[recent])


def test_a_file_that_goes_away_and_comes_back_is_read_again(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 20)
    before = state(client, "a.unvanish")
    (folder / "a.unvanish").rename(folder / "b.txt")
    assert "there is no run 'a.unvanish'" in client.get("/api/view/state?run=a.unvanish").json()["error"]
    (folder / "b.txt").rename(folder / "a.unvanish")
    assert state(client, "a.unvanish")["version"] == before["version"]
    (folder / "a.unvanish").unlink()
    made(folder / "a.unvanish", 5, names=("other",))  # another run under the same name
    found = state(client, "a.unvanish", seen=before["version"])
    assert found["heat"]["names"] == ["other"] and found["heat"]["columns"] == 5


def test_a_run_that_goes_back_to_a_checkpoint_takes_its_later_steps_with_it(client: TestClient, folder: Path) -> None:
    """What was read of steps that were given up is not shown, though the run has come as far again."""
    made(folder / "a.unvanish", 40)
    before = state(client, "a.unvanish")

    def other(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        series["loss"] = 7.0

    file, chance = RunFile(folder / "a.unvanish", {}, from_step=10), random.Random(1)
    file.columns = 3
    for step in range(10, 40):
        stepped(file, step, chance, other)
    file.close(steps=40)
    found = state(client, "a.unvanish", seen=before["version"])
    (losses,) = (each["data"] for each in found["pictures"] if each["title"] == "The loss")
    assert [each["log10 loss"] for each in losses] == pytest.approx(
        [-step / 100 for step in range(10)] + 30 * [math.log10(7.0)]
    )
    assert found["heat"]["columns"] == 40


def test_reading_holds_nothing_open_that_would_hold_up_the_writer(client: TestClient, folder: Path) -> None:
    file = made(folder / "a.unvanish", 50, end=False)
    state(client, "a.unvanish")
    client.get("/api/view/runs")
    client.get("/api/view/table.csv?run=a.unvanish")
    busy, _, _ = file.base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0  # a reader that held its snapshot would make it wait
    assert (folder / "a.unvanish-wal").stat().st_size == 0
    file.close()
    assert [each.name for each in folder.iterdir()] == ["a.unvanish"]


def test_a_foreign_or_damaged_file_is_said_and_the_others_are_shown(client: TestClient, folder: Path) -> None:
    made(folder / "good.unvanish", 5)
    (folder / "bad.unvanish").write_bytes(b"nothing of ours")
    (folder / "cut.unvanish").write_bytes((folder / "good.unvanish").read_bytes()[:3_000])
    runs = {each["name"]: each for each in client.get("/api/view/runs").json()["runs"]}
    assert runs["good.unvanish"]["state"] == "ended" and runs["bad.unvanish"]["state"] == "unreadable"
    assert "no run file" in runs["bad.unvanish"]["fault"]
    for name in ("bad.unvanish", "cut.unvanish"):
        answer = client.get(f"/api/view/state?run={name}")
        assert answer.status_code == 200 and "no run file of unvanish, or is cut off" in answer.json()["error"]


@pytest.mark.parametrize("name", ["../secret.unvanish", "/etc/passwd", "a.unvanish/../../secret.unvanish", "", "."])
def test_no_other_file_can_be_named(client: TestClient, folder: Path, name: str) -> None:
    made(folder.parent / "secret.unvanish", 5)
    assert list(client.get("/api/view/state", params={"run": name}).json()) == ["error"]
    for path in ("report.json", "page.html", "table.csv"):
        assert client.get(f"/api/view/{path}", params={"run": name}).status_code == 400
    assert list(client.get("/api/view/against", params={"run": name, "other": name}).json()) == ["error"]


HOSTILE = ("<img src=x onerror=alert(1)>", "a\x1b[31m\u202e", "=cmd|' /C calc'!A0")


def test_names_from_models_and_files_are_shown_as_they_are_spelled(client: TestClient, folder: Path) -> None:
    made(folder / "a<u>.unvanish", 20, names=HOSTILE)
    file = begun(folder / "x.unvanish", script="<script>alert(1)</script>")
    stepped(file, 0, random.Random(0))
    file.event(0, vanished(HOSTILE[0]))
    file.close(why="<u>\x1b[0m")
    for run in ("a<u>.unvanish", "x.unvanish"):
        text = client.get("/api/view/state", params={"run": run}).text
        assert "\\u001b" not in text.lower() and "\x1b" not in text and "\u202e" not in text
        page = client.get("/api/view/page.html", params={"run": run}).text
        assert "<img" not in page and "<script" not in page and "\x1b" not in page and "<u>" not in page
        assert "alert(1)" in page
    rows = list(csv.reader(io.StringIO(client.get("/api/view/table.csv", params={"run": "a<u>.unvanish"}).text)))
    assert "'=cmd|' /C calc'!A0" in {row[2] for row in rows}
    assert '"' not in client.get("/api/view/table.csv", params={"run": "a<u>.unvanish"}).headers[
        "content-disposition"
    ].removeprefix('attachment; filename="').removesuffix('"')


def test_the_page_as_one_file_has_every_picture_and_number_and_no_script(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 60)
    made(folder / "b.unvanish", 60, seed=1)
    page = client.get("/api/view/page.html?run=a.unvanish&against=b.unvanish&step=30").text
    assert "<script" not in page and page.count("<svg") == 2 * (6 + 4 + 4) and "src=" not in page
    for text in ("Where did the gradient go?", "Every layer over the steps", "The loss", "Against", "at step 30",
                 "One run over the other", "do not differ beyond their noise", "ended after 60 steps"):  # fmt: skip
        assert text in page


def test_a_loss_that_is_lost_is_not_called_the_one_of_now(client: TestClient, folder: Path) -> None:
    def lost(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        series["loss"] = 0.5 if step < 10 else math.nan

    made(folder / "a.unvanish", 20, lost)
    said = {each["title"]: each["description"] for each in state(client, "a.unvanish")["pictures"]}
    assert "; last 0.5, at step 9; since then not a number" in said["The loss"]
    assert said["The learning rate"].endswith("; now 0.1.")


def test_what_cannot_be_judged_is_neither_a_fault_nor_a_note_beside_health(client: TestClient, folder: Path) -> None:
    def zero(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        for row in rows.values():
            row[0] = row[1] = -math.inf

    made(folder / "a.unvanish", 20, zero)
    found = state(client, "a.unvanish")
    assert found["sentence"].startswith("Undecided: ") and found["tone"] == "quiet"


def test_the_table_has_every_number_of_the_file(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 700)
    rows = list(csv.DictReader(io.StringIO(client.get("/api/view/table.csv?run=a.unvanish").text)))
    assert len(rows) == 700 * 4
    assert [each["step"] for each in rows[::4]] == [str(step) for step in range(700)]
    assert rows[0]["layer"] == "" and float(rows[4]["loss"]) == pytest.approx(10**-0.01)
    assert float(rows[1]["log10_signal"]) == 2 * FALL - 1.0 and rows[1]["underflow_fraction"] == "0"


def test_two_runs_are_compared_as_on_the_command_line(client: TestClient, folder: Path) -> None:
    def jumps(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step >= 60:
            rows[1][1] += 3.0

    made(folder / "a.unvanish", 100)
    made(folder / "b.unvanish", 100, jumps, seed=1)
    wanted = {"run": "a.unvanish", "other": "b.unvanish", "map": "gradient"}
    found = client.get("/api/view/against", params=wanted).json()
    assert found["answer"] == "differ" and found["step"] == 60 and "in mid" in found["sentence"]
    assert [each["title"] for each in found["pictures"]] == ["Both staircases", "Both losses", "Both learning rates"]
    assert [each["run"] for each in found["sides"]] == ["a.unvanish", "b.unvanish"]
    assert all(each["verdict"] for each in found["sides"])
    shades = cells(found["heat"])
    assert shades.shape == (3, 100) and (shades[1, 60:] < shades[1, :60].min()).all()  # a over b: far below ×1
    assert client.get("/api/view/against", params={**wanted, "seen": found["version"]}).json() == {"same": True}
    same = client.get("/api/view/against", params={**wanted, "other": "a.unvanish"}).json()
    assert same["answer"] == "identical" and (cells(same["heat"]) == 4).all()


def test_the_lab_opens_with_the_layers_of_the_run(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 20)
    assert state(client, "a.unvanish")["idealised"] is True
    assert "unvanish lab" in client.get("/lab").text and client.get("/static/lab.js").status_code == 200
    report = client.get("/api/view/report.json?run=a.unvanish").text
    outcome = client.post("/api/run/whatif?activation=tanh", content=report).json()
    assert [row["layer"] for row in outcome["rows"]] == ["in", "mid", "out"] and "tanh" in outcome["sentence"]

    def dead(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        rows[2][0] = -math.inf

    made(folder / "dead.unvanish", 5, dead)
    assert state(client, "dead.unvanish")["idealised"] is False  # the what-if would refuse it


def test_numbers_that_are_not_finite_are_shown(client: TestClient, folder: Path) -> None:
    def broken(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step > 3:
            series["loss"] = math.nan if step == 5 else math.inf
            rows[0][1] = math.inf
            rows[1][0] = -math.inf

    made(folder / "a.unvanish", 8, broken)
    found = state(client, "a.unvanish", map="gradient")
    assert found["tone"] == "fault" and cells(found["heat"])[0, -1] == 8
    assert client.get("/api/view/page.html?run=a.unvanish").status_code == 200
    made(folder / "nothing.unvanish", 4, lambda step, rows, series: (rows.clear(), series.clear())[0])  # type: ignore[func-returns-value]
    assert state(client, "nothing.unvanish")["step"] == 3
    assert client.get("/api/view/page.html?run=nothing.unvanish").status_code == 200


def test_a_file_that_is_older_than_a_number_of_the_step_is_shown_without_it(client: TestClient, folder: Path) -> None:
    file = made(folder / "a.unvanish", 10, end=False)
    file.base.execute("UPDATE samples SET series = substr(series, 1, 16)")  # the loss and the rate
    file.close(steps=10)
    titles = [each["title"] for each in state(client, "a.unvanish")["pictures"]]
    assert titles[2:] == ["The loss", "The learning rate"]
    assert client.get("/api/view/page.html?run=a.unvanish").status_code == 200
    assert client.get("/api/view/against?run=a.unvanish&other=a.unvanish").json()["answer"] == "identical"
    assert client.get("/api/view/table.csv?run=a.unvanish").text.count("\n") == 41


def test_a_run_that_has_ended_is_opened_once_for_the_list(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = view_folder.glance
    monkeypatch.setattr(view_folder, "glance", lambda path: looked.append(path.name) or real(path))
    made(folder / "ended.unvanish", 5)
    file = made(folder / "live.unvanish", 5, end=False)
    first = client.get("/api/view/runs").json()
    assert client.get("/api/view/runs").json() == first
    assert looked.count("ended.unvanish") == 1 and looked.count("live.unvanish") == 2
    file.close(steps=5)
    (folder / "ended.unvanish").unlink()
    made(folder / "ended.unvanish", 9)
    runs = {each["name"]: each for each in client.get("/api/view/runs").json()["runs"]}
    assert runs["ended.unvanish"]["step"] == 8 and runs["live.unvanish"]["state"] == "ended"


def test_a_process_that_is_gone_is_said(client: TestClient, folder: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    file = begun(folder / "a.unvanish", process=child)
    stepped(file, 0, random.Random(0))
    file.flush()
    assert state(client, "a.unvanish")["run"]["state"] == "lost"


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path / "none"), "--no-browser"]) == 2
    assert "there is no folder or run file" in capsys.readouterr().err
    (tmp_path / "x.unvanish").write_text("nothing")
    with pytest.raises(UnvanishError, match="no run file"):
        site(str(tmp_path / "x.unvanish"))
    made(tmp_path / "one.run", 3)
    assert site(str(tmp_path / "one.run")).title == "view"


PIECES = [
    "/api/view/", "state", "runs", "against", "report.json", "report.html", "page.html", "table.csv", "?run=", "&run=",
    "a.unvanish", "&other=", "b.unvanish", "&step=", "&map=", "heat", "signal", "&px=", "&half=", "-1", "9" * 25, "nan",
    "&made=", "&seen=", "..", "%00", "%ff", "é", "<script>", "/lab", "/static/", "view.js", "x" * 300,
]  # fmt: skip


def test_nothing_a_visitor_sends_brings_it_down(client: TestClient, folder: Path) -> None:
    made(folder / "a.unvanish", 30)
    made(folder / "b.unvanish", 30, seed=1)
    chance = random.Random(0)
    for _ in range(1_500):
        path = "/" + "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 7))).lstrip("/")
        if chance.random() < 0.1:
            path += "".join(chance.choice(string.printable.strip()) for _ in range(5))
        answer = client.request(chance.choice(["GET", "GET", "GET", "POST", "DELETE"]), path)
        assert answer.status_code < 500, (path, answer.text[:200])


def test_a_file_with_facts_of_other_kinds_does_not_hide_the_others(client: TestClient, folder: Path) -> None:
    made(folder / "good.unvanish", 5)
    file = begun(folder / "odd.unvanish", setting=["no", "setting"])
    file.fact(started={})
    file.close()
    runs = {each["name"]: each["state"] for each in client.get("/api/view/runs").json()["runs"]}
    assert runs == {"good.unvanish": "ended", "odd.unvanish": "unreadable"}


def test_the_saved_page_has_the_chosen_map_first_and_those_of_all_other_quantities(
    client: TestClient, folder: Path
) -> None:
    made(folder / "a.unvanish", 20)
    for seen in SEEN:
        page = client.get(f"/api/view/page.html?run=a.unvanish&map={seen}").text
        assert page.count("<svg") == 2 * (6 + 4)
        first, others = page.split("The same map of the other quantities")
        drawn = [f"The {SEEN[each]}." for each in SEEN]
        assert [text for text in drawn if text in first] == [f"The {SEEN[seen]}."]
        assert [text for text in drawn if text in others] == [text for text in drawn if text != f"The {SEEN[seen]}."]


def test_a_map_of_shares_is_drawn_in_shares(client: TestClient, folder: Path) -> None:
    """Shares of 0, 50 and 100% get the first, the third and the last of five colours, and stand in the table."""

    def shut(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        for at, share in enumerate((0.0, 0.5, 1.0)):
            rows[at][5] = share

    made(folder / "a.unvanish", 20, shut)
    page = client.get("/api/view/page.html?run=a.unvanish&map=dead").text
    first, _ = page.split("The same map of the other quantities")
    drawn = first.split("Every layer over the steps", 1)[1].split("</section>")[0]
    marks = drawn.split("</svg>")[0]
    assert all(marks.count(f"var(--uv-{name}") > 1 for name in ("even", "warm2", "warm4"))  # in the map and in the key
    assert not any(f"var(--uv-{name}" in marks for name in ("cold1", "cold4"))
    assert ">0%<" in marks and ">100%<" in marks and "×1" not in marks
    assert '<td class="n">0.5</td>' in drawn and "log10" not in drawn


def test_a_converged_run_says_so_before_its_other_notes_and_a_broken_one_names_the_call(
    client: TestClient, folder: Path
) -> None:
    def note(code: str, verdict: str) -> Finding:
        return Finding(
            code=code, verdict=verdict, level="note", layers=("in",), message=f"since step 3: {verdict} it is."
        )

    file = begun(folder / "well.unvanish")
    for step in range(10):
        stepped(file, step, random.Random(step))
    file.event(3, note("UV801", "vanished"))
    file.flush()
    assert state(client, "well.unvanish")["sentence"].startswith("No fault was found. A note: vanished: since step 3")
    file.event(5, note("UV809", "converged"))
    file.close()
    assert state(client, "well.unvanish")["sentence"].startswith("Converged: ")

    def broken(step: int, rows: dict[int, list[float]], series: dict[str, float]) -> None:
        if step > 5:
            rows[0][1] = math.inf

    file, chance = begun(folder / "broken.unvanish"), random.Random(0)
    for step in range(10):
        stepped(file, step, chance, broken)
    file.flush()
    assert "from an unknown call" in state(client, "broken.unvanish")["sentence"]
    named = "at step 6: The forward pass is not finite from log on."
    file.event(6, Finding(code="UV501", verdict="nonfinite", level="error", message=named))
    file.close()
    assert state(client, "broken.unvanish")["sentence"] == f"Nonfinite: {named}"
    assert state(client, "broken.unvanish", step=3)["tone"] == "fine"


def test_the_command_says_its_address_serves_only_whoever_has_it_and_ends_with_ctrl_c(folder: Path) -> None:
    made(folder / "a.unvanish", 5)
    command = [sys.executable, "-m", "unvanish", "view", str(folder), "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
            assert address.startswith("http://127.0.0.1:")
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address.split("?")[0] + "api/view/runs")
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            assert b"unvanish view" in opener.open(address).read()
            assert b"a.unvanish" in opener.open(address.split("?")[0] + "api/view/runs").read()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
