"""The answer of an experiment as text: the sentence, the settings, the table, the checks and the notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unvanish.report.formats import writer
from unvanish.report.grid import lines
from unvanish.report.page import NARROWEST
from unvanish.words.markup import visible
from unvanish.words.numbers import exact, exactly, spell

if TYPE_CHECKING:
    from unvanish.lab.outcome import Check, Column, Outcome

SHOWN = 24
"""Rows of a table in a terminal; the rows between the first and the last half are left out, and that is said."""
SENTENCE = 60
"""Characters from which a text is too long for a column: such rows are written one below the other."""
MANY_CHECKS = 12
"""Of more checks than these only those that fail are listed."""


@writer("text", suffix=".txt", of="lab")
def write(outcome: Outcome) -> str:
    """The sentence that matters, the table and the checks, for people."""
    return render(outcome)


def render(outcome: Outcome, width: int | None = None) -> str:
    """The sentence, the settings, the table (long ones folded), the checks and the notes as lines of plain text.

    ``width``: the columns of the terminal, into which everything is fitted (40 at least); None wraps nothing.
    """
    width = width and max(width, NARROWEST)
    parts = [_wrapped(visible(outcome.sentence), width)]
    if said := settings(outcome):
        parts.append(_wrapped("Settings: " + "  ".join(said), width))
    if outcome.rows:
        tall = any(isinstance(value, str) and len(value) > SENTENCE for row in outcome.rows for value in row.values())
        parts.append("\n".join(_records(outcome, width) if tall else _table(outcome, width)))
    if outcome.checks:
        failed = [check for check in outcome.checks if not check.ok]
        many = len(outcome.checks) > MANY_CHECKS
        hold = len(outcome.checks) - len(failed)
        counted = f"Checks: {hold} of {len(outcome.checks)} hold{'.' if not failed else ', these do not:'}"
        listed = failed if many else outcome.checks
        parts.append(
            "\n".join([counted if many else "Checks:", *(_wrapped(check_line(c), width, "  ") for c in listed)])
        )
    if outcome.notes:
        parts.append("\n".join(["Notes:", *(_wrapped(visible(note), width, "  ") for note in outcome.notes)]))
    return "\n\n".join(parts)


def _wrapped(line: str, width: int | None, indent: str = "", more: str = "") -> str:
    """``line`` behind ``indent``, its further lines behind that and ``more``."""
    if width is None:
        return indent + line
    return textwrap.fill(
        line, width, initial_indent=indent, subsequent_indent=indent + (more or "  " * bool(indent)),
        break_on_hyphens=False,
    )  # fmt: skip


def settings(outcome: Outcome) -> list[str]:
    """Each setting with its value, but for those that are empty."""
    return [f"{name} {visible(spell(value))}" for name, value in outcome.settings.items() if value not in ("", None)]


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
            return ("-" if negative else "") + exactly(float(value))
        return exact(value)
    return visible(spell(value))


def header(column: Column) -> str:
    """The name as a reader sees it: without the prefix that says that a logarithm is kept, with its unit."""
    name = column.name.removeprefix("log10_").replace("_", " ")
    return visible(f"{name} ({column.unit})" if column.unit and column.unit != "log10" else name)


def shown(outcome: Outcome) -> list[Column]:
    """The columns a reader sees: a sign stands before its number and needs no column of its own."""
    signs = {column.sign for column in outcome.columns}
    return [column for column in outcome.columns if column.name not in signs]


def _table(outcome: Outcome, width: int | None) -> list[str]:
    columns = shown(outcome)
    rows = list(outcome.rows)
    folded = len(rows) > SHOWN
    kept = rows[: SHOWN // 2] + rows[-SHOWN // 2 :] if folded else rows
    grid = [[header(column) for column in columns], *([cell(column, row) for column in columns] for row in kept)]
    if folded:
        gap = f"⋮ {len(rows) - SHOWN:,} more"
        grid.insert(1 + SHOWN // 2, [gap, *[""] * (len(columns) - 1)])
    left = [all(isinstance(row.get(column.name), (str, list, tuple)) for row in kept) for column in columns]
    return lines(grid, left, width)


def _records(outcome: Outcome, width: int | None) -> Iterator[str]:
    """Rows that hold sentences: the short columns on one line, each sentence named and indented below it."""
    columns = shown(outcome)
    long = [
        column
        for column in columns
        if any(isinstance(v := row.get(column.name), str) and len(v) > SENTENCE for row in outcome.rows)
    ]
    name = max(len(header(column)) for column in long) + 1
    for place, row in enumerate(outcome.rows):
        short = "  ".join(cell(column, row) for column in columns if column not in long)
        yield "\n" * (place > 0) + _wrapped(short, width)
        for column in long:
            lead = f"{header(column)}:".ljust(name)
            yield _wrapped(f"{lead} {cell(column, row)}", width, "  ", " " * (name + 1))


def check_line(check: Check) -> str:
    """A check in one line: whether it holds, what was claimed, what was found, and what was expected."""
    expected, measured = (exact(v) if isinstance(v, (int, float)) else v for v in (check.expected, check.found))
    wanted = "" if expected is None else f", expected {expected}"
    return visible(f"{'ok' if check.ok else 'FAILED'}: {check.what}: {measured}{wanted}")
