"""The viewer as a site: the runs of a folder, followed while they are written, beside the lab."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from unvanish.records import UnvanishError
from unvanish.report import Report
from unvanish.report.frame import policy
from unvanish.server.app import answered
from unvanish.server.drawings import drawn
from unvanish.server.lab import site as lab_site
from unvanish.server.pictures import pixels
from unvanish.server.site import Site
from unvanish.server.view import answers
from unvanish.server.view.compared import Pair, compared
from unvanish.server.view.folder import Folder, Watched, reading, version
from unvanish.watching.against import against
from unvanish.watching.run import load_run

FILES = {"view.css": "text/css", "view.js": "text/javascript", "heat.js": "text/javascript"}
AT_ONCE = 2
"""Answers that are worked out at the same time: the training has the rest of the machine."""


def site(place: str = "runs/") -> Site:
    """The viewer of a folder of runs, or of one run; UnvanishError where there is no such place."""
    view, lab = View(Folder(place)), lab_site()
    routes = [
        Route("/api/view/runs", answered(view.runs)),
        Route("/api/view/state", answered(view.state)),
        Route("/api/view/report.json", answered(view.report)),
        Route("/api/view/report.html", answered(view.page)),
        Route("/api/view/against", answered(view.against)),
        Route("/api/view/page.html", answered(view.export)),
        Route("/api/view/table.csv", answered(view.table)),
        *lab.routes,
    ]
    return Site("view", __name__, FILES, routes, lab.jobs, lab.encode, warm, beside=lab)


class View:
    """What answers the page. Nothing is kept of a run but its history, and its file is open only for moments."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def runs(self, request: Request) -> Response:
        found = await self._work(self.folder.glances)
        return _json({"folder": str(self.folder.home), "runs": found})

    async def state(self, request: Request) -> Response:
        name = _one(request, "run")
        return await self._work(lambda: _followed(lambda: self._state(self.folder.watched(name), request.query_params)))

    def _state(self, watched: Watched, asked: QueryParams) -> Response:
        seen, at = asked.get("map", "signal"), _step(asked.get("step", ""))
        with watched.lock, reading(watched.path) as file:
            now = f"{version(file)}.{seen}.{at}.{asked.get('px')}.{asked.get('tables')}"
            if now == asked.get("seen"):
                return _json({"same": True})
            watched.history.update(file)
            found = answers.state(file, watched.history, seen, at, *_pixels(asked), tables=asked.get("tables") == "1")
            return _json({"version": now, **found})

    async def report(self, request: Request) -> Response:
        report = await self._work(partial(self._report, request))
        return Response(report.to_json(indent=None), media_type="application/json")

    async def page(self, request: Request) -> Response:
        from unvanish.report.html import write

        page = await self._work(lambda: write(self._report(request)))
        return Response(page, media_type="text/html", headers={"content-security-policy": policy()})

    async def against(self, request: Request) -> Response:
        names = _one(request, "run"), _one(request, "other")
        return await self._work(lambda: _followed(lambda: self._against(names, request.query_params)))

    def _against(self, names: tuple[str, str], asked: QueryParams) -> Response:
        seen, at = asked.get("map", "signal"), _step(asked.get("step", ""))
        now = ";".join([*map(self._version, names), f"{seen}.{at}.{asked.get('px')}"])
        if now == asked.get("seen"):
            return _json({"same": True})
        return _json({"version": now, **compared(self._pair(*names, at), seen, *_pixels(asked))})

    def _version(self, name: str) -> str:
        with reading(self.folder.watched(name).path) as file:
            return version(file)

    def _pair(self, one: str, other: str, at: int | None) -> Pair:
        both = self.folder.watched(one), self.folder.watched(other)
        reports: list[Report | None] = []
        for watched in both:
            with watched.lock, reading(watched.path) as file:
                watched.history.update(file)
                reports.append(answers.report_of(file, at) if watched.history.samples else None)
        found = against(load_run(both[0].path), load_run(both[1].path))
        return Pair(found, (reports[0], reports[1]), (both[0].history, both[1].history))

    async def export(self, request: Request) -> Response:
        page = await self._work(partial(self._export, request))
        name = _one(request, "run")
        headers = {"content-security-policy": policy(), "content-disposition": _attachment(f"{name}.html")}
        return Response(page, media_type="text/html", headers=headers)

    def _export(self, request: Request) -> str:
        from unvanish.server.view.export import page

        asked = request.query_params
        name, other = _one(request, "run"), asked.get("against", "")
        at = _step(asked.get("step", ""))
        pair = self._pair(name, other, at) if other else None
        watched = self.folder.watched(name)
        with watched.lock, reading(watched.path) as file:
            watched.history.update(file)
            return page(file, watched.history, asked.get("map", "signal"), at, pair)

    async def table(self, request: Request) -> Response:
        from unvanish.server.view.export import table

        name = _one(request, "run")
        path = self.folder.watched(name).path
        return StreamingResponse(
            table(path), media_type="text/csv", headers={"content-disposition": _attachment(f"{name}.csv")}
        )

    def _report(self, request: Request) -> Any:
        asked = request.query_params
        with reading(self.folder.watched(_one(request, "run")).path) as file:
            if made := asked.get("made", ""):
                return answers.report_at(file, _step(made) or 0)
            return answers.report_of(file, _step(asked.get("step", "")))

    async def _work(self, work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _followed(answer: Callable[[], Response]) -> Response:
    """The answer; that a file cannot be read is one, too, and no fault: who follows a run asks again."""
    try:
        return answer()
    except UnvanishError as error:
        return _json({"error": f"{error}; looking again"})


def _one(request: Request, name: str) -> str:
    given = request.query_params.getlist(name)
    if len(given) != 1:
        raise UnvanishError(f"the address names {name} {len(given)} times; it takes one")
    return given[0]


def _attachment(name: str) -> str:
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "_" for each in name)
    return f'attachment; filename="{plain}"'


def _step(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _pixels(asked: QueryParams) -> tuple[int, int]:
    """The width of a picture, and of one beside another."""
    return pixels(asked.get("px", "")), pixels(asked.get("half", ""))


def _json(data: Any) -> Response:
    """JSON on one line; the numbers in it are finite, or they are texts."""
    return Response(msgspec.json.encode(data), media_type="application/json")


def warm() -> None:
    """Do now what the first visitor would wait for: read or compile the drawings."""
    from unvanish.server.bundle import bundle

    bundle()
    drawn("staircase")
