"""What the page is told: an experiment and its settings, an outcome, a compiled drawing; plain values for JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from unvanish.lab import Experiment, Outcome, get
from unvanish.lab.sources import SOURCES
from unvanish.records import UnvanishError, to_builtins
from unvanish.report.formats import names
from unvanish.server.pictures import picture

ROWS = 1000
"""Rows a page is sent; a table of more cannot be read, and the file to save has them all."""


def described(experiment: Experiment) -> dict[str, Any]:
    """An experiment and its settings."""
    parameters = [
        {
            "name": parameter.name, "default": _plain(parameter.default), "help": parameter.help,
            "low": parameter.low, "high": parameter.high,
            "unit": parameter.unit, "choices": list(parameter.choices), "log": parameter.log, "kind": parameter.kind,
            "allowed": parameter.allowed, "slide": list(parameter.slide or (parameter.low, parameter.high)),
        }
        for parameter in experiment.settings
        if not parameter.local
    ]  # fmt: skip
    presets = [
        {
            "title": each.title,
            "source": SOURCES.get(each.source, ""),
            "settings": {name: _plain(value) for name, value in each.settings.items()},
        }
        for each in experiment.presets
    ]
    return {
        "name": experiment.name, "title": experiment.title, "question": experiment.question,
        "sources": list(experiment.sources), "pace": experiment.pace, "settings": parameters, "presets": presets,
        "report": experiment.on_report is not None, "formats": [each for each in names("lab") if each != "text"],
    }  # fmt: skip


def spoken(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the page shows it."""
    step = -(-len(outcome.rows) // ROWS) or 1
    changed = _changed(outcome)
    arguments = "".join(f", {name}={value!r}" for name, value in changed.items())
    # the pictures carry their own tables
    answer: dict[str, Any] = to_builtins(outcome.replace(rows=outcome.rows[::step], pictures=()))
    answer.update(
        total=len(outcome.rows),
        pictures=[picture(drawing) for drawing in outcome.pictures],
        code=f'import unvanish.lab\n\noutcome = unvanish.lab.run("{outcome.experiment}"{arguments})\nprint(outcome)',
        check="",
    )
    if _can_be_checked(outcome):
        query = urlencode({name: _plain(value) for name, value in changed.items()})
        answer["check"] = f"/check/{outcome.experiment}?{query}"
    return answer


def _can_be_checked(outcome: Outcome) -> bool:
    experiment = get(outcome.experiment)
    if experiment.network is None:
        return False
    try:
        experiment.network(experiment.settle(**outcome.settings))
    except UnvanishError:
        return False
    return True


def _changed(outcome: Outcome) -> dict[str, Any]:
    """The settings that are not at their defaults; a list of one number as that number."""
    changed: dict[str, Any] = {}
    for parameter in get(outcome.experiment).settings:
        value = outcome.settings.get(parameter.name, parameter.default)
        value = tuple(value) if isinstance(value, list) else value
        if value != parameter.default:
            changed[parameter.name] = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return changed


def _plain(value: Any) -> Any:
    return ",".join(repr(each) for each in value) if isinstance(value, (tuple, list)) else value
