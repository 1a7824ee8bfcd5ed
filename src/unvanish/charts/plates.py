"""Plates: the ground behind labels that stand on colours or lines, so that they can be read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unvanish.charts import Row
from unvanish.charts.labels import Spot, box
from unvanish.charts.layout import Frame
from unvanish.charts.theme import token


def back(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """The numbers that stand at a place in pixels from the upper left corner of the plot."""
    across = frame.x_low + x / frame.plot_width * (frame.x_high - frame.x_low)
    return across, frame.y_high - y / frame.plot_height * (frame.y_high - frame.y_low)


def plates(labels: Iterable[Row], frame: Frame) -> list[Row]:
    """A rectangle behind each label, in the numbers of the axes: the rows of the table "plates"."""
    plate_rows: list[Row] = []
    for label in labels:
        spot = Spot(label["px"], label["py"], label["align"])
        room = box(label["text"], spot, bold=label["weight"] == "bold")
        left, top = back(frame, room.left, room.top)
        right, bottom = back(frame, room.right, room.bottom)
        plate_rows.append({"x": left, "x2": right, "y": top, "y2": bottom})
    return plate_rows


def layer(x: Any, y: Any) -> Any:
    """The Altair part that draws the table "plates"."""
    import altair as alt

    mark = alt.Chart(alt.NamedData("plates")).mark_rect(fill=token("bg"), opacity=0.9, cornerRadius=3)
    return mark.encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
