"""How an outcome is written: as text for a terminal, as comma-separated values, as a page without scripts."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterator
from html import escape
from typing import Any

from unvanish.lab.outcome import Check, Column, Outcome

SHOWN = 24
"""Rows of a table in a terminal; the rows between the first and the last half are left out, and that is said."""
LISTED = 12
"""The numbers of a setting that is a list, as far as a line of settings shows them."""
SENTENCE = 60
"""Characters from which a text is too long for a column: such rows are written one below the other."""
MANY_CHECKS = 12
"""Of more checks than these only those that fail are listed."""
STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)}
th:first-child,td:first-child,td.text{text-align:left}
.scroll{overflow-x:auto}figure{margin:1.5rem 0}svg{max-width:100%;height:auto}
@media print{details{display:block}}
"""


def text(outcome: Outcome, width: int | None = None) -> str:
    """The sentence, the settings, the table (long ones folded), the checks and the notes as lines of plain text.

    ``width``: the columns of the terminal, at which sentences are wrapped; None wraps nothing.
    """
    parts = [_wrapped(outcome.sentence, width)]
    if said := _settings(outcome):
        parts.append(_wrapped("Settings: " + "  ".join(said), width))
    if outcome.rows:
        tall = any(isinstance(value, str) and len(value) > SENTENCE for row in outcome.rows for value in row.values())
        parts.append("\n".join(_records(outcome, width) if tall else _table(outcome)))
    if outcome.checks:
        failed = [check for check in outcome.checks if not check.ok]
        many = len(outcome.checks) > MANY_CHECKS
        hold = len(outcome.checks) - len(failed)
        counted = f"Checks: {hold} of {len(outcome.checks)} hold{'.' if not failed else ', these do not:'}"
        listed = failed if many else outcome.checks
        parts.append("\n".join([counted if many else "Checks:", *(_wrapped(_check(c), width, "  ") for c in listed)]))
    if outcome.notes:
        parts.append("\n".join(["Notes:", *(_wrapped(note, width, "  ") for note in outcome.notes)]))
    return "\n\n".join(parts)


def _wrapped(line: str, width: int | None, indent: str = "", more: str = "") -> str:
    """``line`` behind ``indent``, its further lines behind that and ``more``."""
    if width is None:
        return indent + line
    return textwrap.fill(
        line, width, initial_indent=indent, subsequent_indent=indent + (more or "  " * bool(indent)),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _settings(outcome: Outcome) -> list[str]:
    """Each setting with its value, but for those that are empty."""
    return [f"{name} {spell(value)}" for name, value in outcome.settings.items() if value not in ("", None)]


def spell(value: Any) -> str:
    """A setting as it is written on a command line; long lists are cut short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        shown = ",".join(spell(each) for each in value[:LISTED])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return shown + ",…" if len(value) > LISTED else shown  # pyright: ignore[reportUnknownArgumentType]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def cell(column: Column, row: dict[str, Any]) -> str:
    """What a reader is shown of one value: a logarithm as the number it stands for, "–" where nothing was measured."""
    value = row.get(column.name)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if column.unit == "log10":
            negative = column.sign and (row.get(column.sign) or 0) < 0
            return ("-" if negative else "") + decimal(float(value))
        return number(value)
    return spell(value)


def number(value: float) -> str:
    """A number with six digits; a whole one in full as far as it is short."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.6g}"


def decimal(log10: float) -> str:
    """The number a logarithm stands for, with four digits, whatever its size: "2.079e-27", "3.316e-1371"."""
    if not math.isfinite(log10):
        return {-math.inf: "0", math.inf: "inf"}.get(log10, "nan")
    if -3 <= log10 < 4:
        return f"{10**log10:.4g}"
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.3f}"
    if mantissa == "10.000":
        mantissa, exponent = "1.000", exponent + 1
    return f"{mantissa}e{exponent:+03d}"


def header(column: Column) -> str:
    """The name as a reader sees it: without the prefix that says that a logarithm is kept, with its unit."""
    name = column.name.removeprefix("log10_").replace("_", " ")
    return f"{name} ({column.unit})" if column.unit and column.unit != "log10" else name


def csv_text(outcome: Outcome) -> str:
    """A header of column names and one line a row; lists are written with semicolons, nothing measured as nothing."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([column.name for column in outcome.columns])
    for row in outcome.rows:
        writer.writerow([_plain(row.get(column.name)) for column in outcome.columns])
    return sheet.getvalue().removesuffix("\n")


def html_page(outcome: Outcome) -> str:
    """A whole page, readable without scripts and without a network."""
    title = escape(outcome.title or outcome.experiment or "outcome")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = f"<h1>{title}</h1>\n{html_fragment(outcome)}"
    style = STYLE + (_chart_css() if outcome.pictures else "")
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{style}</style></head>\n<body>\n{body}\n</body></html>'


def html_fragment(outcome: Outcome) -> str:
    """The sentence, pictures, table, checks and notes, to stand inside a page."""
    parts = [f"<p><strong>{escape(outcome.sentence)}</strong></p>"]
    for place, drawing in enumerate(outcome.pictures):
        svg = outcome.chart(place).svg(prefix=f"lab{place}")
        parts.append(f"<figure>{svg}<figcaption>{escape(drawing.description)}</figcaption></figure>")
    if outcome.rows:
        heads = "".join(
            f'<th scope="col" title="{escape(c.help, quote=True)}">{escape(header(c))}</th>' for c in _shown(outcome)
        )
        lines = "\n".join(f"<tr>{''.join(_td(c, row) for c in _shown(outcome))}</tr>" for row in outcome.rows)
        table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'
        parts.append(
            f"<details{' open' if len(outcome.rows) <= SHOWN else ''}><summary>Table</summary>{table}</details>"
        )
    if said := _settings(outcome):
        parts.append(f"<p>Settings: {escape(', '.join(said))}</p>")
    for name, lines in (("Checks", [_check(check) for check in outcome.checks]), ("Notes", list(outcome.notes))):
        if lines:
            parts.append(f"<h2>{name}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")
    return "\n".join(parts)


def _chart_css() -> str:
    from unvanish.charts.theme import css

    return css()


def _td(column: Column, row: dict[str, Any]) -> str:
    words = ' class="text"' if isinstance(row.get(column.name), str) else ""
    return f"<td{words}>{escape(cell(column, row))}</td>"


def _shown(outcome: Outcome) -> list[Column]:
    """The columns a reader sees: a sign stands before its number and needs no column of its own."""
    signs = {column.sign for column in outcome.columns}
    return [column for column in outcome.columns if column.name not in signs]


def _table(outcome: Outcome) -> list[str]:
    columns = _shown(outcome)
    rows = list(outcome.rows)
    folded = len(rows) > SHOWN
    kept = rows[: SHOWN // 2] + rows[-SHOWN // 2 :] if folded else rows
    grid = [[header(column) for column in columns], *([cell(column, row) for column in columns] for row in kept)]
    if folded:
        gap = f"⋮ {len(rows) - SHOWN:,} more"
        grid.insert(1 + SHOWN // 2, [gap, *[""] * (len(columns) - 1)])
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    left = [all(isinstance(row.get(column.name), (str, list, tuple)) for row in kept) for column in columns]
    lines: list[str] = []
    for line in grid:
        placed = zip(line, widths, left, strict=True)
        cells = [said.ljust(width) if words else said.rjust(width) for said, width, words in placed]
        lines.append("  ".join(cells).rstrip())
    return lines


def _records(outcome: Outcome, width: int | None) -> Iterator[str]:
    """Rows that hold sentences: the short columns on one line, each sentence named and indented below it."""
    columns = _shown(outcome)
    long = [
        column
        for column in columns
        if any(isinstance(v := row.get(column.name), str) and len(v) > SENTENCE for row in outcome.rows)
    ]
    name = max(len(header(column)) for column in long) + 1
    for place, row in enumerate(outcome.rows):
        yield "\n" * (place > 0) + "  ".join(cell(column, row) for column in columns if column not in long)
        for column in long:
            lead = f"{header(column)}:".ljust(name)
            yield _wrapped(f"{lead} {cell(column, row)}", width, "  ", " " * (name + 1))


def _check(check: Check) -> str:
    expected, found = (number(v) if isinstance(v, (int, float)) else v for v in (check.expected, check.found))
    wanted = "" if expected is None else f", expected {expected}"
    return f"{'ok' if check.ok else 'FAILED'}: {check.what}: {found}{wanted}"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ";".join(str(each) for each in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return "" if value is None else repr(value) if isinstance(value, float) else value
