"""One file an experiment: a system of the source documents, working, with its numbers, its pictures and its check.

A file holds one function ``run(settings, progress) -> Outcome`` decorated with ``@experiment(name, …)``; the file has
the experiment's name, and its docstring is its documentation. Nothing else has to be edited to add one.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from unvanish.lab.outcome import Check, Column, Drawing, Outcome
from unvanish.lab.parameters import Parameter, Settings, nearest, settle
from unvanish.records import UnvanishError

if TYPE_CHECKING:
    from unvanish.problem import Problem
    from unvanish.report import Report

__all__ = [
    "Check", "Column", "Drawing", "Experiment", "Outcome", "Parameter", "Preset", "Progress", "Settings", "Stopped",
    "experiment", "experiments", "get", "run",
]  # fmt: skip

Progress = Callable[[float, str], None]
"""Called with the share that is done, from 0 to 1, and what is going on. It may raise Stopped."""
Run = Callable[[Settings, Progress], Outcome]
OnReport = Callable[["Report", Settings, Progress], Outcome]
PACES = ("live", "short", "long")

PARTS = ("parameters", "outcome", "readable", "network", "beside", "sources", "swept", "initialisations", "window")
"""Files of this folder that hold no experiment; they are not imported just to list the experiments."""
_registry: dict[str, Experiment] = {}


class Stopped(Exception):  # noqa: N818 - a request, not a fault
    """Raised by a Progress to end an experiment; one that trains then returns what it has, with a note."""


@dataclass(frozen=True)
class Preset:
    """Settings with a name. ``source``: the number of the source document whose own example they are, or ""."""

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""


@dataclass(frozen=True)
class Experiment:
    """A registered experiment: what it asks, what can be set, and the function that runs it.

    ``sources``: the numbers of the source documents it stands for. ``presets``: settings with a name. ``pace``: how a
    page runs it, "live" while a slider moves, "short" when it is opened, "long" on request. ``cost``: about how many
    numbers a run keeps at once. ``network``: what builds the network of some settings for ``check``; it raises
    UnvanishError where that is too large. ``on_report``: runs it on a report instead of its own example.
    """

    name: str
    title: str
    question: str
    sources: tuple[str, ...]
    settings: tuple[Parameter, ...]
    presets: tuple[Preset, ...]
    function: Run
    pace: str = "short"
    cost: Callable[[Settings], int] | None = None
    network: Callable[[Settings], Callable[[], Problem]] | None = None
    on_report: OnReport | None = None

    @property
    def doc(self) -> str:
        return self.function.__doc__ or ""

    def settle(self, preset: str = "", **given: Any) -> Settings:
        """The checked settings of one run; UnvanishError for an unknown name or a value out of range."""
        where = f"lab {self.name}"
        chosen = {each.name: each.settings for each in self.presets}
        if preset and preset not in chosen:
            raise UnvanishError(f"{where}: there is no preset {preset!r}{nearest(preset, tuple(chosen))}")
        return settle(self.settings, given, where, chosen.get(preset, {}))

    def run(self, progress: Progress | None = None, preset: str = "", **given: Any) -> Outcome:
        """Run it; the same settings give the same outcome."""
        settings = self.settle(preset, **given)
        return self._named(self.function(settings, progress or _silent), settings)

    def run_on(self, report: Report, progress: Progress | None = None, **given: Any) -> Outcome:
        """Run it on a report; UnvanishError where it takes none."""
        if self.on_report is None:
            raise UnvanishError(f"lab {self.name}: it takes no report")
        settings = self.settle(**given)
        return self._named(self.on_report(report, settings, progress or _silent), settings)

    def _named(self, outcome: Outcome, settings: Settings) -> Outcome:
        return outcome.replace(experiment=self.name, title=self.title, settings=outcome.settings or settings.plain())


def experiment(
    name: str,
    *,
    title: str,
    question: str,
    sources: tuple[str, ...] = (),
    settings: tuple[Parameter, ...] = (),
    presets: tuple[Preset, ...] = (),
    pace: str = "short",
    cost: Callable[[Settings], int] | None = None,
    network: Callable[[Settings], Callable[[], Problem]] | None = None,
    on_report: OnReport | None = None,
) -> Callable[[Run], Run]:
    """Register an experiment; the arguments are the fields of Experiment.

    Refuses a second of the same name, a missing docstring, an unknown pace, and a wrong default or preset.
    """

    def register(function: Run) -> Run:
        if name in _registry:
            raise ValueError(f"{name} is registered twice: give one of the two another name")
        if not function.__doc__:
            raise ValueError(f"{name} needs a docstring: it is its documentation")
        if pace not in PACES:
            raise ValueError(f"{name} has the pace {pace!r}; it is one of {', '.join(PACES)}")
        made = Experiment(
            name, title, question, sources, settings, presets, function, pace, cost, network, on_report
        )  # fmt: skip
        for parameter in settings:
            parameter.check(parameter.default)
        for preset in presets:
            made.settle(preset.name)
        if fault := _fault(made):
            raise ValueError(fault)
        _registry[name] = made
        return function

    return register


def _fault(made: Experiment) -> str:
    """What is wrong with a registration and what to write instead; "" where nothing is."""
    name = made.name
    if made.function.__module__ != f"{__name__}.{name}":
        return f"{name} belongs into the file {name}.py of unvanish/lab: an experiment is found by the name of its file"
    if not made.title or not made.question.endswith("?"):
        return f"{name} needs a title and a question with its question mark: the list of experiments shows both"
    unexplained = [parameter.name for parameter in made.settings if not parameter.help]
    if unexplained:
        return f"{name}: the settings {', '.join(unexplained)} need a help text, which the page and --help show"
    return ""


@cache
def experiments() -> tuple[Experiment, ...]:
    """Every experiment, by name."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in PARTS:
            importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_registry.values(), key=lambda each: each.name))


def get(name: str) -> Experiment:
    """The experiment of that name; UnvanishError with the nearest names where there is none."""
    if name not in _registry and name not in PARTS and re.fullmatch("[a-z]+", name):
        # the file has the experiment's name: one experiment is found without importing the others
        home = f"{__name__}.{name}"
        if importlib.util.find_spec(home) is not None:
            importlib.import_module(home)
    if name in _registry:
        return _registry[name]
    raise UnvanishError(f"the lab has no experiment {name!r}{nearest(name, tuple(e.name for e in experiments()))}")


def run(name: str, *, progress: Progress | None = None, preset: str = "", **settings: Any) -> Outcome:
    """Run an experiment by its name, such as ``run("chain", depth=50, weight=0.17)``.

    Values are numbers, truth values and texts, or their spelling on a command line ("0.1,2,-3"); ``preset`` names a
    set of values to start from. Raises UnvanishError for names and values that the experiment does not take.
    """
    return get(name).run(progress, preset, **settings)


def _silent(share: float, what: str) -> None:
    del share, what
