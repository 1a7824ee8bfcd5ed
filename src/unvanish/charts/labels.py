"""Where labels stand: worked out from boxes before anything is drawn, so that no two of them touch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from unvanish.charts.measure import text_width
from unvanish.charts.theme import SIZE, token

HALF = 7.0
"""Half the height of a line of text, in pixels."""
GAP = 2.0


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area two boxes have in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across * down if across > 0 and down > 0 else 0.0

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left and self.right <= other.right
            and self.top >= other.top and self.bottom <= other.bottom
        )  # fmt: skip


class Spot(NamedTuple):
    """A place for a label: its anchor in pixels from the upper left corner of the plot, and which side it starts at."""

    x: float
    y: float
    align: str = "left"


@dataclass(frozen=True)
class Label:
    """A text, the places it may stand at, the best first, and how it looks.

    ``needed``: it is drawn in any case. ``clear``: it is drawn only where it covers no mark.
    """

    text: str
    spots: tuple[Spot, ...]
    color: str = "fg"
    bold: bool = False
    needed: bool = False
    clear: bool = False


def box(text: str, spot: Spot, *, bold: bool = False) -> Box:
    """The room a label takes at that place."""
    width = text_width(text, SIZE, bold=bold)
    left = spot.x - {"left": 0.0, "center": width / 2, "right": width}[spot.align]
    return Box(left - GAP, spot.y - HALF, left + width + GAP, spot.y + HALF)


def place(
    labels: Iterable[Label], marks: Sequence[Box], bounds: Box, taken: Iterable[Box] = ()
) -> list[dict[str, Any]]:
    """The rows of the labels that found room, in order of importance.

    A label never touches one placed before it, nor leaves the bounds (a centred one slides along to stay inside). Among
    the places left it takes the one where it covers least of the marks, and the earlier of equals. A label without room
    is left out, unless it is needed: that one then stands where it covers least.
    """
    full = list(taken)
    rows: list[dict[str, Any]] = []
    for label in labels:
        best: tuple[float, Spot, Box] | None = None
        for wanted in label.spots:
            spot = slid(label.text, wanted, bounds, bold=label.bold)
            room = box(label.text, spot, bold=label.bold)
            clash = sum(room.shared(each) for each in full) + (0.0 if room.inside(bounds) else room.right - room.left)
            if clash and not label.needed:
                continue
            left, top, right, bottom = room
            near = [m for m in marks if m[0] < right and m[2] > left and m[1] < bottom and m[3] > top]
            cost = 1e3 * clash + sum(room.shared(each) for each in near)
            if cost and label.clear:
                continue
            if best is None or cost < best[0] - 1e-9:
                best = (cost, spot, room)
                if cost == 0:
                    break
        if best is not None:
            full.append(best[2])
            rows.append(row(label.text, best[1], label.color, bold=label.bold))
    return rows


def slid(text: str, spot: Spot, bounds: Box, *, bold: bool = False) -> Spot:
    """The place of a centred text moved along its line as far as it takes to stay inside the bounds."""
    if spot.align != "center":
        return spot
    half = text_width(text, SIZE, bold=bold) / 2 + GAP
    return spot._replace(x=max(bounds.left + half, min(spot.x, bounds.right - half)))


def row(text: str, spot: Spot, color: str = "fg", *, bold: bool = False, angle: float = 0) -> dict[str, Any]:
    """A label as a row of the table that ``layout.words`` draws."""
    return {
        "text": text, "px": round(spot.x, 1), "py": round(spot.y, 1), "align": spot.align, "angle": angle,
        "color": token(color), "weight": "bold" if bold else "normal",
    }  # fmt: skip


def around(x: float, y: float, reach: float = 9.0) -> tuple[Spot, ...]:
    """The places beside a point: right, left, above, below, and between."""
    side, slant = reach, reach * 0.75
    return (
        Spot(x + side, y), Spot(x - side, y, "right"), Spot(x, y - reach - 5, "center"),
        Spot(x, y + reach + 5, "center"), Spot(x + slant, y - slant - 3), Spot(x + slant, y + slant + 3),
        Spot(x - slant, y - slant - 3, "right"), Spot(x - slant, y + slant + 3, "right"),
    )  # fmt: skip


def between(corners: Iterable[tuple[float, float]], apart: float = 6) -> Iterator[tuple[float, float]]:
    """The pixels of a line through these corners, at most so far apart in each direction."""
    for (x, y), (x2, y2) in pairwise(corners):
        count = max(1, math.ceil(max(abs(x2 - x), abs(y2 - y)) / apart))
        for at in range(count + 1):
            yield x + (x2 - x) * at / count, y + (y2 - y) * at / count


def along(corners: Iterable[tuple[float, float]], pen: float = 3) -> list[Box]:
    """Small boxes along a line through these pixels, which labels should keep off."""
    return [Box(x - pen, y - pen, x + pen, y + pen) for x, y in between(corners)]


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """The places moved as little as needed to stand ``apart`` from each other between ``low`` and ``high``.

    Their order stays. Where there is not enough room they share it evenly.
    """
    if len(places) > 1:
        apart = min(apart, (high - low) / (len(places) - 1))
    order = sorted(range(len(places)), key=places.__getitem__)
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        # in coordinates where touching labels coincide, the least movement is an isotonic regression
        blocks.append([places[index] - rank * apart, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, weight = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + value * weight) / (before[1] + weight)
            before[1] += weight
    moved = [0.0] * len(places)
    flat = [value for value, weight in blocks for _ in range(int(weight))]
    last = high - (len(places) - 1) * apart
    for rank, index in enumerate(order):
        moved[index] = min(max(flat[rank], low), last) + rank * apart
    return moved
