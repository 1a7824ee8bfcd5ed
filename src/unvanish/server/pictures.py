"""A picture as a page draws it: the tables that change when numbers change, beside a drawing that stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unvanish.charts import WIDTH
from unvanish.lab.outcome import Drawing
from unvanish.records import to_builtins

MARGINS = ("left", "right", "top", "bottom")
PIXELS = (300, 1000)
"""The least and the most width of a picture that a page may ask for."""


def pixels(text: str) -> int:
    """The width that a page asks for, within what a picture takes; the usual one where it is no number."""
    low, high = PIXELS
    return min(max(int(text), low), high) if text.isascii() and text.isdigit() and len(text) < 9 else WIDTH


def picture(drawing: Drawing) -> dict[str, Any]:
    """What changes when numbers change: the tables, the size, and the parameters of the drawing."""
    tables = {name: rows for name, rows in drawing.tables.items() if name != "frame"}
    return {
        "name": drawing.name, "title": drawing.title, "description": drawing.description, "tables": tables,
        "size": _size(drawing.tables.get("frame") or [{}]), "data": to_builtins(drawing.replace(tables={}))["data"],
    }  # fmt: skip


def _size(frame: list[dict[str, Any]]) -> dict[str, Any]:
    """Width and height of the plot, the margins around it, and the parameters, as the drawing has them."""
    row: Mapping[str, Any] = frame[0]
    margins = {side: row[side] for side in MARGINS} if "left" in row else {}
    width, height = row.get("width"), row.get("height")
    if margins:
        width, height = row["width"] - row["left"] - row["right"], row["height"] - row["top"] - row["bottom"]
    parameters = {name: value for name, value in row.items() if name not in ("width", "height", *MARGINS)}
    return {"width": width, "height": height, "padding": margins or None, "parameters": parameters}
