"""The pictures of a report in HTML: drawn as SVG, described in words, with their numbers in a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from unvanish.charts import find
from unvanish.records import LayerFlow, UnvanishError
from unvanish.report.html_layers import PICTURES, disclosed, folded, listing, table, told
from unvanish.report.staircase import Fold, bar, bar_scale, fold
from unvanish.report.through_time import shown
from unvanish.words.markup import Child, Html, h, prose, visible
from unvanish.words.numbers import amount

if TYPE_CHECKING:
    from unvanish.report import Report

WIDTHS = {"wide": 640, "narrow": 360}
"""Pixels."""
BAR = 40


def question(name: str) -> str:
    """The question a picture answers."""
    return find(name).question


class Drawing(NamedTuple):
    """What stands on the page for a picture, and why it could not be drawn, if so."""

    parts: Child
    refusal: str = ""


def drawing(report: Report, name: str, prefix: str) -> Drawing:
    """The picture with its caption and its numbers; where it cannot be drawn, the reason, and what can be said in text.

    It is drawn for wide and for narrow pages, of which the style sheet shows one. ``prefix`` keeps its ids apart from
    those of other pictures on the page.
    """
    try:
        charts = {size: report.chart(name, title="", width=width) for size, width in WIDTHS.items()}
        drawn = [h("div", Html(each.svg(f"{prefix}-{size}")), class_=size) for size, each in charts.items()]
    except UnvanishError as refused:
        reason = re.sub(r"^drawing [^:;]*: ", "", str(refused))
        instead = text_staircase(report.layers) if name == "staircase" else None
        return Drawing([h("p", f"Not drawn: {reason}"), instead], reason)
    caption = h("figcaption", prose(charts["wide"].description))
    rows = folded(report.layers)
    numbers = table(rows, told(report.layers, PICTURES[name]), f"The numbers of the picture: {question(name)}")
    summary = "The numbers of this picture" + (", folded" if len(rows) < len(report.layers) else "")
    return Drawing([h("figure", h("div", drawn), caption), disclosed(summary, numbers)])


def time_axis(report: Report) -> Child:
    """The error signal along the steps of sequences: a picture, or bars of characters, and a sentence for each."""
    told = shown(report.time, report.setting.dtype)
    said = [[h("dt", visible(name)), h("dd", prose(sentence))] for name, _, sentence in told]
    words = h("dl", said, class_="terms")
    try:
        charts = {size: report.chart("through_time", title="", width=width) for size, width in WIDTHS.items()}
        drawn = [h("div", Html(each.svg(f"uvtime-{size}")), class_=size) for size, each in charts.items()]
    except UnvanishError:
        lines = [bars for _, bars, _ in told if bars]
        return [listing(lines) if lines else None, words]
    return [h("figure", h("div", drawn)), words]


def text_staircase(layers: Sequence[LayerFlow]) -> Html:
    """The backward staircase in characters, for a page without pictures."""
    rows, scale = fold(layers), bar_scale(layers)
    if scale is None:
        return h("p", "No error signal was measured.")
    heads = [f"⋮ {len(row.layers):,} layers" if isinstance(row, Fold) else visible(row.name) for row in rows]
    width = min(max(map(len, heads)), 40)
    heads = [head if len(head) <= width else f"…{head[1 - width :]}" for head in heads]
    lines = [
        f"{head:<{width}}  "
        + ("" if isinstance(row, Fold) else f"{amount(row.log10_signal):>12}  {bar(row.log10_signal, scale, BAR)[0]}")
        for head, row in zip(heads, rows, strict=True)
    ]
    key = f"log scale, empty at 10^{scale.low:.0f}, full at 10^{scale.high:.0f}"
    return listing([key, *lines])
