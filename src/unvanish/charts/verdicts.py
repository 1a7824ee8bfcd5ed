"""How a layer's verdict looks: a shape and a colour, and the word itself above the layers it holds for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from unvanish.charts.labels import Label, Spot
from unvanish.charts.layout import Frame
from unvanish.charts.measure import text_width
from unvanish.charts.theme import token


class Look(NamedTuple):
    """A Vega symbol, the colour token of its outline, and whether it is filled."""

    shape: str
    color: str
    filled: bool


LOOKS: dict[str, Look] = {
    "healthy": Look("circle", "mut", False),
    "vanished": Look("triangle-down", "down", True),
    "exploding": Look("triangle-up", "up", True),
    "dead": Look("cross", "up", True),
    "gated": Look("triangle-right", "vio", True),
    "saddle": Look("diamond", "vio", False),
    "no_signal": Look("cross", "acc", False),
    "converged": Look("circle", "ok", True),
    "plateau": Look("square", "acc", False),
    "underflow": Look("triangle-down", "acc", False),
    "frozen": Look("square", "mut", True),
    "unused": Look("triangle-right", "mut", False),
    "nonfinite": Look("diamond", "up", True),
    "undecided": Look("triangle-left", "mut", False),
    "not_asked": Look("triangle-left", "mut", True),
}
"""No two look the same without their colour."""
UNKNOWN = Look("circle", "down", False)


def look(verdict: str | None) -> Look:
    return LOOKS.get(verdict or "", UNKNOWN)


def symbol(verdict: str | None) -> dict[str, Any]:
    """The columns of a point that shows a verdict."""
    shape, color, filled = look(verdict)
    return {"shape": shape, "stroke": token(color), "fill": token(color if filled else "bg")}


def runs(verdicts: Sequence[str]) -> list[tuple[str, int, int]]:
    """(verdict, first, last) of neighbouring layers that share one; layers are counted from 1."""
    stretches: list[tuple[str, int, int]] = []
    for word, group in groupby(enumerate(verdicts, 1), key=lambda each: each[1]):
        places = [place for place, _ in group]
        stretches.append((word, places[0], places[-1]))
    return stretches


def strip(verdicts: Sequence[str], frame: Frame) -> tuple[list[dict[str, Any]], list[Label]]:
    """The bars above the plot, one a run of equal verdicts, and the words that may stand above them.

    The widest run of every verdict comes first, so that each word is said at least once where there is room.
    """
    stretches = runs(verdicts)
    inset = min(0.12, 1.5 * (frame.x_high - frame.x_low) / frame.plot_width)
    bars = [
        {"x": first - 0.5 + inset, "x2": last + 0.5 - inset, "color": token(look(word).color)}
        for word, first, last in stretches
    ]
    widest = sorted(stretches, key=lambda run: run[1] - run[2])
    leading = {word: (word, first, last) for word, first, last in reversed(widest)}
    order = sorted(leading.values(), key=widest.index) + [run for run in widest if run != leading[run[0]]]
    labels = [_word(run, frame, must=run == leading[run[0]]) for run in order]
    return bars, [label for label in labels if label is not None]


def _word(run: tuple[str, int, int], frame: Frame, must: bool) -> Label | None:
    verdict, first, last = run
    text = verdict.replace("_", " ")
    left, right = frame.x(first - 0.5), frame.x(last + 0.5)
    if not must and text_width(text, bold=True) > right - left:
        return None
    middle = (left + right) / 2
    spots = [
        spot
        for height in (-13.0, -28.0)
        for spot in (Spot(middle, height, "center"), Spot(left, height), Spot(right, height, "right"))
    ]
    # a run too narrow for a word of its own borrows the room beside it; the colour tells whose word it is
    spots += [Spot(left + side * away, -13.0, "center") for away in (40, 60, 90, 130) for side in (1, -1)]
    return Label(text, tuple(spots), look(verdict).color, bold=True)
