"""The page of a run as one HTML file that loads nothing and runs no script, and its numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unvanish.charts import draw
from unvanish.lab.outcome import Drawing, drawn_at
from unvanish.report import Report, frame
from unvanish.report.html_findings import finding_article
from unvanish.report.html_layers import disclosed, layer_tables, scrolling
from unvanish.server.view import answers
from unvanish.server.view.folder import reading
from unvanish.server.view.history import History
from unvanish.server.view.over_steps import SEEN, SHARES, lines, relative, series, speeds
from unvanish.watching.against import Against
from unvanish.watching.reporting import report_of
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, SERIES
from unvanish.words.markup import Child, Html, h, prose, visible

WIDTHS = {"wide": 760, "narrow": 360}
"""Pixels of a picture on a wide page and on a telephone."""
NEXT = "WHERE step IN (SELECT step FROM samples WHERE step > ? ORDER BY step LIMIT 256)"


def page(file: Reader, history: History, seen: str, at: int | None, found: Against | None = None) -> str:
    """The verdict, the pictures, the findings and every number of one step of a run; and where another run parts."""
    report = report_of(file, at)
    run = answers.about(file)
    step, last, values = answers.sample(file, at)
    said = h("p", prose(answers.sentence(report)), role="status")
    pictures = [list(_pictures(history, report, seen, step, last, width)) for width in WIDTHS.values()]
    figures = [_figure(place, *both) for place, both in enumerate(zip(*pictures, strict=True))]
    when = [h("li", prose(f"{each['code']} {each['text']} ({_span(each)})")) for each in answers.findings(file)]
    now = [[h("dt", each["name"]), h("dd", prose(each["value"]))] for each in values]
    return frame.page(
        f"Run {file.path.name}",
        h("header", h("h1", "Run ", h("bdi", file.path.name)), h("p", answers.status(run))),
        h(
            "main",
            h("div", said, class_=f"verdict {answers.tone(report)}"),
            h("dl", now, class_="facts") if now else None,
            _against(found),
            figures,
            [h("h2", "What was found, and when"), h("ul", when)] if when else None,
            [h("h2", "Why?"), [finding_article(report, each) for each in report.findings]] if report.findings else None,
            h("h2", f"Every layer at step {step:,}"),
            layer_tables(report.layers) if report.layers else h("p", "No layer was measured."),
            [h("h2", "Notes"), h("ul", [h("li", prose(note)) for note in report.notes])] if report.notes else None,
        ),
    )


def _span(row: dict[str, Any]) -> str:
    began, until = row["from"], row["until"]
    over = " on, and still" if until is None else f" to {until:,}" if until > began else ""
    return f"{row['level']}, step {began:,}{over}"


def _against(found: Against | None) -> Child:
    if found is None:
        return None
    notes = [h("li", prose(note)) for note in found.notes]
    return h("section", h("h2", "Against ", h("bdi", found.other)), h("p", prose(found.sentence)), h("ul", notes))


def _pictures(
    history: History, report: Report, seen: str, step: int, last: int, width: int
) -> Iterator[Drawing]:  # fmt: skip
    with drawn_at(width):
        found = [answers.staircase(report, step, last), _map(history, seen), speeds(history), *series(history)]
    yield from (each for each in found if each is not None)


def _map(history: History, seen: str) -> Drawing | None:
    """The map of steps and layers as the picture "heat", of which a cell is the median of its numbers."""
    seen = seen if seen not in SHARES else "signal"  # the picture shows factors, around ×1
    low, high = relative(history, seen)
    there = [at for at in range(len(low)) if not np.isnan(high[at]).all()]
    if not there:
        return None
    middle = np.full((len(history.first), len(there)), np.nan)
    middle[history.places] = np.where(low == high, low, 0.5 * (low + high))[there].T
    steps, values = lines(history, middle, middle)
    names = [visible(history.layout.names[history.layout.order[at]]) for at in there]
    return Drawing.of("heat", "Every layer over the steps", f"The {SEEN[seen]}.", steps, names, values)


def _figure(place: int, wide: Drawing, narrow: Drawing) -> Html:
    drawn = [
        h("div", Html(draw(each.name, each.tables, description=each.description).svg(f"uv{place}{size}")), class_=size)
        for size, each in zip(WIDTHS, (wide, narrow), strict=True)
    ]
    caption = h("figcaption", prose(wide.description))
    return h("section", h("h2", wide.title), h("figure", h("div", drawn), caption), disclosed("Numbers", _table(wide)))


def _table(drawing: Drawing) -> Html:
    columns = list(drawing.data[0]) if drawing.data else []
    head = h("tr", [h("th", each, scope="col") for each in columns])
    rows = [h("tr", [h("td", _cell(row.get(each)), class_="n") for each in columns]) for row in drawing.data]
    return scrolling(f"Numbers: {drawing.title}", h("thead", head), h("tbody", rows))


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def table(path: Path) -> Iterator[str]:
    """Every number of the run as CSV: a row a sampled step and layer, the numbers of the step with layer ""."""
    yield _line(["step", "last", "layer", *SERIES, *FIELDS])
    at = -1
    while True:
        with reading(path) as file:  # a piece at a time: each is a connection of its own, in whatever thread
            names = [each.name for each in file.columns()]
            rows = list(file.samples(NEXT, (at,)))
        if not rows:
            return
        at = rows[-1][0]
        yield "".join(_lines(rows, names))


def _lines(rows: list[Any], names: list[str]) -> Iterator[str]:
    for first, last, whole, _, high in rows:
        yield _line([first, last, "", *map(_csv, whole), *[""] * len(FIELDS)])
        for place, name in enumerate(names):
            mine = high[place * len(FIELDS) : (place + 1) * len(FIELDS)]
            if mine and not all(map(math.isnan, mine)):
                yield _line([first, last, safe(name), *[""] * len(SERIES), *map(_csv, mine)])


def safe(name: str) -> str:
    """A name that a spreadsheet takes for text, not for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name


def _csv(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
