"""How much the servers take at once, keep and answer: the limits that hold where a visitor or the lab is immoderate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from unvanish.lab import Stopped
from unvanish.records import UnvanishError
from unvanish.report.frame import policy
from unvanish.server import jobs as jobs_of
from unvanish.server import quick
from unvanish.server.app import application
from unvanish.server.guard import LARGEST, MOST, POLICY, Guard
from unvanish.server.jobs import KEPT, Jobs
from unvanish.server.lab import cache as cache_of
from unvanish.server.lab import site as lab_site
from unvanish.server.lab.cache import Cache

PORT = 8125
TOKEN = "the-token"


def in_a_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What it returns, in a thread of its own: the browser of other tests keeps an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def scope(path: str = "/api", token: str = TOKEN) -> dict[str, Any]:
    headers = {"host": f"127.0.0.1:{PORT}", "cookie": f"unvanish-{PORT}={token}"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": pairs}


async def nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b""}


async def unheard(message: Any) -> None:
    pass


def test_it_answers_under_the_name_localhost_too() -> None:
    with TestClient(application(lab_site(), TOKEN, PORT), base_url=f"http://localhost:{PORT}") as client:
        assert client.get(f"/?token={TOKEN}", follow_redirects=True).status_code == 200
        assert client.get("/api/experiments", headers={"origin": f"http://localhost:{PORT}"}).status_code == 200


def test_the_token_counts_in_the_address_of_the_page_alone() -> None:
    """In any other address it would stand in histories and copied links, and open all that they name."""
    client = TestClient(application(lab_site(), TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}")
    for path in ("/api/experiments", "/static/lab.js", "/check/chain"):
        answer = client.get(f"{path}?token={TOKEN}", follow_redirects=False)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_what_may_be_kept_and_what_a_page_may_do_is_said_by_each_answer() -> None:
    with TestClient(application(lab_site(), TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}") as client:
        client.get(f"/?token={TOKEN}")
        headers = {path: client.get(path).headers for path in ("/api/experiments", "/vega.js", "/check/chain?depth=3")}
    assert headers["/api/experiments"]["cache-control"] == "no-store"
    assert headers["/vega.js"]["cache-control"] == "private, max-age=86400"
    # a report brings its own style sheet, which the policy of the other pages would forbid
    assert headers["/check/chain?depth=3"]["content-security-policy"] == policy() != POLICY


def test_so_many_requests_are_answered_at_once_and_then_those_behind_them() -> None:
    async def crowd() -> tuple[list[int], int]:
        free, statuses = asyncio.Event(), list[int]()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await free.wait()
            await PlainTextResponse("done")(scope, receive, send)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        guard = Guard(slow, TOKEN, PORT)
        held = [asyncio.create_task(guard(scope(), nothing, send)) for _ in range(MOST)]
        await asyncio.sleep(0)
        await asyncio.wait_for(guard(scope(), nothing, send), 10)
        await guard(scope(token="another"), nothing, send)  # a stranger learns nothing, not even that it is busy
        free.set()
        await asyncio.gather(*held)
        await guard(scope(), nothing, send)
        return statuses, guard.running

    assert in_a_loop(crowd) == ([503, 403, *[200] * MOST, 200], 0)


def test_of_a_body_without_an_announced_length_no_more_is_taken_in_than_of_others() -> None:
    async def endless() -> int:
        taken = 0

        async def reader(scope: Any, receive: Any, send: Any) -> None:
            nonlocal taken
            while (message := await receive())["type"] == "http.request":
                taken += len(message["body"])
                assert taken <= LARGEST

        async def part() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 2**20, "more_body": True}

        await Guard(reader, TOKEN, PORT)(scope(), part, unheard)
        return taken

    assert in_a_loop(endless) == LARGEST


def test_the_results_of_the_last_jobs_are_kept_and_no_others() -> None:
    jobs = Jobs()
    try:
        made = [jobs.start(lambda progress: None) for _ in range(1)]
        for _ in range(KEPT + 4):
            assert made[-1].future is not None
            made[-1].future.result(timeout=5)
            made.append(jobs.start(lambda progress: None))
        assert [jobs.get(each.id) for each in made[-KEPT:]] == made[-KEPT:]
        for old in made[:-KEPT]:
            with pytest.raises(UnvanishError, match="start it again"):
                jobs.get(old.id)
    finally:
        jobs.close()


def test_a_job_ends_when_its_time_is_over_though_somebody_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_of, "LONGEST", 0.2)
    jobs = Jobs()

    def endless(progress: Any) -> str:
        try:
            for _ in range(1_000):
                progress(0.5, "on")
                time.sleep(0.01)
        except Stopped:
            return "stopped"
        return "done"

    try:
        job = jobs.start(endless)
        job.followers = 1
        assert job.future is not None and job.future.result(timeout=20) == "stopped"
    finally:
        jobs.close()


@pytest.mark.parametrize("leaves", [True, False], ids=["the visitor leaves", "the time is over"])
def test_a_quick_answer_is_no_longer_worked_on(leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at its next sign of progress, long before the wait for one that gives no sign would."""
    monkeypatch.setattr(quick, "PATIENCE", 60.0 if leaves else 0.3)
    ended = threading.Event()

    def endless(progress: Any) -> None:
        try:
            while True:
                progress(0.0, "on")
                time.sleep(0.01)
        except Stopped:
            ended.set()
            raise

    async def asks() -> float:
        async def gone() -> bool:
            return leaves

        began = time.monotonic()
        with pytest.raises(UnvanishError, match="run it on the command line"):
            request: Any = SimpleNamespace(is_disconnected=gone)
            await quick.quickly(anyio.CapacityLimiter(1), request, endless)
        return time.monotonic() - began

    took = in_a_loop(asks)
    assert ended.wait(5) and took < (30.0 if leaves else 1.3)


class Counted:
    """An experiment that counts its runs; ``stops``: it is told to stop, and hands over what it has."""

    name = "counted"

    def __init__(self, rows: int = 3) -> None:
        self.rows, self.runs = rows, 0

    def settle(self, **settings: str) -> Any:
        return SimpleNamespace(plain=lambda: settings)

    def run(self, progress: Any, **settings: str) -> Any:
        self.runs += 1
        try:
            progress(0.5, "half")
        except Stopped:
            return SimpleNamespace(rows=[0])
        return SimpleNamespace(rows=range(self.rows))


def asks(experiment: Counted, pixels: int = 620, **settings: str) -> Any:
    return SimpleNamespace(experiment=experiment, settings=settings, pixels=pixels)


def going_on(share: float, what: str) -> None:
    pass


def stopping(share: float, what: str) -> None:
    raise Stopped


def test_what_was_stopped_early_or_is_large_is_worked_out_again() -> None:
    whole, large, cache = Counted(), Counted(cache_of.LONGEST + 1), Cache()
    cache.run(asks(whole, depth="3"), stopping, at_width=False)
    assert cache.find(asks(whole, depth="3")) is None
    outcome = cache.run(asks(whole, depth="3"), going_on, at_width=False)
    assert whole.runs == 2 and cache.find(asks(whole, pixels=300, depth="3")) is outcome
    assert cache.run(asks(whole, depth="3"), going_on, at_width=False) is outcome and whole.runs == 2
    for runs in (1, 2):
        cache.run(asks(large), going_on, at_width=False)
        assert large.runs == runs
    cache.run(asks(Counted(cache_of.LONGEST)), going_on, at_width=False)
    assert cache.find(asks(Counted())) is not None


def test_the_outcome_that_nobody_asked_for_longest_is_forgotten() -> None:
    experiment, cache = Counted(), Cache()
    for depth in range(cache_of.REMEMBERED):
        cache.run(asks(experiment, depth=str(depth)), going_on, at_width=False)
    cache.run(asks(experiment, depth="0"), going_on, at_width=False)  # known, and now the newest
    cache.run(asks(experiment, depth="new"), going_on, at_width=False)
    known = [depth for depth in range(cache_of.REMEMBERED) if cache.find(asks(experiment, depth=str(depth)))]
    assert known == [0, *range(2, cache_of.REMEMBERED)]


def test_a_picture_of_another_width_is_another_outcome_where_it_takes_no_time() -> None:
    experiment, cache = Counted(), Cache()
    for pixels in (620, 390, 620):
        cache.run(asks(experiment, pixels=pixels), going_on, at_width=True)
    assert experiment.runs == 2
