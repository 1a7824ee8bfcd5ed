"""The routes of the lab's page. Every error a visitor can cause is an answer of 400 with the reason as text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cache, partial
from importlib.resources import files
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from unvanish.lab import Outcome, Progress, Stopped, experiments, get
from unvanish.lab.outcome import drawn_at
from unvanish.records import UnvanishError
from unvanish.report.formats import find
from unvanish.server.answers import described, pace, spoken
from unvanish.server.asked import Asked, asked
from unvanish.server.drawings import drawn
from unvanish.server.guard import Guard
from unvanish.server.jobs import Job, Jobs
from unvanish.server.memory import Memory

STATIC = {
    "lab.css": "text/css", "lab.js": "text/javascript", "parts.js": "text/javascript", "pictures.js": "text/javascript",
}  # fmt: skip
OWN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Of a page that is one file with its style inside and no script."""
PATIENCE = 20.0
"""Seconds that a quick experiment may take."""
AT_ONCE = 4
"""Quick experiments under way; more wait, so that many requests need no more memory than these."""
TICK = 0.15


def application(token: str, port: int) -> Starlette:
    """The ASGI application for one token and port."""
    lab = Lab()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        yield
        lab.jobs.close()

    return Starlette(
        routes=[
            Route("/", _page),
            Route("/static/{name}", _static),
            Route("/theme.css", _theme),
            Route("/vega.js", _vega),
            Route("/api/experiments", _catalogue),
            Route("/api/vega/{name}", _drawing),
            Route("/api/run/{name}", _answered(lab.run), methods=["GET", "POST"]),
            Route("/api/jobs/{name}", _answered(lab.start), methods=["POST"]),
            Route("/api/jobs/{id}", _answered(lab.follow), methods=["GET"]),
            Route("/api/jobs/{id}", _answered(lab.stop), methods=["DELETE"]),
            Route("/api/export/{name}.{format}", _answered(lab.export)),
            Route("/check/{name}", _answered(lab.check)),
        ],
        middleware=[Middleware(Guard, token=token, port=port)],
        exception_handlers={UnvanishError: _refused, Exception: _failed},
        lifespan=lifespan,
    )


class Lab:
    """What runs experiments: the jobs under way, and the outcomes that are known."""

    def __init__(self) -> None:
        self.jobs, self.memory = Jobs(), Memory()
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(self, request: Request) -> Response:
        what = asked(request)
        if what.experiment.name == "whatif" and request.method == "POST":
            text = (await request.body()).decode("utf-8", "replace")
            found = await _quickly(self._limiter, request, partial(_what_if, text, what))
        elif (known := await self._known(request, what)) is not None:
            found = known
        else:
            return JSONResponse({"idle": f"lab {what.experiment.name} takes a while: start it as a job"}, 202)
        return Response(await run_in_threadpool(_encoded, found), media_type="application/json")

    async def start(self, request: Request) -> Response:
        what = asked(request)
        return JSONResponse({"id": self.jobs.start(partial(self.memory.run, what, at_width=False)).id})

    async def follow(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        return StreamingResponse(_events(job), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def stop(self, request: Request) -> Response:
        self.jobs.get(request.path_params["id"]).stop.set()
        return JSONResponse({})

    async def export(self, request: Request) -> Response:
        wanted = find(request.path_params["format"], "lab")
        what = asked(request)
        name = what.experiment.name
        outcome = await self._known(request, what)
        if outcome is None:
            raise UnvanishError(f"lab {name}: run it first, then its results can be saved")
        data = await run_in_threadpool(wanted.write, outcome)
        attachment = f'attachment; filename="{name}{wanted.suffix}"'
        return Response(data, media_type=wanted.media, headers={"content-disposition": attachment})

    async def check(self, request: Request) -> Response:
        page = await _quickly(self._limiter, request, partial(_checked, asked(request)))
        return Response(page, media_type="text/html", headers={"content-security-policy": OWN_POLICY})

    async def _known(self, request: Request, what: Asked) -> Outcome | None:
        """The outcome where it is known or takes no time; None where a job has to work it out first."""
        if pace(what.experiment) != "live":
            return self.memory.find(what)
        return await _quickly(self._limiter, request, partial(self.memory.run, what, at_width=True))


def warm() -> None:
    """Do now what the first visitor would wait for: import the experiments, read or compile the drawings, draw once."""
    from unvanish.server.bundle import bundle

    bundle()
    for each in experiments():
        described(each)
    drawn("staircase")
    with drawn_at(620):
        spoken(get("chain").run())


async def _quickly(limiter: anyio.CapacityLimiter, request: Request, work: Callable[[Progress], Any]) -> Any:
    """The result of something short, computed beside the server; UnvanishError where it takes too long.

    It ends at its next sign of progress when time is up or the visitor has gone.
    """
    over = threading.Event()

    def limit(share: float, what: str) -> None:
        if over.is_set():
            raise Stopped

    async def wait() -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not await request.is_disconnected():
            await asyncio.sleep(TICK)
        over.set()

    watching = asyncio.create_task(wait())
    running = anyio.to_thread.run_sync(work, limit, limiter=limiter, abandon_on_cancel=True)
    try:
        return await asyncio.wait_for(running, PATIENCE + 1)
    except (Stopped, TimeoutError):
        raise UnvanishError(f"this takes more than {PATIENCE:.0f} seconds here; run it on the command line") from None
    finally:
        over.set()
        watching.cancel()


async def _events(job: Job) -> AsyncGenerator[str, None]:
    """Server-sent events: progress, then one of result or problem. Ends when the visitor leaves."""
    job.followers += 1
    said: tuple[float, str] | None = None
    try:
        while not job.finished:
            if (job.share, job.what) != said:
                said = (job.share, job.what)
                yield _event("progress", {"share": job.share, "what": job.what})
            await asyncio.sleep(TICK)
        assert job.future is not None
        if job.future.cancelled():
            yield _event("problem", {"error": "stopped before anything was done"})
        elif (error := job.future.exception()) is None:
            yield _event("result", await run_in_threadpool(_encoded, job.future.result()))
        else:
            yield _event("problem", {"error": _reason(error)})
    finally:
        job.followers -= 1
        job.left_at = time.monotonic()


def _event(name: str, data: Any) -> str:
    text = data.decode() if isinstance(data, bytes) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"


def _encoded(outcome: Outcome) -> bytes:
    """The JSON of an outcome, on one line. A slider waits for it: msgspec takes a tenth of the time of json."""
    return msgspec.json.encode(spoken(outcome))


def _reason(error: BaseException) -> str:
    if isinstance(error, Stopped):
        return "stopped before anything was done"
    return str(error) if isinstance(error, UnvanishError) else f"{type(error).__name__}: {error}"


def _answered(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def wrapped(request: Request) -> Response:
        try:
            return await route(request)
        except ClientDisconnect:
            return PlainTextResponse("", 400)

    return wrapped


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)


async def _page(request: Request) -> Response:
    return Response(_file("page.html"), media_type="text/html")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return PlainTextResponse("there is no such file", 404)
    return Response(_file(name), media_type=STATIC[name])


async def _theme(request: Request) -> Response:
    from unvanish.charts.theme import css

    return Response(css(), media_type="text/css")


async def _vega(request: Request) -> Response:
    from unvanish.server.bundle import bundle

    # a day: its content changes only with the installed package, and a new server has a new port
    headers = {"cache-control": "private, max-age=86400"}
    return Response(await run_in_threadpool(bundle), media_type="text/javascript", headers=headers)


async def _catalogue(request: Request) -> Response:
    # the page opens with the first one, and a chain is what the others build on
    found = sorted(await run_in_threadpool(experiments), key=lambda each: each.name != "chain")
    return JSONResponse([described(each) for each in found])


async def _drawing(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(drawn, request.path_params["name"]))


@cache
def _file(name: str) -> bytes:
    return files("unvanish.server").joinpath("static", name).read_bytes()


def _what_if(text: str, what: Asked, progress: Progress) -> Outcome:
    from unvanish.lab.whatif import what_if
    from unvanish.report import Report

    settings = what.experiment.settle(**what.settings)
    with drawn_at(what.pixels):
        found = what_if(Report.from_json(text), settings, progress)
    return found.replace(experiment=what.experiment.name, title=what.experiment.title, settings=settings.plain())


def _checked(what: Asked, progress: Progress) -> str:
    from unvanish.lab.network import network
    from unvanish.pipeline import diagnose
    from unvanish.report.html import write
    from unvanish.server.answers import CHECKED

    if what.experiment.name != "chain":
        raise UnvanishError(f"lab {what.experiment.name}: only the network of a chain can be opened in check")
    settings = what.experiment.settle(**what.settings)
    if settings.depth > CHECKED:
        raise UnvanishError(
            f"lab chain: the page checks up to {CHECKED} layers, not {settings.depth:,}; use unvanish check"
        )
    progress(0.0, "check")
    return write(diagnose(network(settings)))
