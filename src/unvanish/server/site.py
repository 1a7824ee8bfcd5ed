"""What a site is: the folder of its page and its own routes; the server adds the guard, the drawings and the jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute

from unvanish.server.jobs import Jobs


@dataclass(frozen=True)
class Site:
    """One site for the server.

    ``package``: the package that has ``static/page.html`` and the ``files`` the page loads, each with its media type.
    ``routes``: what the page asks. ``jobs``: what runs for it, followed and stopped under ``/api/jobs/ID``.
    ``encode``: the JSON of a job's result. ``warm``: does now what the first visitor would wait for. ``beside``: a site
    whose page is served under its title, such as /lab; its routes are among the routes.
    """

    title: str
    package: str
    files: Mapping[str, str]
    routes: Sequence[BaseRoute]
    jobs: Jobs
    encode: Callable[[object], bytes]
    warm: Callable[[], None]
    beside: Site | None = None
