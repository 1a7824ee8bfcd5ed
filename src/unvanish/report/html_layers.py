"""The layers as an HTML table: only columns that say something; a long network folded, with all layers on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from unvanish.records import LayerFlow
from unvanish.report.page import FAULT, FINE, style_of
from unvanish.report.sentences import words
from unvanish.report.staircase import Fold, fold
from unvanish.words.glossary import field_entry
from unvanish.words.markup import Html, h, prose
from unvanish.words.numbers import amount, number, percent, times

ABSENT = "–"
UNFOLDED = 60
"""Layers that a page shows without folding: a screen or two."""
PRINTED = 12
"""Columns that paper has room for; the style sheet knows the number too."""
TONES = {FAULT: "fault", FINE: "fine"}


class Column(NamedTuple):
    """One column: its header, the field it shows, what it says of a value, and whether that is a number."""

    header: str
    field: str
    say: Callable[[Any], str]
    numeric: bool = True

    def cell(self, layer: LayerFlow) -> str:
        """What the column says of a layer; a dash where nothing was measured."""
        value = getattr(layer, self.field, None)
        return ABSENT if value is None else self.say(value)

    @property
    def meaning(self) -> str:
        """The glossary's sentences about the field."""
        return field_entry("LayerFlow", self.field) or ""


def _flag(value: bool) -> str:
    return "yes" if value else "no"


def _count(value: int) -> str:
    return f"{value:,}"


NAME = Column("layer", "name", str, numeric=False)
SIGNAL = Column("error signal", "log10_signal", amount)
GRADIENT = Column("weight gradient", "log10_grad_norm", amount)
STEP_BACK = Column("step back", "log10_gain", times)
GAINS = (
    Column("by weights", "log10_weight_gain", times),
    Column("by slopes", "log10_slope_gain", times),
    Column("by norms", "log10_norm_gain", times),
    Column("by joins", "log10_join_gain", times),
)
CURVATURE = Column("curvature", "log10_curvature", amount)
WEIGHTS = Column("weights", "log10_weight_norm", amount)
VERDICT = Column("verdict", "verdict", words, numeric=False)
COLUMNS = (
    NAME, VERDICT, SIGNAL, GRADIENT, STEP_BACK, *GAINS,
    Column("transmission", "log10_transmission", times),
    CURVATURE,
    Column("reduction left", "newton_decrement", percent),
    Column("steps to learn", "steps_to_learn", number),
    Column("saturated", "saturated_fraction", percent),
    Column("dead", "dead_fraction", percent),
    Column("underflow", "underflow_fraction", percent),
    Column("update / weights", "update_to_weight_ratio", number),
    Column("noise", "noise", _flag, numeric=False),
    Column("parameters", "parameters", _count),
    Column("class", "kind", str, numeric=False),
    Column("called at", "source", str, numeric=False),
)  # fmt: skip

PICTURES: dict[str, tuple[Column, ...]] = {
    "staircase": (NAME, SIGNAL, GRADIENT, VERDICT),
    "plane": (NAME, CURVATURE, GRADIENT, WEIGHTS, VERDICT),
    "factors": (NAME, STEP_BACK, *GAINS),
}
"""The pictures of the page in their order, each with the columns of its table of numbers."""


def tone(verdict: str) -> str:
    """How a verdict is set: fault, fine or quiet. It only repeats what the word says."""
    return TONES.get(style_of(verdict), "quiet")


def layer_tables(layers: Sequence[LayerFlow]) -> list[Html]:
    """The table, what its columns mean, and for a folded one all layers behind a disclosure."""
    columns = told(layers, COLUMNS)
    rows = folded(layers)
    parts = [table(rows, columns, "Layers, input side first"), meanings(columns)]
    if len(rows) < len(layers):
        parts.insert(1, disclosed(f"All {len(layers):,} layers", table(layers, columns, "All layers")))
    return parts


def folded(layers: Sequence[LayerFlow]) -> Sequence[LayerFlow | Fold]:
    """The rows of a table: every layer, or for a long network the ends, the extremes and the changes."""
    return fold(layers) if len(layers) > UNFOLDED else layers


def told(layers: Sequence[LayerFlow], columns: Iterable[Column]) -> list[Column]:
    """The columns with something to say: a field that no layer has, or that is ×1.0 or 0% for all, is left out.

    So is the class, where all are of one.
    """
    silent = {ABSENT, "", "×1.0", "0%", "no"}
    telling = [column for column in columns if not silent.issuperset(column.cell(layer) for layer in layers)]
    alike = len({layer.kind for layer in layers}) == 1  # what the line above the table says of them
    return [column for column in telling if not (alike and column.field == "kind")]


def table(rows: Iterable[LayerFlow | Fold], columns: Sequence[Column], caption: str) -> Html:
    """A table of layers and folds that scrolls by itself, with its header in sight."""
    heads = [h("th", each.header, scope="col", class_=each.numeric and "n", title=each.meaning) for each in columns]
    rows = list(rows)
    cards = len(rows) <= UNFOLDED
    body = [_run(row, columns) if isinstance(row, Fold) else _row(row, columns, cards) for row in rows]
    parts = (h("caption", caption), h("thead", h("tr", heads)), h("tbody", body))
    return scrolling(caption, *parts, broad=len(columns) > PRINTED, cards=cards)


def scrolling(label: str, *parts: Html, broad: bool = False, cards: bool = False) -> Html:
    """A table in a box of its own, which the keyboard can scroll; of a broad one paper holds the first columns only.

    ``cards``: on a narrow page a row is a block of its own, each cell behind its ``data-h``, so that nothing is cut.
    """
    kind = f"scroll{' broad' if broad else ''}{' cards' if cards else ''}"
    return h("div", h("table", parts), class_=kind, role="group", aria_label=label, tabindex=0)


def disclosed(summary: str, *parts: Html) -> Html:
    """Something shown on demand."""
    return h("details", h("summary", summary), parts)


def listing(lines: Iterable[str]) -> Html:
    """Lines set as they are, in a box that the keyboard can scroll."""
    return h("pre", "\n".join(lines), tabindex=0)


def meanings(columns: Iterable[Column]) -> Html:
    """What the columns mean, in the glossary's words."""
    known = [column for column in columns if column.meaning]
    entries = [[h("dt", column.header), h("dd", column.meaning)] for column in known]
    return disclosed("What the columns mean", h("dl", entries, class_="terms"))


def _row(layer: LayerFlow, columns: Sequence[Column], cards: bool) -> Html:
    return h("tr", [_cell(layer, column, column.header if cards else None) for column in columns])


def _cell(layer: LayerFlow, column: Column, head: str | None) -> Html:
    said = column.cell(layer)
    if column is NAME:
        return h("th", h("bdi", said), scope="row")
    if column is VERDICT:
        return h("td", h("span", said, class_=f"word {tone(layer.verdict)}"), data_h=head)
    kind = "n" if column.numeric else "path" if column.field == "source" else None
    return h("td", prose(said) if column.numeric else said, class_=kind, data_h=head)


def _run(run: Fold, columns: Sequence[Column]) -> Html:
    """One row for neighbours that are not shown: how many, and the range of their signals."""
    known = [each.log10_signal for each in run.layers if each.log10_signal is not None]
    signals = [signal for signal in known if not math.isnan(signal)]
    span = f"{amount(min(signals))} … {amount(max(signals))}" if signals else ""
    said = {NAME: f"⋮ {len(run.layers):,} layers", VERDICT: words(run.verdict), SIGNAL: span}
    cells = [h("td", prose(said.get(column, "")), class_=column.numeric and "n") for column in columns]
    return h("tr", cells, class_="fold")
