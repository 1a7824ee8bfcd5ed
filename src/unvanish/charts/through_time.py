"""How far back does the error signal reach: its size at each step of a sequence, beside that of the last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unvanish.charts import WIDTH, Tables, picture, speeds
from unvanish.charts.labels import Spot, row
from unvanish.charts.theme import token

Numbers = Sequence[float | None]
LIMIT = "a thousandth"


@picture("through_time", "How far back in time does the signal reach?", tables=("lines", "ends", "leaders", "labels"))
def template() -> Any:
    return speeds.template()


def tables(
    at: Sequence[int], names: Sequence[str], log10_signal: Sequence[Numbers], limit: float, *, width: float = WIDTH
) -> Tables:
    """The columns of the picture: per line the log10 signal at the steps ``at``, the first step first.

    None is a gap (too small for its number type), -inf exactly zero; ``limit`` is the log10 drawn as a dashed line.
    """
    made = speeds.tables(
        at, names, log10_signal, quantity="error signal beside the last steps", across="step", width=width
    )
    frame = made["frame"][0]
    if frame["y_low"] < limit < frame["y_high"]:
        ends = enumerate((frame["x_low"], frame["x_high"]))
        look = {"line": "limit", "color": token("mut"), "dash": [5, 4]}
        made["lines"] += [{"x": x, "y": limit, "order": order, **look} for order, x in ends]
        height = frame["height"] - frame["top"] - frame["bottom"]
        y = (frame["y_high"] - limit) / (frame["y_high"] - frame["y_low"]) * height
        made["labels"].append(row(LIMIT, Spot(6, y - 9), "mut"))
    return made


def example(width: float) -> Tables:
    """An LSTM of 200 steps at torch's default initialisation, about: 0.2 decades a step at the inputs and the state."""
    steps = range(0, 200, 2)
    inputs = [-0.195 * (199 - step) - 0.4 * (step < 198) for step in steps]
    return tables(
        list(steps), ["at the inputs", "at the state"], [inputs, [-0.193 * (199 - s) for s in steps]], -3.0, width=width
    )
