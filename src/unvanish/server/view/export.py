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
from unvanish.server.view.compared import Pair, gap, told
from unvanish.server.view.folder import reading
from unvanish.server.view.history import History
from unvanish.server.view.over_steps import SEEN, SHARES, lines, relative, series, speeds
from unvanish.watching.reporting import report_of
from unvanish.watching.run_file import Reader
from unvanish.watching.sample import FIELDS, SERIES
from unvanish.words.markup import Child, Html, h, prose, visible

WIDTHS = {"wide": 760, "narrow": 360}
"""Pixels of a picture on a wide page and on a telephone."""
NEXT = "WHERE step IN (SELECT step FROM samples WHERE step > ? ORDER BY step LIMIT 256)"


def page(file: Reader, history: History, seen: str, at: int | None, pair: Pair | None = None) -> str:
    """The verdict, the pictures, the findings and every number of one step of a run; and where another run parts."""
    report = report_of(file, at)
    run = answers.about(file)
    step, last, values = answers.sample(file, at)
    said = h("p", prose(answers.sentence(report)), role="status")
    pictures = [list(_pictures(history, report, seen, step, last, width)) for width in WIDTHS.values()]
    figures = [_figure(str(place), *both) for place, both in enumerate(zip(*pictures, strict=True))]
    others = [list(_other_maps(history, seen, width)) for width in WIDTHS.values()]
    maps = [_figure(f"map{place}", *both) for place, both in enumerate(zip(*others, strict=True))]
    when = [h("li", prose(f"{each['code']} {each['text']} ({_span(each)})")) for each in answers.findings(file)]
    now = [[h("dt", each["name"]), h("dd", prose(each["value"]))] for each in values]
    return frame.page(
        f"Run {file.path.name}",
        h("header", h("h1", "Run ", h("bdi", file.path.name)), h("p", answers.status(run))),
        h(
            "main",
            h("div", said, class_=f"verdict {answers.tone(report)}"),
            h("dl", now, class_="facts") if now else None,
            figures,
            disclosed("The same map of the other quantities", *maps) if maps else None,
            _against(pair, seen),
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


def _against(pair: Pair | None, seen: str) -> Child:
    """Where another run parts, both verdicts, and the pictures."""
    if pair is None:
        return None
    drawn: list[list[Drawing]] = []
    for width in WIDTHS.values():
        with drawn_at(width):
            drawn.append([*pair.staircases(), *pair.series(), *_gap(pair, seen)])
    sides = [[h("dt", name), h("dd", prose(said))] for name, said in zip(pair.names, pair.verdicts, strict=True)]
    return [
        h("h2", "Against ", h("bdi", pair.found.other)),
        h("p", h("strong", prose(pair.found.sentence))),
        h("dl", sides, class_="terms"),
        h("ul", [h("li", prose(note)) for note in pair.found.notes]),
        [_figure(f"pair{place}", *both) for place, both in enumerate(zip(*drawn, strict=True))],
    ]


def _pictures(
    history: History, report: Report, seen: str, step: int, last: int, width: int
) -> Iterator[Drawing]:  # fmt: skip
    with drawn_at(width):
        found = [answers.staircase(report, step, last), _map(history, seen), speeds(history), *series(history)]
    yield from (each for each in found if each is not None)


def _map(history: History, seen: str) -> Drawing | None:
    """The map of steps and layers as the picture "heat", of which a cell is the median of its numbers."""
    low, high = relative(history, seen)
    middle = np.where(low == high, low, 0.5 * (low + high))
    names = [visible(history.layout.names[at]) for at in history.layout.order]
    return _drawn(history, middle, names, "Every layer over the steps", SEEN[seen], share=seen in SHARES)


def _other_maps(history: History, seen: str, width: int) -> Iterator[Drawing]:
    """The maps of what was not chosen; their numbers are in the file as CSV."""
    with drawn_at(width):
        found = [_map(history, each) for each in SEEN if each != seen]
    yield from (each.replace(title=each.description.rstrip("."), data=()) for each in found if each is not None)


def _gap(pair: Pair, seen: str) -> Iterator[Drawing]:
    """The map of the first run less the second."""
    found = gap(*pair.histories, seen)
    if found is not None:
        drawn = _drawn(pair.histories[0], *found, "One run over the other", told(seen, pair.names), seen in SHARES)
        yield from [drawn] if drawn is not None else []


def _drawn(
    history: History, values: Any, names: list[str], title: str, words: str, share: bool
) -> Drawing | None:  # fmt: skip
    """A map of layer × stretch; layers of which nothing was measured are left out, None where that leaves none."""
    there = [at for at in range(len(values)) if not np.isnan(values[at]).all()]
    if not there:
        return None
    middle = np.full((len(history.first), len(there)), np.nan)
    middle[history.places] = values[there].T
    steps, lines_ = lines(history, middle, middle)
    names = [names[at] for at in there]
    return Drawing.of("heat", title, f"The {words}.", steps, names, lines_, share=share)


def _figure(place: str, wide: Drawing, narrow: Drawing) -> Html:
    drawn = [
        h("div", Html(draw(each.name, each.tables, description=each.description).svg(f"uv{place}{size}")), class_=size)
        for size, each in zip(WIDTHS, (wide, narrow), strict=True)
    ]
    caption = h("figcaption", prose(wide.description))
    numbers = disclosed("Numbers", _table(wide)) if wide.data else None
    return h("section", h("h2", wide.title), h("figure", h("div", drawn), caption), numbers)


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
