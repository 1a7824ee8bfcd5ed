"""A sweep's grid: what a TOML file or a dict asks for, checked before anything runs; errors name the line.

Points are never listed: a grid of a million of them is a few ranges, and ``points.py`` works out any stretch of it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unvanish.population.names import NAMES, check, conflict, is_number, nearest
from unvanish.records import UnvanishError

DESIGNS = ("grid", "random", "sobol")
SECTIONS = (*DESIGNS, "fixed", "run")
RUN: dict[str, tuple[str, type | tuple[type, ...], Any]] = {
    "seeds": ("a whole number, 1 or more", int, 1),
    "train": ("true or false", bool, False),
    "data": ('"mnist", "digits" or "file.py:function"', str, "mnist"),
    "steps": ("a whole number, 1 or more (optimizer steps)", int, 300),
    "timeout": ("a number above 0 (seconds that a network of your own may take)", (int, float), 600.0),
    "memory": ("a number above 0 (GiB that the process of such a network may hold)", (int, float), 0.0),
}
DATA = ("mnist", "digits")
MOST_POINTS = 2**40
DIMENSIONS = 1_000
Lines = dict[tuple[str, str], int]


@dataclass(frozen=True)
class Axis:
    """One name and what it takes: ``values`` in turn, or anything from ``low`` to ``high`` (``log``: evenly in log)."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """What stands at a share from 0 to 1 of the way."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.whole:
            return min(int(self.low + share * (self.high - self.low + 1)), int(self.high))
        if self.log:
            return math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True)
class Grid:
    """A checked grid. ``model``: an own factory as (absolute file, function), else ("", "").

    ``timeout`` and ``memory``: seconds and GiB that a network of an own factory may take; memory 0: its share of what
    is free. ``lines``: where in ``source`` a name stands.
    """

    design: str
    axes: tuple[Axis, ...]
    points: int
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model: tuple[str, str] = ("", "")
    point_seed: int = 0
    seeds: int = 1
    train: bool = False
    data: str = "mnist"
    steps: int = 300
    timeout: float = 600.0
    memory: float = 0.0
    source: str = ""
    lines: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def names(self) -> tuple[str, ...]:
        """The names that vary."""
        return tuple(axis.name for axis in self.axes)

    def place(self, name: str) -> str:
        """Where an error about a name is to be looked for."""
        return f"{self.source}, line {self.lines[name]}: {name}" if name in self.lines else f"{self.source}: {name}"

    def identity(self) -> dict[str, Any]:
        """What makes this sweep this sweep, as plain values: two grids with the same identity share a file."""
        axes = [[a.name, list(a.values), a.low, a.high, a.log] for a in self.axes]
        return {
            "design": self.design, "axes": axes, "points": self.points, "fixed": dict(self.fixed),
            "model": list(self.model), "point_seed": self.point_seed, "seeds": self.seeds, "train": self.train,
            "data": self.data if self.train else "", "steps": self.steps if self.train else 0,
        }  # fmt: skip

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Grid:
        """The grid with that identity."""
        axes = tuple(
            Axis(name, tuple(values), low, high, log, name in NAMES and NAMES[name].whole)
            for name, values, low, high, log in identity["axes"]
        )
        return cls(**{**identity, "axes": axes, "model": tuple(identity["model"])})


def read_grid(grid: str | Path | Mapping[str, Any]) -> Grid:
    """The grid of a TOML file, or of the same as a dict; UnvanishError names the line that is wrong."""
    if isinstance(grid, Mapping):
        return _Reader({**grid}, "the grid", None, Path.cwd()).grid()
    path = Path(grid)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnvanishError(f"cannot read the grid {str(path)!r}: {reason}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (line \d+)|end of document", str(error))
        line = place.group(1) if place and place.group(1) else f"line {text.count(chr(10)) + 1}"
        said = re.sub(r" \(at .*\)$", "", str(error))
        raise UnvanishError(f"{path}, {line}: this is not TOML: {said}") from None
    return _Reader(data, str(path), _lines(text), path.absolute().parent).grid()


KEY = r"""\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*"""


def _lines(text: str) -> Lines:
    """The line of each section and of each name in it."""
    line_of: Lines = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(rf"\s*\[{{1,2}}{KEY}(?:\.{KEY})?.*\]", line):
            section, inner = _named(header, 1), _named(header, 4)
            line_of.setdefault((section, inner), number)
        elif key := re.match(rf"{KEY}(?:\.{KEY})?=", line):
            first, second = _named(key, 1), _named(key, 4)
            line_of.setdefault((first, second) if second and not section else (section, first), number)
            if not section:
                line_of.setdefault((first, ""), number)
    return line_of


def _named(match: re.Match[str], at: int) -> str:
    """The name in one of three groups: between either kind of quotes, or bare."""
    return next((each for each in match.groups()[at - 1 : at + 2] if each), "")


class _Reader:
    """One reading of a grid: the data, what to call it in an error, and the lines of its names if it is a file."""

    def __init__(self, data: dict[str, Any], source: str, lines: Lines | None, folder: Path) -> None:
        self.data, self.source, self.lines, self.folder = data, source, lines or {}, folder
        self.is_file = lines is not None

    def error(self, section: str, name: str, what: str) -> UnvanishError:
        line = self.lines.get((section, name)) or self.lines.get((section, "")) or min(self.lines.values(), default=1)
        place = f"{self.source}, line {line}" if self.is_file else self.source
        where = f"[{section}] {name}" if name else f"[{section}]" if section else ""
        return UnvanishError(f"{place}: {where}: {what}" if where else f"{place}: {what}")

    def grid(self) -> Grid:
        for section, content in self.data.items():
            if section not in SECTIONS:
                alone = not isinstance(content, Mapping) and section in {*NAMES, *RUN, "points", "model"}
                hint = "a name stands below the header of its section, [grid], [fixed] or [run]" if alone else ""
                raise self.error(section, "", hint or f"there is no such section; {nearest(str(section), SECTIONS)}")
            if not isinstance(content, Mapping):
                raise self.error(section, "", f"{content!r} is not a section of names and values")
        designs = [name for name in DESIGNS if name in self.data]
        if len(designs) > 1:
            raise self.error(designs[1], "", f"there is a [{designs[0]}] already; a sweep has one of the two")
        run = self._run()
        design = designs[0] if designs else "grid"
        fixed = dict(self.data.get("fixed", {}))
        model = self._model(fixed)
        count, seed, axes = self._axes(design, dict(self.data.get(design, {})), bool(model[0]))
        for axis in axes:
            if axis.name in fixed:
                raise self.error("fixed", axis.name, f"it stands in [{design}] too; a name is either varied or fixed")
        if model[0] and run["train"]:
            raise self.error(
                "run", "train", "networks of your own model are checked, not trained; leave it out, or train in"
                f" {model[1]}() before it returns",
            )  # fmt: skip
        for name in ("timeout", "memory"):
            if not model[0] and name in self.data.get("run", {}):
                raise self.error("run", name, 'it is for networks of your own, model = "file.py:build" in [fixed]')
        if not model[0]:
            self._check_plain(design, axes, fixed, run["train"])
        lines = {name: line for (_, name), line in self.lines.items() if name}
        return Grid(design, axes, count, fixed, model, seed, source=self.source, lines=lines, **run)

    def _run(self) -> dict[str, Any]:
        given = dict(self.data.get("run", {}))
        for name, value in given.items():
            if name not in RUN:
                hint = "it belongs to [fixed] or [grid]" if name in NAMES else nearest(str(name), RUN)
                raise self.error("run", name, f"there is no such setting; {hint}")
            allowed, kind, _ = RUN[name]
            fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            if not fits or (kind not in (bool, str) and not (1 if kind is int else 1e-9) <= value < math.inf):
                raise self.error("run", name, f"{value!r} is not {allowed}")
        run = {name: given.get(name, default) for name, (_, _, default) in RUN.items()}
        for name in ("data", "steps"):
            if name in given and not run["train"]:
                raise self.error("run", name, "it means nothing without training; add train = true, or leave it out")
        if run["data"] not in DATA:
            run["data"] = ":".join(self._file("run", "data", run["data"]))
        return run

    def _file(self, section: str, name: str, text: str) -> tuple[str, str]:
        """The absolute path and the function of "file.py:function"; the file lies beside the grid's."""
        head, colon, function = text.rpartition(":")
        if not colon or not head.endswith(".py") or not function.isidentifier():
            hint = f"; {nearest(text, DATA)}" if name == "data" else ""
            raise self.error(section, name, f'{text!r} is not of the form "file.py:function"{hint}')
        path = self.folder / head
        if not path.is_file():
            raise self.error(section, name, f"there is no file {str(path)!r}")
        return str(path), function

    def _model(self, fixed: dict[str, Any]) -> tuple[str, str]:
        model = fixed.pop("model", "")
        for design in DESIGNS:
            if "model" in self.data.get(design, {}):
                raise self.error(design, "model", "a sweep has one model: put it into [fixed]")
        if not isinstance(model, str):
            raise self.error("fixed", "model", f'{model!r} is not of the form "file.py:function"')
        return self._file("fixed", "model", model) if model else ("", "")

    def _axes(self, design: str, given: dict[str, Any], own: bool) -> tuple[int, int, tuple[Axis, ...]]:
        """How many points there are, the seed they are drawn with, and what varies in them."""
        count, seed = 1, 0
        if design != "grid":
            count, seed = given.pop("points", 0), given.pop("seed", 0)
            for name, value, low in (("points", count, 1), ("seed", seed, 0)):
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value < MOST_POINTS:
                    raise self.error(design, name, f"give {name} = N, a whole number from {low}; found {value!r}")
        axes = tuple(self._axis(design, name, value, own) for name, value in given.items())
        if design == "grid":
            count = math.prod(len(axis.values) for axis in axes)
            if count > MOST_POINTS:
                raise self.error(design, "", f"{count:.3g} points are more than {MOST_POINTS:.1g}; shorten the lists")
        elif not axes:
            raise self.error(design, "", "nothing varies; give at least one range such as weight_variance = [0.5, 4.0]")
        elif len(axes) > DIMENSIONS:
            raise self.error(design, "", f"{len(axes)} names are more than {DIMENSIONS}")
        return count, seed, axes

    def _axis(self, design: str, name: str, value: Any, own: bool) -> Axis:
        if name == "points":
            raise self.error(design, name, "a grid has as many points as its lists make; points = N is for [random]")
        if not own and name not in NAMES:
            hint = "it belongs to [run]" if name in RUN else nearest(name, NAMES)
            raise self.error(design, name, f"there is no such name; {hint}")
        if isinstance(value, Mapping) and design != "grid":
            return self._range(design, name, value, own)
        if not isinstance(value, (list, tuple)):
            raise self.error(design, name, f"{value!r} is not a list; a single value belongs to [fixed]")
        values = tuple(value)
        if not values:
            raise self.error(design, name, "the list is empty; give at least one value")
        if design != "grid" and all(map(is_number, values)):
            if len(values) != 2:
                raise self.error(design, name, f"a range has two ends; found {list(values)!r}")
            return self._range(design, name, {"low": values[0], "high": values[1]}, own)
        for each in values:
            self._check(design, name, each, own)
        if len({repr(each) for each in values}) < len(values):
            raise self.error(design, name, f"{list(values)!r} holds a value twice")
        return Axis(name, values)

    def _range(self, design: str, name: str, given: Mapping[str, Any], own: bool) -> Axis:
        if unknown := [key for key in given if key not in ("low", "high", "log")]:
            raise self.error(design, name, f"a range has low, high and log; found {unknown[0]!r}")
        low, high, log = given.get("low"), given.get("high"), given.get("log", False)
        for end in (low, high):
            if not is_number(end):
                raise self.error(design, name, f"a range has a number at both ends; found {end!r}")
            self._check(design, name, end, own)
        assert isinstance(low, (int, float)) and isinstance(high, (int, float))
        if not low < high:
            raise self.error(design, name, f"the range from {low!r} to {high!r} is empty")
        if not isinstance(log, bool) or (log and not low > 0):
            raise self.error(design, name, "log = true needs ends above 0")
        whole = isinstance(low, int) and isinstance(high, int) if own else NAMES[name].whole
        if whole and log:
            raise self.error(design, name, "whole numbers are drawn evenly; leave out log")
        return Axis(name, (), float(low), float(high), log, whole)

    def _check(self, section: str, name: str, value: Any, own: bool) -> None:
        if own:
            if not isinstance(value, (bool, int, float, str)):
                raise self.error(section, name, f"{value!r} is not a number, a text, true or false")
        elif wrong := check(name, value):
            raise self.error(section, name, wrong)

    def _check_plain(self, design: str, axes: tuple[Axis, ...], fixed: dict[str, Any], train: bool) -> None:
        """That names and values fit the networks of the package, each alone and all together."""
        for name, value in fixed.items():
            if name not in NAMES:
                known = [*NAMES, "model"]
                hint = "it belongs to [run]" if name in RUN else nearest(str(name), known)
                raise self.error("fixed", name, f"there is no such name; {hint}")
            if isinstance(value, (list, tuple)):
                raise self.error("fixed", name, f"{value!r} is a list; what varies belongs to [grid]")
            self._check("fixed", name, value, False)
        values = {axis.name: axis.values or (axis.low, axis.high) for axis in axes}
        values |= {name: (value,) for name, value in fixed.items()}
        name, what = conflict(values, train)
        if what:
            raise self.error("fixed" if name in fixed else design, name, what)


def described(grid: Grid) -> Iterator[str]:
    """What varies, in words: "depth 5 … 50 (4 values)"."""
    for axis in grid.axes:
        if axis.values:
            if len(axis.values) > 4 and not any(isinstance(value, str) for value in axis.values):
                yield f"{axis.name} {axis.values[0]} … {axis.values[-1]} ({len(axis.values)} values)"
            else:
                yield f"{axis.name} {', '.join(map(str, axis.values))}"
        else:
            yield f"{axis.name} {axis.low:g} … {axis.high:g}"
