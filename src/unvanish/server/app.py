"""The server around a site: its page and files, the drawings, the jobs, and an answer to every error.

Every error a visitor can cause is an answer of 400 with the reason as text.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cache
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from unvanish.records import UnvanishError
from unvanish.server.drawings import drawn
from unvanish.server.guard import Guard
from unvanish.server.jobs import events
from unvanish.server.site import Site

SHARED = {"page.css": "text/css", "parts.js": "text/javascript", "pictures.js": "text/javascript"}
"""Files that the pages of all sites load."""


def application(site: Site, token: str, port: int) -> Starlette:
    """The ASGI application of one site for one token and port."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        yield
        site.jobs.close()

    return Starlette(
        routes=[*_pages(site), *_jobs(site), *site.routes],
        middleware=[Middleware(Guard, token=token, port=port)],
        exception_handlers={UnvanishError: _refused, Exception: _failed},
        lifespan=lifespan,
    )


def answered(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The route; a visitor who has gone before the answer was ready is no fault."""

    async def wrapped(request: Request) -> Response:
        try:
            return await route(request)
        except ClientDisconnect:
            return PlainTextResponse("", 400)

    return wrapped


def _pages(site: Site) -> list[BaseRoute]:
    sites = [site] if site.beside is None else [site, site.beside]

    async def page(request: Request) -> Response:
        asked = sites[-1] if request.url.path != "/" else site
        return Response(_file(asked.package, "page.html"), media_type="text/html")

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        for package, known in (("unvanish.server", SHARED), *((each.package, each.files) for each in sites)):
            if name in known:
                return Response(_file(package, name), media_type=known[name])
        return PlainTextResponse("there is no such file", 404)

    return [
        Route("/", page),
        *(Route(f"/{each.title}", page) for each in sites[1:]),
        Route("/static/{name}", static),
        Route("/theme.css", _theme),
        Route("/vega.js", _vega),
        Route("/api/vega/{name}", _drawing),
    ]


def _jobs(site: Site) -> list[BaseRoute]:
    async def follow(request: Request) -> Response:
        job = site.jobs.get(request.path_params["id"])
        stream = events(job, site.encode)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def stop(request: Request) -> Response:
        site.jobs.get(request.path_params["id"]).stop.set()
        return JSONResponse({})

    return [
        Route("/api/jobs/{id}", answered(follow), methods=["GET"]),
        Route("/api/jobs/{id}", answered(stop), methods=["DELETE"]),
    ]


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)


async def _theme(request: Request) -> Response:
    from unvanish.charts.theme import css

    return Response(css(), media_type="text/css")


async def _vega(request: Request) -> Response:
    from unvanish.server.bundle import bundle

    # a day: its content changes only with the installed package, and a new server has a new port
    headers = {"cache-control": "private, max-age=86400"}
    return Response(await run_in_threadpool(bundle), media_type="text/javascript", headers=headers)


async def _drawing(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(drawn, request.path_params["name"]))


@cache
def _file(package: str, name: str) -> bytes:
    return files(package).joinpath("static", name).read_bytes()
