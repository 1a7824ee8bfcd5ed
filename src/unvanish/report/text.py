"""The text report: the verdict in a sentence, the backward staircase, why, and what was not decided.

Everything that comes from the user's program (names, paths, messages) passes through ``Page.clean``: it is shown, never
interpreted. rich is imported when a report is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unvanish.records import LayerFlow
from unvanish.report.index import index
from unvanish.report.page import ASCII, QUIET, STRONG, Page, laid_out, style_of
from unvanish.report.sentences import (
    beyond_headline,
    called,
    checked,
    deciding,
    evidence_fact,
    headline,
    looks_like,
    places,
    tally,
    words,
)
from unvanish.report.staircase import Fold, Scale, bar_scale, fold, marks
from unvanish.report.table import FACTORS, Column, draw, layout
from unvanish.report.through_time import TITLE, shown
from unvanish.words.numbers import amount
from unvanish.words.spans import span

if TYPE_CHECKING:
    from unvanish.report import Report

STAIRCASE = "The error signal on its way back, input side first"
MOST_PLACES = 12
"""Source lines: more of them are a listing of the program, not an answer."""


def render(report: Report, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """The report as lines of at most ``width`` cells (40 at least), without a newline at the end.

    ``color`` adds ANSI colours, which only repeat what the words say; without ``unicode`` the text is plain ASCII.
    """
    text = laid_out((_headline, _staircase, _time, _findings, _undecided, _closing), report, width, color, unicode)
    return text if unicode else text.translate(ASCII)


def backward_staircase(report: Report, width: int = 80) -> str:
    """The part of the text report with a line a layer, without its title; "" where there are no layers."""
    return laid_out((_steps,), report, width)


def _headline(report: Report, page: Page) -> None:
    word = page.clean(called(report))
    page.print((f"{word}: ", f"{STRONG} {style_of(looks_like(report))}"), (page.clean(headline(report)), STRONG))
    page.line()
    page.facts("Checked:", map(page.clean, checked(report)))


def _staircase(report: Report, page: Page) -> None:
    if report.layers:
        page.title(STAIRCASE)
        _steps(report, page)


def _steps(report: Report, page: Page) -> None:
    layers, setting = report.layers, report.setting
    if not layers:
        return
    page.print((page.clean(tally(layers)), QUIET))
    words = {layer.verdict for layer in layers}
    if len(words) == 1 and all(layer.log10_signal is None for layer in layers):
        return
    types = (setting.dtype, setting.autocast, *(layer.dtype for layer in layers))
    rows, scale = fold(layers), bar_scale(layers, tuple(dict.fromkeys(filter(None, types))))
    columns, hidden, room = layout(page, rows, scale)
    scale = scale if room else None
    _legend(page, scale, columns, rows)
    page.line()
    draw(page, rows, columns, scale, room)
    if report.healthy:
        return
    telling = [row for row in rows if isinstance(row, LayerFlow) and any(each.cell(row) for each in hidden[2:])]
    if telling:
        page.title("Which factors make up a step back")
        page.print((_factors(hidden, rows), QUIET))
        page.line()
        draw(page, telling, hidden, None, 0)
    if "called at" not in [column.header for column in columns]:
        _places(layers, page)


def _time(report: Report, page: Page) -> None:
    if report.time:
        page.title(TITLE)
    for name, bars, sentence in shown(report.time, report.setting.dtype, page.width - 2):
        page.line()
        page.print((page.clean(f"{name}: {sentence}"), ""))
        if bars:
            page.line((f"  {bars}", ""))


def _legend(page: Page, scale: Scale | None, columns: Sequence[Column], rows: Sequence[LayerFlow | Fold]) -> None:
    """What the bars and the factors mean."""
    if scale is not None:
        inside = ", ".join(f"{amount(place)} {name}" for name, place in marks(scale))
        bars = f"log scale, empty at 10^{scale.low:.0f}, full at 10^{scale.high:.0f}"
        page.print((bars + (f"; ┊ smallest normal number: {inside}" if inside else ""), QUIET), label="bars: ")
    if "step back" in [column.header for column in columns]:
        step = "what the signal is multiplied by on its way to the layer before"
        page.print((", ".join(filter(None, (step, _factors(columns, rows)))), QUIET), label="step back: ")


def _factors(columns: Sequence[Column], rows: Sequence[LayerFlow | Fold]) -> str:
    """What a step back is the product of, such as "weights × slopes"; "" where no factor is shown."""
    factors = [column for column in columns if column.header in FACTORS]
    layers = [row for row in rows if isinstance(row, LayerFlow) and row.log10_gain is not None]
    some_empty = any(not column.cell(layer) for column in factors for layer in layers)
    return " × ".join(column.header for column in factors) + (" (empty: ×1, or no layer before)" if some_empty else "")


def _places(layers: Sequence[LayerFlow], page: Page) -> None:
    """The source lines with the layers that are called there, neighbours folded."""
    order = [layer.name for layer in layers]
    called = {source: "" for layer in layers if (source := layer.source)}
    if not called:
        return
    page.title("Where the layers are called")
    page.line()
    for source in list(called)[:MOST_PLACES]:
        names = span((layer.name for layer in layers if layer.source == source), order)
        page.listed(page.clean(source), page.clean(names))
    if len(called) > MOST_PLACES:
        page.print((f"and {len(called) - MOST_PLACES} more lines", QUIET))


def _findings(report: Report, page: Page) -> None:
    if not report.findings:
        return
    page.title("Why")
    for finding in report.findings:
        page.line()
        word = words(finding.verdict)
        level = "" if finding.level == "error" else f" ({finding.level})"
        page.print(
            (f"{page.clean(finding.code)}  ", STRONG),
            (page.clean(word + level), f"{STRONG} {style_of(finding.verdict)}"),
        )
        message = beyond_headline(report, finding)
        if message:
            page.print((page.clean(message), ""), label="  ")
        facts = [
            ("layers", index(report).span(finding)),
            ("cause", finding.cause),
            *(("measured", evidence_fact(each)) for each in finding.evidence),
            ("called at", places(report, finding)),
            ("worth trying", ", ".join(finding.remedies)),
        ]
        before = ""
        for label, fact in facts:
            if fact:
                shown = "" if label == before else label
                page.print((page.clean(fact), ""), label=f"  {shown:<14}")
                before = label


def _undecided(report: Report, page: Page) -> None:
    for title, entries in (
        ("Not decided", [f"{what}: {why}" for what, why in report.undecided]),
        ("Notes", list(report.notes)),
    ):
        if entries:
            page.title(title)
            page.line()
        for entry in entries:
            page.print((page.clean(entry), ""), label="  - ")


def _closing(report: Report, page: Page) -> None:
    first = deciding(report)
    topic = page.clean(first.code if first else report.verdict)
    page.line()
    page.line(("More: ", QUIET), (f"unvanish explain {topic}", STRONG))
