"""The lab's server: who may ask, what it answers, and that nothing a visitor sends brings it down."""

from __future__ import annotations

import ast
import json
import random
import re
import string
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import unvanish.server
from unvanish import lab
from unvanish.records import UnvanishError
from unvanish.server import serve
from unvanish.server.app import application
from unvanish.server.guard import LARGEST
from unvanish.server.jobs import Jobs, events
from unvanish.server.lab import FIRST
from unvanish.server.lab import site as lab_site
from unvanish.server.lab.answers import described

PORT = 8123
BASE = f"http://127.0.0.1:{PORT}"
TOKEN = "the-token"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(application(lab_site(), TOKEN, PORT), base_url=BASE, raise_server_exceptions=False) as opened:
        assert opened.get(f"/?token={TOKEN}", follow_redirects=True).status_code == 200
        yield opened


@pytest.fixture
def stranger() -> TestClient:
    return TestClient(application(lab_site(), TOKEN, PORT), base_url=BASE, raise_server_exceptions=False)


def followed(text: str) -> list[tuple[str, Any]]:
    return [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]


@pytest.mark.parametrize(
    "path", ["/", "/api/experiments", "/api/run/chain", "/static/lab.js", "/vega.js", "/?token=no"]
)
def test_without_the_token_nothing_is_answered(stranger, path):
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "token" in answer.text


def test_the_token_leaves_the_address_and_becomes_a_cookie_no_script_can_read(stranger):
    answer = stranger.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"127.0.0.1.example.org:{PORT}"])
def test_another_host_name_is_refused(client, host):
    assert client.get("/api/experiments", headers={"host": host}).status_code == 421


def test_another_site_cannot_ask(client):
    assert client.get("/api/experiments", headers={"origin": "http://example.org"}).status_code == 403
    assert client.get("/api/experiments", headers={"origin": BASE}).status_code == 200


def test_every_answer_carries_the_strict_policy(client):
    for path in ("/", "/api/experiments", "/static/lab.css", "/api/run/nothing", "/no/such/page"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_script_and_no_foreign_address(client):
    page = client.get("/").text
    assert not re.findall(r"<script(?![^>]*\bsrc=\"/)", page)
    assert not re.findall(r"\bon\w+=|style=|https?://", page)


def test_a_file_outside_the_list_is_not_served(client):
    for name in ("page.html", "..%2fapp.py", "%2e%2e%2fapp.py", "nothing.js"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_server_knows_no_experiment_but_the_one_it_opens_with():
    """What an experiment costs, how fast it is and what it opens or reads are arguments of ``@experiment``."""
    names = {each.name for each in lab.experiments()} - {"width", "bottom", "speeds"}  # pictures, or properties of them
    for file in Path(unvanish.server.__file__).parent.rglob("*.py"):
        texts = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        assert {node.value for node in texts if isinstance(node.value, str)} & names <= {FIRST}
    paces = {each["name"]: each["pace"] for each in map(described, lab.experiments())}
    assert (paces["ravine"], paces["width"], paces["speeds"]) == ("live", "short", "long")


def test_an_experiment_answers_as_in_python(client):
    answer = client.get("/api/run/chain?depth=20&weight=0.25").json()
    outcome = lab.run("chain", depth=20, weight=0.25)
    assert answer["sentence"] == outcome.sentence
    assert answer["rows"] == json.loads(outcome.to_json())["rows"]
    assert [each["name"] for each in answer["pictures"]] == [each.name for each in outcome.pictures]
    assert "weight=0.25" in answer["code"]


def test_the_code_it_offers_gives_the_same_outcome(client):
    answer = client.get("/api/run/chain?depth=7&weight=2.5&activation=tanh").json()
    scope: dict[str, Any] = {}
    exec(answer["code"].replace("print(outcome)", ""), scope)
    assert scope["outcome"].sentence == answer["sentence"]


@pytest.mark.parametrize(
    "settings",
    ["depth=1e9", "depth=nan", "depth=0", "weight=inf", "weight=", "activation=sigmiod", "dept=3", "depth=3&depth=4"],
)
def test_a_bad_setting_is_a_400_with_the_message_of_the_command_line(client, settings):
    answer = client.get(f"/api/run/chain?{settings}")
    assert answer.status_code == 400
    message = answer.json()["error"]
    assert message.startswith("lab chain: ")
    name, _, value = settings.partition("=")
    if "&" not in settings:
        with pytest.raises(UnvanishError) as error:
            lab.run("chain", **{name: value})
        assert message == str(error.value)


def test_unknown_names_are_answered_with_what_there_is(client):
    assert "chain" in client.get("/api/run/chian").json()["error"]
    assert client.get("/api/export/chain.exe").json()["error"].startswith("there is no format 'exe'")
    assert "nothing" in client.get("/api/vega/nothing").json()["error"]


@pytest.mark.parametrize(("kind", "begin"), [("csv", b"layer"), ("png", b"\x89PNG"), ("svg", b"<svg"), ("json", b"{")])
def test_exports_are(client, kind, begin):
    answer = client.get(f"/api/export/chain.{kind}?depth=5")
    assert answer.status_code == 200
    assert answer.content.startswith(begin)
    assert f"chain.{kind}" in answer.headers["content-disposition"]


@pytest.mark.parametrize(("pixels", "width"), [("390", 390), ("1", 300), ("99999", 1000), ("x", 620), ("-5", 620)])
def test_pictures_are_drawn_as_wide_as_the_page_has_room(client, pixels, width):
    size = client.get(f"/api/run/chain?depth=6&px={pixels}").json()["pictures"][0]["size"]
    assert size["width"] + size["padding"]["left"] + size["padding"]["right"] == width


def test_no_file_of_this_machine_can_be_named_from_the_page(client):
    for path in ("run/whatif?report=/etc/passwd", "run/speeds?folder=/etc", "export/whatif.csv?report=x.json"):
        answer = client.get(f"/api/{path}")
        assert answer.status_code == 400 and "command line" in answer.json()["error"]
    settings = {each["name"] for one in client.get("/api/experiments").json() for each in one["settings"]}
    assert settings.isdisjoint({"report", "folder"})


@pytest.mark.parametrize(
    "settings",
    [f"depth=100000&input={','.join('1' for _ in range(100))}", "rows=100000&depth=100000", "depth=1000&width=256"],
)
def test_what_would_take_too_much_memory_is_refused_before_it_starts(client, settings):
    start = time.monotonic()
    answer = client.get(f"/api/run/chain?{settings}")
    assert answer.status_code == 400 and "at most" in answer.json()["error"]
    assert time.monotonic() - start < 5


def test_a_hundred_thousand_layers_are_answered(client):
    answer = client.get("/api/run/chain?depth=100000&weight=0.17").json()
    assert answer["total"] == len(answer["rows"]) == 1000
    assert sum(len(rows) for picture in answer["pictures"] for rows in picture["tables"].values()) < 5_000


def test_a_deep_network_is_not_checked_on_the_page(client):
    assert "300 layers" in client.get("/check/chain?depth=301").json()["error"]
    assert client.get("/api/run/chain?depth=301").json()["check"] == ""
    assert "it has no network that check could open" in client.get("/check/ravine").json()["error"]


def test_a_report_that_is_sent_is_idealised_and_not_kept(client):
    from unvanish import diagnose
    from unvanish.zoo import get

    report = diagnose(get("stuck-sigmoid-10").build(0), effort="quick")
    answer = client.post("/api/run/whatif?activation=tanh&px=700", content=report.to_json())
    assert answer.status_code == 200
    assert answer.json()["rows"][0]["log10_reported"] == report.layers[0].log10_signal
    assert client.get("/api/run/whatif?activation=tanh").json()["sentence"] != answer.json()["sentence"]


def test_the_network_of_a_chain_is_checked_by_the_tool(client):
    page = client.get("/check/chain?depth=20&weight=0.17")
    assert page.status_code == 200
    assert "vanished" in page.text.lower()


def test_a_body_too_large_is_refused(client):
    assert client.post("/api/run/whatif", content=b"x" * (LARGEST + 1)).status_code == 413


def test_an_experiment_that_takes_no_report_says_so(client):
    assert "it takes no report" in client.post("/api/run/chain", content=b"{}").json()["error"]


def test_a_report_that_is_none_is_refused(client):
    assert "not valid JSON" in client.post("/api/run/whatif", content=b"\xff\x00").json()["error"]


def test_a_job_is_followed_to_its_result_and_remembered(client):
    path = "/api/jobs/speeds?quick=true&hidden=2&epochs=3&seeds=1&images=20"
    job = client.post(path).json()["id"]
    events = followed(client.get(f"/api/jobs/{job}").text)
    assert events[-1][0] == "result"
    assert {name for name, _ in events[:-1]} <= {"progress"}
    assert events[-1][1]["sentence"]
    exported = client.get(path.replace("/api/jobs/speeds", "/api/export/speeds.csv"))
    assert exported.status_code == 200 and "," in exported.text


def test_what_trains_is_not_run_as_a_quick_one_and_not_exported_before_it_ran(client):
    answer = client.get("/api/run/speeds?epochs=18")
    assert answer.status_code == 202 and "job" in answer.json()["idle"]
    assert "run it first" in client.get("/api/export/speeds.csv?epochs=17").json()["error"]


def test_a_job_nobody_waits_for_ends_and_a_stopped_one_gives_what_it_has(client):
    job = client.post("/api/jobs/speeds?hidden=2&epochs=5000&seeds=1").json()["id"]
    assert client.delete(f"/api/jobs/{job}").status_code == 200
    events = followed(client.get(f"/api/jobs/{job}").text)
    assert events[-1][0] in ("result", "problem")


def test_a_visitor_who_leaves_ends_what_only_that_one_waited_for(monkeypatch):
    """With nobody following, an experiment is told to stop at its next sign of progress; with a follower it goes on."""
    monkeypatch.setattr("unvanish.server.jobs.ALONE", 0.2)
    jobs = Jobs()

    def endless(progress: Any) -> str:
        try:
            for step in range(10_000):
                progress(step / 10_000, f"step {step}")
                time.sleep(0.005)
        except lab.Stopped:
            return "stopped"
        return "done"

    try:
        left, kept = jobs.start(endless), jobs.start(endless)
        kept.followers = 1
        assert left.future is not None and left.future.result(timeout=5) == "stopped"
        assert not kept.finished
        kept.followers, kept.left_at = 0, time.monotonic()
        assert kept.future is not None and kept.future.result(timeout=5) == "stopped"
    finally:
        jobs.close()


def test_a_follower_who_goes_is_counted_out():
    import asyncio

    jobs = Jobs()

    async def look_and_go(job: Any) -> tuple[int, int]:
        stream = events(job, str.encode)
        await anext(stream)
        during = job.followers
        await stream.aclose()
        return during, job.followers

    try:
        job = jobs.start(lambda progress: time.sleep(0.5))
        # in a thread of its own: the browser of other tests keeps an event loop running in this one
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: asyncio.run(look_and_go(job))).result() == (1, 0)
    finally:
        jobs.close()


def test_the_queue_is_bounded():
    jobs = Jobs()
    try:
        for _ in range(10):
            jobs.start(lambda progress: time.sleep(0.05))
        with pytest.raises(UnvanishError, match="busy"):
            jobs.start(lambda progress: None)
    finally:
        jobs.close()


def test_a_port_that_cannot_be_had_is_one_clear_error():
    with pytest.raises(UnvanishError, match="from 0 to 65535"):
        serve("lab", 70_000, browser=False)


PIECES = [
    "/", "/api/run/", "/api/jobs/", "/api/vega/", "/api/export/", "/check/", "/static/", "chain", "ravine", "speeds",
    "whatif", "staircase", ".csv", ".png", "?depth=", "&weight=", "&depth=5", "..", "%00", "%ff", "nan", "-1", "1e400",
    "0.17", "activation=relu", "?", "&", "=", "é", "\"'<script>", "?token=", "x" * 300,
]  # fmt: skip


def test_nothing_a_visitor_sends_brings_it_down(client):
    """10,000 requests put together at random: every one is answered, none with a fault of the server."""
    chance = random.Random(0)
    for _ in range(10_000):
        path = "/" + "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6))).lstrip("/")
        if "speeds" in path or chance.random() < 0.1:
            path += "".join(chance.choice(string.printable.strip()) for _ in range(5))
        method = chance.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "OPTIONS"])
        body = chance.choice([b"", b"{}", b"\x00\xff", b'{"schema":"unvanish.report/1"}'])
        answer = client.request(method, path, content=body if method in ("POST", "PUT") else None)
        assert answer.status_code < 500, (method, path, answer.text[:200])
    assert client.get("/api/experiments").status_code == 200
