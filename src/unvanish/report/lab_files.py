"""The answer of an experiment for programs and as a picture."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from unvanish.report.formats import writer
from unvanish.words.markup import visible

if TYPE_CHECKING:
    from unvanish.lab.outcome import Outcome


@writer("json", suffix=".json", of="lab", media="application/json")
def json(outcome: Outcome) -> str:
    """Everything that came out, for programs; logarithms stay logarithms."""
    return outcome.to_json()


@writer("csv", suffix=".csv", of="lab", media="text/csv; charset=utf-8")
def comma_separated(outcome: Outcome) -> str:
    """A header of column names and one line a row; lists are written with semicolons, nothing measured as nothing."""
    sheet = io.StringIO()
    lines = csv.writer(sheet, lineterminator="\n")
    lines.writerow([visible(column.name) for column in outcome.columns])
    for row in outcome.rows:
        lines.writerow([_plain(row.get(column.name)) for column in outcome.columns])
    return sheet.getvalue().removesuffix("\n")


@writer("svg", suffix=".svg", of="lab", media="image/svg+xml")
def svg(outcome: Outcome) -> str:
    """The first picture, as a drawing."""
    return outcome.chart().svg(theme="light")


@writer("png", suffix=".png", of="lab", media="image/png")
def png(outcome: Outcome) -> bytes:
    """The first picture, as pixels."""
    return outcome.chart().png()


@writer("pdf", suffix=".pdf", of="lab", media="application/pdf")
def pdf(outcome: Outcome) -> bytes:
    """The first picture, as a page to print."""
    return outcome.chart().pdf()


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return visible(";".join(str(each) for each in value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, str):
        return visible(value)
    return "" if value is None else repr(value) if isinstance(value, float) else value
