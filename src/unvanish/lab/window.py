"""For which inputs one sigmoid layer does not diminish the gradient; a part of ``lab unstable``."""

from __future__ import annotations

from unvanish.lab import Check, Column, Outcome, Progress, Settings
from unvanish.theory.window import widest_window, window_width

WIDEST = (6.89415103227293, 0.447743204694303)
"""|w| and width of the widest window, from arithmetic with 60 digits."""


def window(s: Settings, progress: Progress) -> Outcome:
    """The width of the window by formula, and counted on a grid, for each size of the weight."""
    best, width = widest_window()
    rows = [{"weight": w, "width": window_width(w), "width_found": _width_counted(w)} for w in s.weight]
    off = max(abs(row["width"] - row["width_found"]) for row in rows)
    return Outcome(
        sentence=(
            "A sigmoid layer passes the gradient on undiminished only for |w| ≥ 4, and then for inputs in an interval"
            f" of at most {width:.6f}, reached at |w| = {best:.3f}."
        ),
        columns=(
            Column("weight", help="|w|"),
            Column("width", help="of the interval of inputs a with |w·σ′(w·a + b)| ≥ 1, whatever b"),
            Column("width_found", help="the same, counted on a fine grid of inputs"),
        ),
        rows=tuple(rows),
        checks=(
            Check.close("widest window", WIDEST[1], width, 1e-12),
            Check.close("its |w|", WIDEST[0], best, 1e-6),
            Check("formula against counting, largest difference", 0.0, off, off < 1e-4),
        ),
    )


def _width_counted(weight: float) -> float:
    import numpy as np

    from unvanish.theory import activation

    # with |w| ≥ 4 the window is never wider than 0.448, so that [-1/2, 1/2] around the steepest input holds it
    inputs = np.linspace(-0.5, 0.5, 100_001)
    return float((np.abs(weight) * activation("sigmoid").slope(weight * inputs) >= 1).mean())
