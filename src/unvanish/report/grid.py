"""A table as lines of plain text that fit a width: headers and words are wrapped, then the columns are split up."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
HEADER_LINES = 3
"""Lines that a header may take: beyond that the column is made wider instead."""
LEAST_WORDS = 16
"""Cells that a column of words keeps at least; else it takes up to a third of the width."""
MOST_KEYS = 3
"""Columns that are repeated in front of each part of a table at most."""

Line = Sequence[str]


def lines(grid: Sequence[Line], left: Sequence[bool], width: int | None) -> list[str]:
    """The header ``grid[0]`` and the rows below it as lines of at most ``width`` characters; None: as wide as need be.

    ``left``: which columns are set to the left, the others to the right. What finds no room even with its headers and
    words wrapped stands in further tables below, which begin with the columns that tell the rows apart; an empty
    column is left out there.
    """
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    if width is None or _total(widths) <= width:
        return _block(grid, left, widths)
    told = [place for place, column in enumerate(zip(*grid[1:], strict=True)) if any(column) or not place]
    grid, left = [[row[place] for place in told] for row in grid], [left[place] for place in told]
    words = [max(LEAST_WORDS, width // 3) if is_left else width for is_left in left]
    columns = zip(*grid, strict=True)
    narrow = [min(_narrowest(column, most), width) for column, most in zip(columns, words, strict=True)]
    made: list[str] = []
    for places in _split(narrow, width, _keys(grid, narrow, width)):
        block = [[row[place] for place in places] for row in grid]
        drawn = _block(block, [left[place] for place in places], [narrow[place] for place in places])
        made += ["", *drawn] if made else drawn
    return made


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _narrowest(column: Line, most: int) -> int:
    """The width of a column whose cells take at most ``most`` and whose header takes few lines."""
    head, *cells = column
    room = min(max(map(len, cells), default=1), most)
    room = max(room, min(max(map(len, head.split()), default=1), most))
    while room < len(head) and len(textwrap.wrap(head, room)) > HEADER_LINES:
        room += 1
    return room


def _keys(grid: Sequence[Line], widths: Sequence[int], width: int) -> int:
    """How many columns tell the rows apart, where those take at most half of the width; else the first has to do."""
    for count in range(1, min(MOST_KEYS, len(widths)) + 1):
        if 2 * _total(widths[:count]) <= width and len({tuple(row[:count]) for row in grid}) == len(grid):
            return count
    return 1


def _split(widths: Sequence[int], width: int, keys: int) -> list[list[int]]:
    """The places of the columns of each table: as many as fit, the ``keys`` first ones in front of each."""
    first = list(range(keys))
    blocks = [list(first)]
    for place in range(keys, len(widths)):
        if len(blocks[-1]) > keys and _total([widths[each] for each in (*blocks[-1], place)]) > width:
            blocks.append(list(first))
        blocks[-1].append(place)
    return blocks


def _block(grid: Sequence[Line], left: Sequence[bool], widths: Sequence[int]) -> list[str]:
    """The lines of one table: the last line of a header stands over its cells, the first of a cell in its row."""
    made: list[str] = []
    for number, row in enumerate(grid):
        cells = [textwrap.wrap(text, room) or [""] for text, room in zip(row, widths, strict=True)]
        height = max(map(len, cells))
        for cell in cells:
            blank = [""] * (height - len(cell))
            cell[:] = blank + cell if number == 0 else cell + blank
        for line in zip(*cells, strict=True):
            placed = zip(line, widths, left, strict=True)
            set_ = [text.ljust(room) if is_left else text.rjust(room) for text, room, is_left in placed]
            made.append(GAP.join(set_).rstrip())
    return made
