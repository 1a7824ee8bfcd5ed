"""What a request asks for: an experiment, its settings as texts, and how wide its pictures are to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from unvanish.lab import Experiment, get
from unvanish.records import UnvanishError
from unvanish.server.pictures import pixels

MOST_NUMBERS = 500_000
"""What an experiment may keep on the page; more is for the command line, which has the machine to itself."""


@dataclass(frozen=True)
class Asked:
    """An experiment with checked settings, and the width of its pictures in pixels."""

    experiment: Experiment
    settings: Mapping[str, str]
    pixels: int


def asked(request: Request) -> Asked:
    """What the address asks for; UnvanishError where a setting is not allowed, or too much for a page."""
    experiment = get(request.path_params["name"])
    about = f"lab {experiment.name}"
    given = request.query_params
    if len(given.multi_items()) != len(given):
        raise UnvanishError(f"{about}: a setting is given twice")
    if wrong := [name for name in given if not name.isidentifier()]:
        raise UnvanishError(f"{about}: there is no setting {wrong[0][:40]!r}")
    settings = {name: value for name, value in given.items() if name != "px"}
    settled = experiment.settle(**settings)
    if any(settled[parameter.name] for parameter in experiment.settings if parameter.local):
        raise UnvanishError(
            f"{about}: on the page no file or folder of this machine can be named; use the command line"
        )
    if experiment.cost is not None and (numbers := experiment.cost(settled)) > MOST_NUMBERS:
        raise UnvanishError(
            f"{about}: these settings keep some {numbers:,} numbers, and the page takes at most {MOST_NUMBERS:,};"
            " run them on the command line"
        )
    return Asked(experiment, settings, pixels(given.get("px", "")))
