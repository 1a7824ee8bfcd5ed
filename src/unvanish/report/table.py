"""The table of the backward staircase: which columns find room on the page, and how its rows are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unvanish.records import LayerFlow
from unvanish.report.page import QUIET, Page, style_of
from unvanish.report.staircase import Fold, Scale, bar
from unvanish.words.numbers import amount, times

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2
TINY_BAR, SHORT_BAR, LONG_BAR = 6, 18, 40
"""Cells: less than a tiny bar shows nothing; a short one gives way to no other column; a longer one tells no more."""
ROOMY_NAME = 33
"""Cells that no name takes more than, even where shorter ones are alike: the bars need room, too."""
NARROW = 24
"""Cells that a signal and the longest verdict take beside the name, with the gaps between them."""
NOTHING = 0.002
"""Decades: a factor of less than half a percent does nothing."""
FACTORS = {
    "weights": "log10_weight_gain",
    "slopes": "log10_slope_gain",
    "norms": "log10_norm_gain",
    "joins": "log10_join_gain",
}
"""What a step back is the product of, and the fields that hold it."""


class Column(NamedTuple):
    """One column of a table: its header, width in cells, where it is aligned, and what it says of a layer or a fold."""

    header: str
    width: int
    right: bool
    cell: Callable[[LayerFlow], str]
    folded: Callable[[Fold], str] = lambda _: ""


def layout(page: Page, rows: Sequence[LayerFlow | Fold], scale: Scale | None) -> tuple[list[Column], list[Column], int]:
    """The columns of the staircase, those of a second table for factors without room, and the width of the bars."""
    columns = columns_of(page, rows)
    factors = [header for header in FACTORS if header in columns]
    shown = {"layer", "signal", "verdict"}

    def cost(headers: Iterable[str]) -> int:
        return sum(columns[header].width + GAP for header in headers)

    room = page.width + GAP - cost(shown)
    bars = min(SHORT_BAR + GAP, room) if scale is not None and room >= TINY_BAR + GAP else 0
    room -= bars
    for group in (["step back"], factors, ["called at"], ["kind"]):
        wanted = [header for header in group if header in columns]
        if cost(wanted) <= room and (wanted != factors or "step back" in shown):
            shown |= set(wanted)
            room -= cost(wanted)
    hidden = ["layer", "step back", *factors] if factors and "step back" in columns and not shown & set(factors) else []
    while cost(hidden) > page.width + GAP:
        hidden.pop()
    first = [column for header, column in columns.items() if header in shown]
    second = [columns[header] for header in hidden]
    return first, second, min(bars - GAP + room, LONG_BAR) if bars else 0


def columns_of(page: Page, rows: Sequence[LayerFlow | Fold]) -> dict[str, Column]:
    """Every column there is something to say in, in the order of the page."""
    layers = [row for row in rows if isinstance(row, LayerFlow)]
    folds = [row for row in rows if isinstance(row, Fold)]
    roomy = page.width >= 100
    kinds = {layer.kind for layer in layers}.union(layer.kind for fold in folds for layer in fold.layers)

    def text(header: str, field: str, most: int, folded: Callable[[Fold], str] = lambda _: "") -> Column:
        def cell(layer: LayerFlow) -> str:
            value: str = getattr(layer, field)
            return value.replace("_", " ") if field == "verdict" else value

        cells = [*map(cell, layers), *map(folded, folds)]
        if header == "layer":
            names = dict.fromkeys(page.clean(name) for name in cells)
            most = next((room for room in range(most, ROOMY_NAME, 4) if _distinct(page, names, room)), most)
            cells = [page.path(page.clean(name), most) for name in cells]
        return Column(header, page.widest(cells, len(header), most), False, cell, folded)

    def factor(header: str, say: Callable[[LayerFlow], str], field: str) -> list[Column]:
        if all(getattr(layer, field) in (None, 0.0) for layer in layers):
            return []
        return [Column(header, page.widest(map(say, layers), len(header), 9), True, say)]

    columns = [
        text(
            "layer",
            "name",
            28 if roomy else min(20, page.width - NARROW),
            lambda fold: f"⋮ {len(fold.layers):,} layers",
        ),
        *([text("kind", "kind", 18 if roomy else 12)] if len(kinds) > 1 else []),
        Column("signal", 9, True, _signal),
        *factor("step back", _step, "log10_gain"),
        *(column for header, field in FACTORS.items() for column in factor(header, _factor(field), field)),
        text("verdict", "verdict", 11, lambda fold: fold.verdict.replace("_", " ")),
    ]
    if any(layer.source for layer in layers):
        columns.append(text("called at", "source", 30 if roomy else 24))
    return {column.header: column for column in columns}


def _distinct(page: Page, names: Iterable[str], room: int) -> bool:
    """Whether names that had to be shortened can still be told apart."""
    written = [page.path(name, room) for name in names]
    return len(set(written)) == len(written)


def _signal(layer: LayerFlow) -> str:
    return _said(amount, layer.log10_signal)


def _step(layer: LayerFlow) -> str:
    """Nothing lies before the first layer, so that nothing is missing there."""
    return _said(times, layer.log10_gain) if layer.before or layer.log10_gain is not None else ""


def _factor(field: str) -> Callable[[LayerFlow], str]:
    """A factor of one is left out: most layers have only one or two factors that do anything."""

    def cell(layer: LayerFlow) -> str:
        gain: float | None = getattr(layer, field)
        return "" if not _step(layer) or (gain is not None and abs(gain) < NOTHING) else _said(times, gain)

    return cell


def _said(say: Callable[[float], str], value: float | None) -> str:
    return "–" if value is None else say(value)


def draw(
    page: Page, rows: Sequence[LayerFlow | Fold], columns: Sequence[Column], scale: Scale | None, room: int
) -> None:
    """A header and one line a row; the bars, where there is a scale, stand behind the signal."""
    from rich.text import Text

    gap = (" " * GAP, "")
    heads: list[tuple[str, str]] = []
    for column in columns:
        heads += [(_set(page, column.header, column), QUIET), gap]
        if scale is not None and column.header == "signal":
            heads += [(" " * room, ""), gap]
    page.line(*heads)
    for row in rows:
        line = Text()
        style = style_of(row.verdict)
        for column in columns:
            content = column.folded(row) if isinstance(row, Fold) else page.clean(column.cell(row))
            telling = style if column.header == "verdict" else QUIET if column.header in ("kind", "called at") else ""
            line.append(_set(page, content, column), QUIET if isinstance(row, Fold) else telling).append(*gap)
            if scale is not None and column.header == "signal":
                line.append_text(_bar(page, row, scale, room, style)).append(*gap)
        page.line(line)


def _bar(page: Page, row: LayerFlow | Fold, scale: Scale, room: int, style: str) -> Text:
    from rich.text import Text

    if isinstance(row, Fold):
        span = next((s for s in (row.span, row.span.replace(" ", "")) if len(page.clean(s)) <= room), "")
        return Text(page.clean(span).ljust(room), QUIET)
    filled, empty = bar(row.log10_signal, scale, room)
    return Text.assemble((filled, style), (empty, QUIET))


def _set(page: Page, text: str, column: Column) -> str:
    """The text in exactly the width of its column. A source line keeps its end: the file and the line number."""
    from rich.cells import cell_len

    if column.header == "layer":
        text = page.path(text, column.width)
    text = page.short(text, column.width, keep_end=column.header == "called at")
    blank = " " * (column.width - cell_len(text))
    return blank + text if column.right else text + blank
