"""The axis along the layers: their names as long as there is room, upright in a longer network, then their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unvanish.charts.labels import Spot, row
from unvanish.charts.layout import Frame, whole
from unvanish.charts.measure import common_start, shorten, shorten_all, text_width

UPRIGHT_SLOT = 13.5
"""Pixels a layer needs for its name to stand upright."""
LONGEST = 110
SHORTEST_FLAT = 64
"""Pixels: a flat name is shortened to no less than this; before that, names stand upright."""
BELOW_NUMBERS, TITLE_ROOM = 22, 18


@dataclass(frozen=True)
class LayerAxis:
    """How the layers are named below a plot, and how much room that takes.

    ``common`` is what all names begin with where that was cut off; ``named``: every layer stands there by name.
    """

    style: str
    names: tuple[str, ...]
    bottom: float
    common: str = ""

    @property
    def named(self) -> bool:
        return self.style != "numbers"

    def ticks(self, room: float) -> tuple[list[float], list[str]]:
        """The ticks of the axis and their names; none where the names are drawn upright as labels."""
        if self.style == "upright":
            return [], []
        if self.style == "flat":
            return [float(place) for place in range(1, len(self.names) + 1)], list(self.names)
        return whole(len(self.names), room)

    def labels(self, frame: Frame) -> list[dict[str, Any]]:
        """The upright names, and below them what the axis shows."""
        foot = frame.plot_height
        upright = [
            row(name, Spot(frame.x(place), foot + 8, "right"), "mut", angle=-90)
            for place, name in enumerate(self.names, 1)
            if self.style == "upright"
        ]
        title = f"layer{self.common}, from the input to the output" if self.named else "layer (1 = next to the input)"
        middle = Spot(frame.plot_width / 2, foot + self.bottom - 10, "center")
        return [*upright, row(title, middle, "mut")]


def layer_axis(names: Sequence[str], room: float) -> LayerAxis:
    """The axis for these layers on ``room`` pixels."""
    slot = room / max(len(names), 1)
    longest = max((text_width(name) for name in names), default=0.0)
    if longest <= slot - 8 or slot - 8 >= SHORTEST_FLAT:
        style, most, bottom = "flat", slot - 8, BELOW_NUMBERS
    elif slot >= UPRIGHT_SLOT:
        style, most, bottom = "upright", LONGEST, 14.0
    else:
        return LayerAxis("numbers", tuple(names), BELOW_NUMBERS + TITLE_ROOM)
    short = shorten_all(names, most)
    if style == "upright":
        bottom += max(map(text_width, short))
    start = common_start(names) if longest > most else ""
    common = f" of {shorten(start.rstrip('.'), room * 0.3)}" if start else ""
    return LayerAxis(style, short, bottom + TITLE_ROOM, common)
