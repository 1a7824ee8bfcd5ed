"""What an experiment returns: the sentence that matters, plain rows, pictures and checks."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from unvanish.lab.readable import readable
from unvanish.records import Record, UnvanishError, from_builtins, to_builtins
from unvanish.report import write_text

if TYPE_CHECKING:
    from unvanish.charts import Chart

SCHEMA = "unvanish.outcome/1"
NARROW = 360
"""Pixels of a picture on a telephone."""


class Column(Record, frozen=True):
    """One column of the table. A ``unit`` of "log10" marks logarithms: a reader is shown the number itself.

    ``sign`` names the column that holds the sign of such a number, +1, 0 or −1.
    """

    name: str
    unit: str = ""
    help: str = ""
    sign: str = ""


_width: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def drawn_at(width: float) -> Iterator[None]:
    """Pictures that are made inside ``with drawn_at(390): …`` are so many pixels wide."""
    token = _width.set(width)
    try:
        yield
    finally:
        _width.reset(token)


class Drawing(Record, frozen=True):
    """One picture: which of the registered ones, its title, what it shows in words, and its finished tables.

    ``narrow_tables``: the tables for a page as narrow as a telephone; empty where a width was asked for.
    ``data``: the numbers it shows as rows, for whoever reads a table rather than a drawing.
    """

    name: str
    title: str
    description: str
    tables: dict[str, list[dict[str, Any]]]
    data: tuple[dict[str, Any], ...] = ()
    narrow_tables: dict[str, list[dict[str, Any]]] = msgspec.field(default_factory=dict[str, list[dict[str, Any]]])

    @classmethod
    def of(cls, name: str, title: str, description: str, *numbers: Any, **more: Any) -> Drawing:
        """The picture ``name`` of plain numbers, which its own ``tables`` function turns into columns."""
        tables = importlib.import_module(f"unvanish.charts.{name}").tables
        rows = readable(name, tables, numbers, more)
        if (width := _width.get()) is not None:
            return cls(name, title, description, tables(*numbers, **{"width": width, **more}), tuple(rows))
        narrow = tables(*numbers, **{"width": NARROW, **more})
        return cls(name, title, description, tables(*numbers, **more), tuple(rows), narrow)


class Check(Record, frozen=True):
    """One statement that must hold: what, the number (or text) expected and the one found."""

    what: str
    expected: float | str | None
    found: float | str | None
    ok: bool

    @classmethod
    def close(cls, what: str, expected: float, found: float, relative: float = 1e-9) -> Check:
        """That two numbers agree to a relative tolerance."""
        return cls(what, expected, found, math.isclose(expected, found, rel_tol=relative))


class Outcome(Record, frozen=True, kw_only=True):
    """The result of one run. ``print(outcome)`` shows it; ``outcome.save("x.csv")`` keeps it.

    ``rows`` are dicts with the names of ``columns`` as keys. ``experiment`` and ``title`` are filled in when the
    experiment has run, ``settings`` too unless it shows a sweep's file and states what that held.
    """

    schema: str = SCHEMA
    experiment: str = ""
    title: str = ""
    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    sentence: str
    columns: tuple[Column, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    pictures: tuple[Drawing, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that ``to_json`` wrote; UnvanishError if the text is none."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnvanishError(f"reading an outcome: this is not valid JSON ({error})") from None
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:  # pyright: ignore[reportUnknownMemberType]
            raise UnvanishError(f"reading an outcome: expected a JSON object of schema {SCHEMA!r}")
        return from_builtins(_revive(data), cls)

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def to_json(self, indent: int | None = 1) -> str:
        """ASCII JSON, the same for the same outcome; non-finite numbers are "-inf", "inf" and "nan"."""
        separators = (",", ":") if indent is None else None
        return json.dumps(to_builtins(self), indent=indent, separators=separators, allow_nan=False)

    def to_csv(self) -> str:
        """The rows as comma-separated values under a header of column names; logarithms stay logarithms."""
        from unvanish.report.lab_files import comma_separated

        return comma_separated(self)

    def to_html(self) -> str:
        """One page without scripts: the sentence, the pictures as SVG, the table, the checks, the notes."""
        from unvanish.report.lab_page import write

        return write(self)

    def chart(self, place: int = 0) -> Chart:
        """One of the pictures, to be shown or saved; UnvanishError where there are fewer."""
        if not 0 <= place < len(self.pictures):
            raise UnvanishError(f"lab {self.experiment}: picture {place} was asked for; it has {len(self.pictures)}")
        from unvanish.charts import draw

        drawing = self.pictures[place]
        return draw(drawing.name, drawing.tables, title=drawing.title, description=drawing.description)

    def save(self, path: str | Path) -> None:
        """Write the outcome as .json, .csv, .html or .txt, or its first picture as .svg, .png or .pdf."""
        from unvanish.report.formats import named_by

        target = Path(path)
        write_text(target, named_by(target, "lab", "an outcome").write(self))

    def __str__(self) -> str:
        from unvanish.report.lab_text import render

        return render(self)

    # an interactive prompt shows the repr, and a page of field values would help nobody there
    __repr__ = __str__

    def _repr_html_(self) -> str:
        from unvanish.report.lab_page import notebook_html

        return notebook_html(self)


def _revive(data: Any) -> Any:
    """Numbers that were written as words are numbers again."""
    if isinstance(data, dict):
        return {key: _revive(value) for key, value in cast("dict[str, Any]", data).items()}
    if isinstance(data, list):
        return [_revive(value) for value in cast("list[Any]", data)]
    return float(data) if data in ("inf", "-inf", "nan") else data
