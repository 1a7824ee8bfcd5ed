"""Run files made of plain numbers, for tests of what reads them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from unvanish.records import Finding
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Column, Sample

SETTING = {
    "model": "Net", "parameters": 300, "batch_size": 4, "dtype": "float32", "device": "cpu", "mode": "train",
    "effort": "live", "seed": 0,
}  # fmt: skip
Change = Callable[[int, dict[int, list[float]], dict[str, float]], None]
FALL = -0.5
"""Decades of the error signal from one layer to the layer before it."""


def begun(path: Path, names: Sequence[str] = ("in", "mid", "out"), every: int = 1, **facts: object) -> RunFile:
    """A run that has just begun."""
    file = RunFile(path, {"every": every, "setting": SETTING} | facts)
    file.layers([Column(name, "Linear", 100) for name in names])
    order = list(range(len(names)))
    file.fact(order=order, groups=[order])
    return file


def stepped(file: RunFile, step: int, chance: random.Random, change: Change | None = None) -> None:
    """One more sampled step: a signal that falls by half a decade a layer, and a loss that falls to a tenth."""
    layers = file.columns
    rows = {
        at: [FALL * (layers - 1 - at) - 1.0, -2.0 + chance.gauss(0.0, 0.05), 0.5, 1e-3, 0.1, 0.0, 0.0]
        for at in range(layers)
    }
    series = {"loss": 10.0 ** (-step / 100.0), "learning_rate": 0.1, "log10_grad_norm": -1.0,
              "log10_grad_norm_clipped": -1.5}  # fmt: skip
    if change is not None:
        change(step, rows, series)
    file.sample(Sample(step, {at: tuple(row) for at, row in rows.items()}, series))


def made(
    path: Path, steps: int = 100, change: Change | None = None, *, names: Sequence[str] = ("in", "mid", "out"),
    every: int = 1, seed: int = 0, end: bool = True,
) -> RunFile:  # fmt: skip
    """A whole run; ``end``: whether its file was closed."""
    file, chance = begun(path, names, every), random.Random(seed)
    for step in range(0, steps * every, every):
        stepped(file, step, chance, change)
    if end:
        file.close(steps=steps * every)
    else:
        file.flush()
    return file


def vanished(layer: str = "in") -> Finding:
    """A finding of level error, as a training that is watched has it."""
    return Finding(code="UV101", verdict="vanished", level="error", layers=(layer,), message=f"{layer} hardly learns.")
