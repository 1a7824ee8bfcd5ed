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
from typing import Any

from unvanish.lab.knobs import Knob, Settings, nearest, settle
from unvanish.lab.outcome import Check, Column, Drawing, Outcome
from unvanish.records import UnvanishError

__all__ = [
    "Check", "Column", "Drawing", "Experiment", "Knob", "Outcome", "Preset", "Progress", "Settings", "Stopped",
    "experiment", "experiments", "get", "run",
]  # fmt: skip

Progress = Callable[[float, str], None]
"""Called with the share that is done, from 0 to 1, and what is going on. It may raise Stopped."""
Run = Callable[[Settings, Progress], Outcome]

PARTS = ("knobs", "outcome", "readable", "network", "beside")
"""Files of this folder that hold no experiment; they are not imported just to list the experiments."""
_registry: dict[str, Experiment] = {}


class Stopped(Exception):  # noqa: N818 - a request, not a fault
    """Raised by a Progress to end an experiment; one that trains then returns what it has, with a note."""


@dataclass(frozen=True)
class Preset:
    """Settings with a name, such as those of a source document's own example."""

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Experiment:
    """A registered experiment: what it asks, what can be set, and the function that runs it.

    ``sources``: the numbers of the source documents it stands for. ``presets``: settings with a name.
    """

    name: str
    title: str
    question: str
    sources: tuple[str, ...]
    settings: tuple[Knob, ...]
    presets: tuple[Preset, ...]
    function: Run

    @property
    def doc(self) -> str:
        return self.function.__doc__ or ""

    def settle(self, preset: str = "", **given: Any) -> Settings:
        """The checked settings of one run; UnvanishError for an unknown name or a value out of range."""
        asked = f"lab {self.name}"
        chosen = {each.name: each.settings for each in self.presets}
        if preset and preset not in chosen:
            raise UnvanishError(f"{asked}: there is no preset {preset!r}{nearest(preset, tuple(chosen))}")
        return settle(self.settings, given, asked, chosen.get(preset, {}))

    def run(self, progress: Progress | None = None, preset: str = "", **given: Any) -> Outcome:
        """Run it; the same settings give the same outcome."""
        settings = self.settle(preset, **given)
        outcome = self.function(settings, progress or _silent)
        return outcome.replace(experiment=self.name, title=self.title, settings=settings.plain())


def experiment(
    name: str,
    *,
    title: str,
    question: str,
    sources: tuple[str, ...] = (),
    settings: tuple[Knob, ...] = (),
    presets: tuple[Preset, ...] = (),
) -> Callable[[Run], Run]:
    """Register an experiment. Refuses a second of the same name, a missing docstring, and a wrong default or preset."""

    def register(function: Run) -> Run:
        if name in _registry:
            raise ValueError(f"{name} is registered twice")
        if not function.__doc__:
            raise ValueError(f"{name} needs a docstring: it is its documentation")
        made = Experiment(name, title, question, sources, settings, presets, function)
        for knob in settings:
            knob.check(knob.default)
        for preset in presets:
            made.settle(preset.name)
        _registry[name] = made
        return function

    return register


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
