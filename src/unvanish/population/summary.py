"""A finished sweep in a few lines: what came out in how many networks, a table of points, and a map of two settings."""

from __future__ import annotations

import math
import sqlite3
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unvanish.population.grid import Axis, Grid, described
from unvanish.population.initialisations import VARIANCES
from unvanish.population.names import ACTIVATIONS, is_number
from unvanish.population.store import check_results, reading
from unvanish.records import UnvanishError
from unvanish.report.grid import lines
from unvanish.report.page import NARROWEST
from unvanish.words.numbers import times

SHOWN = 24
"""Points of the table; of more the first and the last half are shown."""
FAULTS = 5
"""Different errors that are told; the file has all."""
WIDEST, TALLEST = 60, 40
"""Places of the map across and up; of more an even choice is shown."""
NO_MAP = "a map needs two settings with lists of numbers in [grid], and this sweep has fewer: save it as .csv"
SIGNS = {"healthy": "·", "vanished": "v", "exploding": "x", "dead": "d", "nonfinite": "!", "": "?"}
TRAINABLE = 6.0
"""Depth scales over which plain networks could still be trained. Source: Schoenholz et al. 2017, section 5."""


def text(file: Path, grid: Grid, width: int | None = None) -> str:
    """The whole summary; ``width``: the columns of the terminal, into which it is fitted; None wraps nothing."""
    with reading(file) as base:
        check_results(file, base)
        head = [each for line in _head(base, grid) for each in _wrapped(line, width)]
        return "\n".join([*head, "", *_table(base, grid, width), *_map(base, grid)])


def _wrapped(line: str, width: int | None) -> list[str]:
    if width is None:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, max(width, NARROWEST), subsequent_indent=indent, break_on_hyphens=False)


def _head(base: sqlite3.Connection, grid: Grid) -> Iterator[str]:
    count = f"{grid.points:,} point{'s' * (grid.points != 1)} × {grid.seeds} seed{'s' * (grid.seeds != 1)}"
    varied = "; ".join(described(grid)) or "nothing varies"
    yield f"{count}: {varied}"
    rows = base.execute("SELECT verdict, COUNT(*) FROM results WHERE error = '' GROUP BY verdict ORDER BY 2 DESC")
    counts = [f"{number:,} {verdict}" for verdict, number in rows]
    (errors,) = base.execute("SELECT COUNT(*) FROM results WHERE error != ''").fetchone()
    yield "Networks: " + ", ".join([*counts, *([f"{errors:,} failed"] if errors else [])])
    query = "SELECT MIN(point), seed, error, COUNT(*) FROM results WHERE error != '' GROUP BY error ORDER BY 1"
    for at, seed, error, often in base.execute(f"{query} LIMIT {FAULTS}"):
        others = f" (and {often - 1:,} more of the same)" if often > 1 else ""
        yield f"  point {at}, seed {seed}: {error.splitlines()[0]}{others}"
    (kinds,) = base.execute("SELECT COUNT(DISTINCT error) FROM results WHERE error != ''").fetchone()
    if kinds > FAULTS:
        yield f"  and {kinds - FAULTS:,} other errors, in the column error of the file"


def _table(base: sqlite3.Connection, grid: Grid, width: int | None) -> list[str]:
    """A line a point: means over the seeds whose signal is not exactly zero, and their spread in decades."""
    names = [f'"{name}"' for name in grid.names]
    means = ("log10_signal_ratio", "predicted_log10_signal_ratio", "log10_transmission", "accuracy")
    ratio = _finite(means[0])
    spread = f"AVG({ratio} * {ratio}) - AVG({ratio}) * AVG({ratio})"
    columns = [f"COALESCE(AVG({_finite(each)}), MIN({each}))" for each in means]
    chosen = ", ".join([*names, *columns, spread, "GROUP_CONCAT(DISTINCT verdict)"])
    half = SHOWN // 2
    where = f"WHERE point < {half} OR point >= {grid.points - half}" if grid.points > SHOWN else ""
    heads = [name.replace("_", " ") for name in grid.names]
    heads += ["signal ratio", "predicted", "transmission", "accuracy", "spread", "verdict"]
    rows: list[list[str]] = []
    for row in base.execute(f"SELECT {chosen} FROM results {where} GROUP BY point"):
        settings, (*factors, accuracy, square, verdicts) = row[: len(names)], row[len(names) :]
        wide = None if grid.seeds < 2 or square is None else math.sqrt(max(square, 0.0))
        outcome = verdicts or "failed"
        named = map(_told, grid.axes, settings)
        rows.append([*named, *map(_factor, factors), _share(accuracy), _share(wide), outcome])
    if grid.points > SHOWN:
        rows.insert(half, [f"⋮ {grid.points - SHOWN:,} more", *[""] * (len(heads) - 1)])
    kept = [at for at in range(len(heads)) if at < len(names) or any(row[at] not in ("–", "") for row in rows)]
    left = [at == len(heads) - 1 for at in kept]
    return lines([[row[at] for at in kept] for row in [heads, *rows]], left, width and max(width, NARROWEST))


def _told(axis: Axis, value: Any) -> str:
    """A value of a list as it stands there, one that was drawn to four digits."""
    return f"{value:.4g}" if isinstance(value, float) and not axis.values else _short(value)


def _finite(name: str) -> str:
    return f"(CASE WHEN ABS({name}) < 1e308 THEN {name} END)"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _factor(log10: float | None) -> str:
    return "–" if log10 is None else times(log10)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def plane(grid: Grid) -> tuple[Axis, Axis] | None:
    """The two settings of a map, across and up: numbers that vary over lists; depth is up, the longest across."""
    usable = [a for a in grid.axes if len(a.values) > 1 and all(is_number(value) for value in a.values)]
    if len(usable) < 2:
        return None
    up = next((a for a in usable if a.name == "depth"), min(usable, key=lambda a: len(a.values)))
    across = max((a for a in usable if a is not up), key=lambda a: len(a.values))
    return across, up


def _map(base: sqlite3.Connection, grid: Grid) -> Iterator[str]:
    axes = plane(grid)
    if axes is None:
        return
    across, up = axes
    columns, levels = _some(across.values, WIDEST), _some(up.values, TALLEST)
    cells = _digits(base, across, up) if grid.train else _signs(base, across, up)
    key = "accuracy in tenths, 9: 0.9 or more" if grid.train else ", ".join(
        f"{sign} {word or 'other'}" for word, sign in SIGNS.items() if sign in cells.values()
    )  # fmt: skip
    yield ""
    yield f"{up.name} up, {across.name} across ({key})"
    names = [_short(value) for value in levels]
    width = max(map(len, names))
    for value, name in reversed(list(zip(levels, names, strict=True))):
        yield f"{name.rjust(width)} {''.join(cells.get((x, value), ' ') for x in columns)}"
    low, high = _short(columns[0]), _short(columns[-1])
    yield " " * (width + 1) + low + " " * max(1, len(columns) - len(low) - len(high)) + high


def _some(values: Sequence[Any], most: int) -> list[Any]:
    ordered = sorted(values)
    count = min(len(ordered), most)
    return [ordered[round(at * (len(ordered) - 1) / max(1, count - 1))] for at in range(count)]


def _signs(base: sqlite3.Connection, across: Axis, up: Axis) -> dict[tuple[Any, Any], str]:
    """The sign of the commonest verdict at each place."""
    query = f'SELECT "{across.name}", "{up.name}", verdict, COUNT(*) FROM results GROUP BY 1, 2, 3 ORDER BY 4'
    return {(x, y): SIGNS.get(verdict or "", "?") for x, y, verdict, _ in base.execute(query)}


def _digits(base: sqlite3.Connection, across: Axis, up: Axis) -> dict[tuple[Any, Any], str]:
    query = f'SELECT "{across.name}", "{up.name}", AVG(accuracy) FROM results GROUP BY 1, 2'
    return {(x, y): "?" if share is None else str(min(9, int(10 * share))) for x, y, share in base.execute(query)}


def chart(file: Path, grid: Grid) -> Any:
    """The map as a picture: the error signal that arrives, or the accuracy, with the predicted limit of training."""
    from unvanish.charts import draw
    from unvanish.charts.map import tables

    axes = plane(grid)
    if axes is None:
        raise UnvanishError(NO_MAP)
    across, up = axes
    xs, ys = sorted(across.values), sorted(up.values)
    value = "AVG(accuracy)" if grid.train else "AVG(log10_signal_ratio)"
    query = f'SELECT "{across.name}", "{up.name}", {value} FROM results GROUP BY 1, 2'
    with reading(file) as base:
        results = {(x, y): value for x, y, value in base.execute(query)}
    values = [[results.get((x, y)) for x in xs] for y in ys]
    quantity = "accuracy" if grid.train else "error signal, first layer over last"
    what = "what they learn" if grid.train else "how much of the signal arrives"
    title = f"{', '.join(_kind(grid)) or 'networks'}: {what}"
    names = (axis.name.replace("_", " ") for axis in axes)
    drawn = tables(
        xs, ys, values, across=next(names), up=next(names), quantity=quantity, line=limit(grid, across, up),
        line_name=f"{TRAINABLE:g} depth scales (predicted)", share=grid.train,
    )  # fmt: skip
    return draw("map", drawn, title=title)


def _kind(grid: Grid) -> list[str]:
    return [str(value) for name, value in grid.fixed.items() if name in ("activation", "init", "norm")]


def limit(grid: Grid, across: Axis, up: Axis) -> list[tuple[float, float]]:
    """(σ_w², six depth scales) along the map of plain networks over weight variance and depth; else nothing."""
    from unvanish.theory import activation
    from unvanish.theory.meanfield import fixed_point

    varied = set(grid.names) - {across.name, up.name}
    plain = grid.fixed.get("norm", "none") == "none" and not grid.fixed.get("skip") and not varied
    named = (across.name, up.name) == ("weight_variance", "depth")
    if not (plain and named and grid.fixed.get("init", VARIANCES[0]) == VARIANCES[0]):
        return []
    phi = activation(ACTIVATIONS[grid.fixed.get("activation", "tanh")].name)
    low, high = min(across.values), max(across.values)
    points = []
    for at in range(200):
        weight = low + (high - low) * at / 199
        scale = fixed_point(phi, weight, float(grid.fixed.get("bias_variance", 0.0))).depth_scale
        points.append((weight, TRAINABLE * scale))
    return points
