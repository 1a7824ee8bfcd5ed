"""The answer of an experiment as one HTML page, and as the output of a notebook's cell: no scripts, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unvanish.charts import draw
from unvanish.report import frame
from unvanish.report.formats import writer
from unvanish.report.html_layers import disclosed, scrolling
from unvanish.report.lab_text import SHOWN, cell, check_line, header, settings, shown
from unvanish.words.markup import Child, Html, h, prose

if TYPE_CHECKING:
    from unvanish.lab.outcome import Column, Outcome

LONG = 24
"""Characters beyond which a cell takes a line of its own on a narrow page."""


@writer("html", suffix=".html", of="lab", media="text/html; charset=utf-8")
def write(outcome: Outcome) -> str:
    """One self-contained page: the sentence, the pictures, the table, the checks, the notes."""
    title = outcome.title or outcome.experiment or "outcome"
    return frame.page(title, h("header", h("h1", title)), h("main", _parts(outcome, "lab")))


def notebook_html(outcome: Outcome) -> str:
    """The same, as the output of a notebook's cell."""
    name = frame.fresh_name()
    return frame.cell(outcome.title or "Outcome", _parts(outcome, name), name=name)


def _parts(outcome: Outcome, prefix: str) -> list[Child]:
    said = h("div", h("p", prose(outcome.sentence)), class_="verdict")
    parts: list[Child] = [said, [_figure(outcome, place, f"{prefix}{place}") for place in range(len(outcome.pictures))]]
    if outcome.rows:
        table = _table(outcome)
        few = len(outcome.rows) <= SHOWN
        parts.append([h("h2", "Table"), table] if few else disclosed(f"Table of {len(outcome.rows):,} rows", table))
    if said := settings(outcome):
        parts.append(h("p", f"Settings: {', '.join(said)}"))
    parts.append(_listed("Checks", [check_line(check) for check in outcome.checks]))
    parts.append(_listed("Notes", outcome.notes))
    return parts


def _figure(outcome: Outcome, place: int, prefix: str) -> Html:
    drawing = outcome.pictures[place]
    # the charts escape what they show by themselves
    drawn = h("div", Html(outcome.chart(place).svg(prefix=prefix)), class_="wide" if drawing.narrow_tables else None)
    if drawing.narrow_tables:
        narrow = draw(drawing.name, drawing.narrow_tables, title=drawing.title, description=drawing.description)
        drawn = [drawn, h("div", Html(narrow.svg(prefix=f"{prefix}n")), class_="narrow")]
    return h("figure", h("div", drawn), h("figcaption", prose(drawing.description)))


def _table(outcome: Outcome) -> Html:
    columns = shown(outcome)
    kinds = [_kind([row.get(column.name) for row in outcome.rows]) for column in columns]
    heads = [
        h("th", header(column), scope="col", class_=kind, title=column.help or None)
        for column, kind in zip(columns, kinds, strict=True)
    ]
    rows = [h("tr", [_td(c, row, kind) for c, kind in zip(columns, kinds, strict=True)]) for row in outcome.rows]
    return scrolling("Table of results", h("thead", h("tr", heads)), h("tbody", rows), cards=True)


def _kind(values: Sequence[Any]) -> str | None:
    """The class of a column: "n" of numbers, "long" of sentences, None of words."""
    words = [value for value in values if isinstance(value, str)]
    return "n" if not words else "long" if max(map(len, words)) > LONG else None


def _td(column: Column, row: dict[str, Any], kind: str | None) -> Html:
    said = cell(column, row)
    return h("td", prose(said) if kind == "n" else said, class_=kind, data_h=header(column))


def _listed(title: str, lines: Sequence[str]) -> Html | None:
    return h("section", h("h2", title), h("ul", [h("li", prose(line)) for line in lines])) if lines else None
