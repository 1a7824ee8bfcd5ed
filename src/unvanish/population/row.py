"""What is written of one network of a sweep."""

from __future__ import annotations

from typing import Any

RESULTS = (
    "log10_signal_ratio", "predicted_log10_signal_ratio", "log10_gain", "log10_transmission",
    "log10_lowest_transmission", "log10_rise", "verdict", "accuracy", "training_loss", "log10_speeds", "error",
)  # fmt: skip
"""What is written of each point and seed behind its number, its seed and its settings."""
Row = tuple[Any, ...]


def failed(error: BaseException | str) -> Row:
    """The row of a point that raised."""
    message = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return (*[None] * (len(RESULTS) - 1), message.strip() or "it failed")
