"""The numbers behind a picture as plain rows, for whoever reads a table rather than a drawing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = list[dict[str, Any]]
MOST = 300
"""Rows; of more, evenly spread ones are kept."""


def readable(name: str, tables: Callable[..., Any], numbers: Sequence[Any], more: Mapping[str, Any]) -> Rows:
    """The arguments of a picture's ``tables`` function as rows whose keys say what they are; logarithms stay log10."""
    given = inspect.signature(tables).bind(*numbers, **more).arguments
    rows = _shapes.get(name, _by_layer)(given)
    return rows[:: -(-len(rows) // MOST) or 1]


def _by_layer(given: Mapping[str, Any]) -> Rows:
    """One row a name; every list of as many values is a column, so are those in a mapping and compared lines."""
    lists = [value for value in given.values() if isinstance(value, (list, tuple))]
    if "names" not in given and not lists:
        return []
    names = list(given["names"]) if "names" in given else [*range(1, len(lists[0]) + 1)]
    columns: dict[str, Sequence[Any]] = {"layer" if "names" in given else "number": names}
    for key, value in given.items():
        if key == "compare":
            # a shorter line belongs to the layers next to the output
            columns.update({f"log10 {label}": [None] * (len(names) - len(line)) + list(line) for label, line in value})
        elif isinstance(value, Mapping):
            columns.update({f"log10 {part}": logs for part, logs in value.items()})
        elif isinstance(value, (list, tuple)) and key != "names":
            columns["log10 product" if key == "gains" else key.replace("log10_", "log10 ")] = value
    known = {key: values for key, values in columns.items() if len(values) >= len(names)}
    return [
        dict(zip(known, line, strict=True)) for line in zip(*(v[-len(names) :] for v in known.values()), strict=True)
    ]


def _over_steps(given: Mapping[str, Any]) -> Rows:
    series = list(given.values())[2]
    names = [f"log10 {name}" if given.get("log", True) and not given.get("share") else name for name in given["names"]]
    across = given.get("across", "step")
    return [{across: step, **dict(zip(names, line, strict=True))}
            for step, *line in zip(given["steps"], *series, strict=True)]  # fmt: skip


def _remedies(given: Mapping[str, Any]) -> Rows:
    columns = {"name": "name", "score": "score", "low": "low", "high": "high", "gain": "log10 gain"}
    return [{label: row[key] for key, label in columns.items() if row.get(key) is not None} for row in given["rows"]]


def _curves(given: Mapping[str, Any]) -> Rows:
    return [
        {"name": each["name"], "x": x, "phi": phi, "slope": slope}
        for each in given["curves"]
        for x, phi, slope in list(zip(each["x"], each["phi"], each["slope"], strict=True))[:: len(each["x"]) // 12 or 1]
    ]


def _paths(given: Mapping[str, Any]) -> Rows:
    return [
        {"optimizer": each["optimizer"], "step": step, "w1": point[0], "w2": point[1]}
        for each in given["paths"]
        for step, point in list(enumerate(each["points"]))[:: -(-len(each["points"]) // 40)]
    ]


def _phase(given: Mapping[str, Any]) -> Rows:
    weights, biases, chi = list(given.values())[:3]
    return [
        {"weight_variance": weight, "bias_variance": bias, "chi1": value}
        for bias, line in list(zip(biases, chi, strict=True))[:: len(biases) // 8 or 1]
        for weight, value in list(zip(weights, line, strict=True))[:: len(weights) // 12 or 1]
    ]


_shapes: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
    "speeds": _over_steps, "heat": _over_steps, "remedies": _remedies, "activations": _curves, "paths": _paths,
    "phase": _phase,
}  # fmt: skip
