"""The lab as a site: one page for all experiments, which run while a slider moves or as jobs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import anyio
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from unvanish.charts import WIDTH
from unvanish.lab import Outcome, Progress, experiments, get
from unvanish.lab.outcome import drawn_at
from unvanish.records import UnvanishError
from unvanish.report.formats import find
from unvanish.report.frame import policy
from unvanish.server.app import answered
from unvanish.server.drawings import drawn
from unvanish.server.jobs import Jobs
from unvanish.server.lab.answers import described, spoken
from unvanish.server.lab.asked import Asked, asked
from unvanish.server.lab.cache import Cache
from unvanish.server.quick import quickly
from unvanish.server.site import Site

FILES = {"lab.css": "text/css", "lab.js": "text/javascript"}
FIRST = "chain"
"""The page opens with it: a chain is what the other experiments build on."""
AT_ONCE = 4
"""Quick experiments under way; more wait, so that many requests need no more memory than these."""


def site() -> Site:
    """The lab with nothing under way."""
    lab = Lab()
    routes = [
        Route("/api/experiments", _catalogue),
        Route("/api/run/{name}", answered(lab.run), methods=["GET", "POST"]),
        Route("/api/jobs/{name}", answered(lab.start), methods=["POST"]),
        Route("/api/export/{name}.{format}", answered(lab.export)),
        Route("/check/{name}", answered(lab.check)),
    ]
    return Site("lab", __name__, FILES, routes, lab.jobs, cast("Callable[[object], bytes]", _encoded), _warm)


class Lab:
    """What runs experiments: the jobs under way, and the outcomes that are known."""

    def __init__(self) -> None:
        self.jobs, self.cache = Jobs(), Cache()
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(self, request: Request) -> Response:
        what = asked(request)
        if request.method == "POST":
            text = (await request.body()).decode("utf-8", "replace")
            outcome = await quickly(self._limiter, request, partial(_on_report, text, what))
        elif (known := await self._known(request, what)) is not None:
            outcome = known
        else:
            return JSONResponse({"idle": f"lab {what.experiment.name} takes a while: start it as a job"}, 202)
        return Response(await run_in_threadpool(_encoded, outcome), media_type="application/json")

    async def start(self, request: Request) -> Response:
        what = asked(request)
        return JSONResponse({"id": self.jobs.start(partial(self.cache.run, what, at_width=False)).id})

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
        page = await quickly(self._limiter, request, partial(_checked, asked(request)))
        return Response(page, media_type="text/html", headers={"content-security-policy": policy()})

    async def _known(self, request: Request, what: Asked) -> Outcome | None:
        """The outcome where it is known or takes no time; None where a job has to work it out first."""
        if what.experiment.pace != "live":
            return self.cache.find(what)
        return await quickly(self._limiter, request, partial(self.cache.run, what, at_width=True))


def _warm() -> None:
    """Do now what the first visitor would wait for: import the experiments, read or compile the drawings, draw once."""
    from unvanish.server.bundle import bundle

    bundle()
    for each in experiments():
        described(each)
    drawn("staircase")
    with drawn_at(WIDTH):
        spoken(get(FIRST).run())


def _encoded(outcome: Outcome) -> bytes:
    """The JSON of an outcome, on one line. A slider waits for it: msgspec takes a tenth of the time of json."""
    return msgspec.json.encode(spoken(outcome))


async def _catalogue(request: Request) -> Response:
    ordered = sorted(await run_in_threadpool(experiments), key=lambda each: each.name != FIRST)
    return JSONResponse([described(each) for each in ordered])


def _on_report(text: str, what: Asked, progress: Progress) -> Outcome:
    from unvanish.report import Report

    if what.experiment.on_report is None:
        raise UnvanishError(f"lab {what.experiment.name}: it takes no report")
    with drawn_at(what.pixels):
        return what.experiment.run_on(Report.from_json(text), progress, **what.settings)


def _checked(what: Asked, progress: Progress) -> str:
    from unvanish.pipeline import diagnose
    from unvanish.report.html import write

    experiment = what.experiment
    if experiment.network is None:
        raise UnvanishError(f"lab {experiment.name}: it has no network that check could open")
    build = experiment.network(experiment.settle(**what.settings))
    progress(0.0, "check")
    return write(diagnose(build()))
